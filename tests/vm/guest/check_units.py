"""The daemon as a unit of its user's manager, the envs and the router in scopes of their own: what survives what."""

import os
import socket
from pathlib import Path

VARIANTS = ("systemd",)
UNIT = "sandboxd.service"


def main_pid(host) -> int:
    return int(host.show(UNIT, "MainPID"))


def test_the_daemon_is_a_unit_and_the_envs_survive_it(host) -> None:
    before = host.serve("shop")
    # Each part where it belongs.
    status = host.json("daemon", "status")
    assert main_pid(host) == status["pid"]
    assert host.cgroup(status["pid"]).endswith("/sandboxd.slice/sandboxd.service")
    host.until(lambda: host.show(UNIT, "StatusText").startswith("1 envs alive"), "a status line that counts the env")
    launcher = host.cgroup(status["launcher_pid"])
    assert "/sandboxd.slice/sandboxd-envs.slice/sandboxd-envs-" in launcher
    scope = next(part for part in launcher.split("/") if part.endswith(".scope"))
    assert host.show(scope, "Delegate") == "yes"
    assert os.access("/sys/fs/cgroup" + launcher[: launcher.index(scope)] + scope + "/cgroup.procs", os.W_OK)
    assert "/sandboxd.slice/sandboxd-router-" in host.cgroup(status["router_pid"])
    assert scope in host.cgroup(before["services"][0]["pid"])
    assert host.fetch("shop") == 200

    # A crash: the manager starts the next one, which adopts the env. The router serves meanwhile.
    host.systemctl("kill", "-s", "KILL", UNIT)
    assert host.fetch("shop") == 200
    host.until(lambda: main_pid(host) not in (0, status["pid"]), "a new daemon")
    assert host.fetch("shop") == 200
    same(before, host.inspect("shop"))

    # An orderly restart, with requests throughout; who asks the daemon meanwhile waits in the queue of its kept listener.
    crashed = main_pid(host)
    host.systemctl("restart", "--no-block", UNIT)
    while host.show(UNIT, "ActiveState") != "active" or main_pid(host) == crashed:
        assert host.fetch("shop") == 200
        assert host.answers()
    assert host.fetch("shop") == 200
    same(before, host.inspect("shop"))

    # A stopped unit leaves them, too, and the next command starts a daemon which finds them.
    host.systemctl("stop", UNIT)
    assert host.fetch("shop") == 200
    same(before, host.inspect("shop"))
    assert host.json("daemon", "status")["router_pid"] == status["router_pid"]

    # `stop --all` ends every unit of ours.
    host.sandbox("rm", "-f", "shop")
    host.sandbox("daemon", "stop", "--all")
    host.until(lambda: not host.units(), "no unit left")


def same(before, after) -> None:
    """The very process, adopted."""
    assert after["state"] == "ready"
    assert after["services"][0]["pid"] == before["services"][0]["pid"]


def test_a_daemon_that_cannot_start_says_why(host) -> None:
    """Its own error, over the FIFO; and the manager does not try again and again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environ = {**os.environ, "SANDBOXD_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}"}
        done = host.sandbox("ps", check=False, env=environ)
    assert done.returncode == 125, done
    assert "cannot listen on" in done.stderr
    assert host.units() == []
    assert not (host.state / "starting").exists()


def test_a_directory_of_its_own_is_no_unit(host) -> None:
    environ = {**os.environ, "SANDBOXD_DIR": str(Path.home() / "own"), "SANDBOXD_LISTEN": "127.0.0.1:0"}
    host.sandbox("run", "-d", "--name", "mine", "--", "sleep", "1000", env=environ)
    try:
        assert UNIT not in host.units()
        assert any(unit.startswith("sandboxd-envs-") for unit in host.units())
    finally:
        host.sandbox("daemon", "stop", "--all", env=environ)
    host.until(lambda: not host.units(), "no unit left")
