"""Envs on demand, by a real daemon and router: templates, keys found in requests, one env for each key, and their end.

So of sandboxd.daemon.demand, sandboxd.daemon.templates, sandboxd.daemon.making, sandboxd.router.doors and sandboxd.cli.demand.
"""

import http.client
import threading

import pytest

from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Lifecycle, OnDemand, Service, Workspace
from tests.daemon.asking import ENVIRON, remove
from tests.daemons import PATIENCE

# Says who it is and what it was asked for; one answer per connection, and no time lost with imports.
ECHO = """
import os, socket
server = socket.create_server(("127.0.0.1", 3000), backlog=1000)
while True:
    client, _ = server.accept()
    with client:
        head = client.recv(65536).decode()
        body = "\\n".join([os.uname().nodename, head]).encode()
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
"""


def template(name, *, path=None, command=("python3", "-S", "-c", ECHO), lifecycle=None, **on_demand):
    return EnvSpec(
        name=name,
        services={"web": Service(command=list(command), port=3000)},
        workspace=Workspace(path=str(path) if path else None),
        lifecycle=lifecycle or Lifecycle(),
        on_demand=OnDemand(**on_demand),
    )


def register(client, *args, **parts):
    return client.call(m.Register(spec=template(*args, **parts), environ=ENVIRON)).template


def unregister(client, name):
    return client.call(m.Unregister(name=name, force=True)).removed


class Answer:
    """An answer: `env` is who gave it."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read().decode()
        self.env = self.body.partition("\n")[0]
        self.cookie = (self.headers["Set-Cookie"] or "").partition(";")[0]


def ask(daemon, host, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=2 * PATIENCE)
    try:
        connection.request(
            "GET", path, None, {"Host": f"{host}.localhost", **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        return Answer(connection.getresponse())
    finally:
        connection.close()


def at_once(count, action):
    """Do it from that many threads; what each gave."""
    found, errors = [], []

    def one(number):
        try:
            found.append(action(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    assert not errors, errors[0]
    assert len(found) == count
    return found


def made(client, name):
    return client.call(m.List(all=True, filters=[f"template={name}"])).envs


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def test_a_cookie_is_handed_out_and_finds_its_env_again(shared_daemon, client):
    register(client, "shop", key="cookie")
    first = ask(shared_daemon, "shop")
    assert first.status == 200
    assert first.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    again = ask(shared_daemon, "shop", Cookie=f"theme=dark; {first.cookie}")
    assert (again.env, again.headers["Set-Cookie"]) == (first.env, None)
    other = ask(shared_daemon, "shop")
    assert other.env != first.env
    envs = made(client, "shop")
    assert {env.name for env in envs} == {first.env, other.env}
    assert all(env.key.startswith("cookie:") and env.name.startswith("shop-") for env in envs)
    assert {env.key.removeprefix("cookie:") for env in envs} == {c.cookie.partition("=")[2][:32] for c in (first, other)}
    unregister(client, "shop")
    assert made(client, "shop") == []


def test_a_forged_cookie_is_none(shared_daemon, client):
    register(client, "forged", key="cookie")
    real = ask(shared_daemon, "forged")
    name, _, value = real.cookie.partition("=")
    session, _, mac = value.partition(".")
    for text in (f"{session}.{'0' * 32}", f"{'0' * 32}.{mac}", session, f"{session}.", "", value.upper(), value + "0"):
        answer = ask(shared_daemon, "forged", Cookie=f"{name}={text}")
        assert answer.status == 200
        assert answer.env != real.env
        assert answer.cookie.startswith(f"{name}=")
        remove(client, answer.env)
    register(client, "others", key="cookie")  # a cookie of one template says nothing to another
    assert ask(shared_daemon, "others", Cookie=f"sandboxd-others={value}").cookie
    for name in ("forged", "others"):
        unregister(client, name)


def test_a_thousand_first_requests_of_one_key_make_one_env(shared_daemon, client):
    register(client, "one", key="host", create=True)
    answers = at_once(100, lambda number: ask(shared_daemon, "a.one"))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.env for answer in answers}) == 1
    assert [env.key for env in made(client, "one")] == ["host:a"]
    unregister(client, "one")
