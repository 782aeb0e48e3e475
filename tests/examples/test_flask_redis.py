"""A web application from PyPI and the distribution's redis-server in one env, talking over its localhost."""

import json

import pytest

from tests.daemons import Daemon
from tests.require import require


@pytest.fixture(scope="module")
def directory(project):
    require("redis-server", "redis-cli")
    return project("flask-redis")


def visits(daemon: Daemon, name: str) -> int:
    """What one more visit answers."""
    status, body = daemon.request(name)
    assert status == 200, body
    answer = json.loads(body)
    assert answer["env"] == name
    return int(answer["visits"])


def test_the_application_finds_its_redis(shared_daemon: Daemon, directory) -> None:
    shared_daemon.sandbox("up", directory)
    assert [visits(shared_daemon, "flask-redis") for _ in range(3)] == [1, 2, 3]
    asked = shared_daemon.sandbox("exec", "flask-redis", "--", "redis-cli", "get", "visits")
    assert asked.stdout.strip().strip('"') == "3"
    (env,) = json.loads(shared_daemon.sandbox("inspect", "flask-redis").stdout)
    services = {service["name"]: (service["state"], service["port"]) for service in env["services"]}
    assert services == {"web": ("ready", 5000), "db": ("ready", 6379)}
    # By HTTP the database is not to be had: it is reached over TCP only where that was published.
    assert shared_daemon.request("db.flask-redis")[0] == 404
    shared_daemon.sandbox("down", directory)


def test_two_of_them_share_nothing(shared_daemon: Daemon, directory) -> None:
    for name in ("left", "right"):
        shared_daemon.sandbox("up", "--name", name, directory)
    assert [visits(shared_daemon, "left") for _ in range(2)] == [1, 2]
    assert visits(shared_daemon, "right") == 1
    for name in ("left", "right"):
        shared_daemon.sandbox("rm", "-f", name)
