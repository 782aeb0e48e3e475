"""The system's unit: root's daemon, hardened, its router on port 80 by socket activation, envs that survive it."""

from pathlib import Path

VARIANTS = ("root",)
UNIT = "sandboxd.service"
EXPOSURE = 6.7


def test_root_installs_it_and_routes_from_port_80(host) -> None:
    done = host.sandbox("daemon", "install", "--system")
    try:
        assert "/etc/systemd/system/sandboxd.service" in done.stdout
        host.sandbox("daemon", "stop", "--all")
        host.systemctl("stop", "sandboxd.socket", UNIT)
        host.systemctl("enable", "--now", "sandboxd-router.socket", "sandboxd.socket")
        before = host.serve("shop")
        assert before["url"] == "http://shop.localhost"
        assert host.fetch("shop", 80) == 200
        status = host.json("daemon", "status")
        assert int(host.show(UNIT, "MainPID")) == status["pid"]
        assert "/sandboxd.slice/sandboxd-envs.slice/sandboxd-envs-" in host.cgroup(before["services"][0]["pid"])
        assert Path(f"/proc/{before['services'][0]['pid']}").stat().st_uid != 0
        assert host.exposure(UNIT) <= EXPOSURE
        host.systemctl("kill", "-s", "KILL", UNIT)
        host.until(lambda: int(host.show(UNIT, "MainPID")) not in (0, status["pid"]), "a new daemon")
        assert host.fetch("shop", 80) == 200
        assert host.inspect("shop")["services"][0]["pid"] == before["services"][0]["pid"]
        host.sandbox("rm", "-f", "shop")
    finally:
        host.sandbox("daemon", "stop", "--all")
        host.sandbox("daemon", "uninstall", "--system")
    assert not list(Path("/etc/systemd/system").glob("sandboxd*"))
