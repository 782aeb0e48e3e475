"""The system's unit for every user: each has envs of his own, in a control group of his own, and a crash takes none of them."""

import json
import pwd
from pathlib import Path
from typing import Any

VARIANTS = ("box",)
UNIT = "sandboxd.service"
CONFIG = Path("/etc/sandboxd/config.toml")
USERS = ("dev", "eve")


def test_two_users_have_their_own(host) -> None:
    def by(user: str, *argv: str, check: bool = True) -> Any:
        sandbox = ["sandbox", "--host", f"unix://{host.socket}"]
        return host.run("runuser", "-u", user, "--", *sandbox, *argv, check=check, cwd="/")

    host.sandbox("daemon", "install", "--system")
    try:
        CONFIG.write_text("shared = true\n[quota]\nenvs = 1\n")
        host.systemctl("restart", UNIT)
        found = {}
        for user in USERS:
            by(user, "run", "-d", "--name", "web", "-m", "64m", "--", "sleep", "1000")
            (found[user],) = json.loads(by(user, "inspect", "web").stdout)
            pid, uid = found[user]["services"][0]["pid"], pwd.getpwnam(user).pw_uid
            assert Path(f"/proc/{pid}").stat().st_uid == uid
            assert f"/user-{uid}/env-" in host.cgroup(pid)
            assert found[user]["limits_enforced"]["memory"] == "cgroup"
        assert by("eve", "ps", "-q", "--no-trunc").stdout.split() == [found["eve"]["id"]]
        refused = by("eve", "rm", "-f", found["dev"]["id"], check=False)
        assert refused.returncode == 0 or "no env" in refused.stderr  # what is not there is gone
        assert "the quota of user eve is 1 envs" in by("eve", "run", "-d", "--", "true", check=False).stderr
        before = int(host.show(UNIT, "MainPID"))
        host.systemctl("kill", "-s", "KILL", UNIT)
        host.until(lambda: int(host.show(UNIT, "MainPID")) not in (0, before), "a new daemon")
        for user in USERS:
            (after,) = json.loads(by(user, "inspect", "web").stdout)
            assert after["services"][0]["pid"] == found[user]["services"][0]["pid"]
        assert "QuotaExceeded" in host.sandbox("daemon", "audit").stdout
        entries = host.run("journalctl", "SANDBOXD_ENV=web", "-o", "cat", "--no-pager").stdout
        assert "env web: ready" in entries or "env web: started" in entries
        host.sandbox("rm", "-f", "web.dev", "web.eve")
    finally:
        CONFIG.unlink(missing_ok=True)
        host.sandbox("daemon", "stop", "--all")
        host.sandbox("daemon", "uninstall", "--system")
