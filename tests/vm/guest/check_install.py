"""`sandbox daemon install` of a user: enabled, hardened, and gone again, with envs that do not notice."""

from pathlib import Path

VARIANTS = ("systemd",)
UNIT = "sandboxd.service"
# What systemd-analyze may find at most, of 10 (worst). A user's unit cannot have the options that take privileges, and envs
# need namespaces, ptrace among themselves, and the file system as it is.
EXPOSURE = 7.9


def test_a_user_installs_and_uninstalls_it(host) -> None:
    before = host.serve("shop")
    done = host.sandbox("daemon", "install")
    try:
        assert str(Path.home() / ".config/systemd/user/sandboxd.service") in done.stdout
        assert "loginctl" not in done.stderr, "dev lingers"
        assert host.systemctl("is-enabled", "sandboxd.socket", UNIT).split() == ["enabled", "enabled"]
        assert host.show(UNIT, "FragmentPath") == str(Path.home() / ".config/systemd/user/sandboxd.service")
        after = host.inspect("shop")
        assert (after["state"], after["services"][0]["pid"]) == ("ready", before["services"][0]["pid"])
        assert int(host.show(UNIT, "MainPID")) == host.json("daemon", "status")["pid"]
        assert host.exposure(UNIT) <= EXPOSURE
        # Behind the unit's own hardening an env has all of its walls.
        assert host.sandbox("run", "--rm", "--", "sh", "-c", "echo $$; hostname").stdout.split()[0] != ""
        # Stopped, the socket stays, and whoever connects starts the daemon.
        host.sandbox("daemon", "stop")
        host.until(lambda: host.show(UNIT, "ActiveState") == "inactive", "the unit ends")
        assert host.answers()
        host.until(lambda: host.show(UNIT, "ActiveState") == "active", "the unit is started by who connects")
        assert host.fetch("shop") == 200
    finally:
        gone = host.sandbox("daemon", "uninstall")
    assert "sandboxd.service" in gone.stdout
    assert not list((Path.home() / ".config/systemd/user").glob("sandboxd*"))
    assert host.fetch("shop") == 200
    assert host.inspect("shop")["services"][0]["pid"] == before["services"][0]["pid"]
