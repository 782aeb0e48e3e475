"""`sandbox doctor` on real hosts: what it says there is so, and it needs no daemon."""

import json
import os
import pwd
from pathlib import Path

VARIANTS = ("systemd", "no-linger", "no-userns")


def test_the_doctor_tells_this_host_as_it_is(host) -> None:
    done = host.sandbox("doctor", "--format", "json", check=False)
    report = json.loads(done.stdout)
    checks = {check["id"]: check for check in report["checks"]}
    closed = Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0"
    assert done.returncode == (1 if closed else 0), done.stdout
    assert report["tier"] == ("T1" if closed else "T0"), report["tiers"]
    assert checks["wall.user"]["offered"] is not closed
    if closed:
        assert checks["wall.user"]["reason"] == "user.max_user_namespaces is 0"
        assert checks["wall.user"]["fixable"] == "root"
    assert checks["limit.cgroup"]["offered"] is True, checks["limit.cgroup"]
    assert checks["limit.memory"]["reason"].startswith("cgroup")
    assert checks["host.psi"]["offered"] is True
    assert checks["wall.landlock"]["offered"] is True
    user = pwd.getpwuid(os.getuid()).pw_name
    lingers = Path("/var/lib/systemd/linger", user).exists()
    assert ("daemon.linger" in checks) is not lingers
    assert "host.container" not in checks, "a guest is no container"
    assert not host.answers(), "it started no daemon"
    planned = json.loads(host.sandbox("doctor", "--fix", "--dry-run", "--format", "json", check=False).stdout)["fixes"]
    wanted = ({"sysctl"} if closed else set()) | (set() if lingers else {"linger"})
    assert {fix["kind"] for fix in planned} == wanted
    assert not any(fix["done"] for fix in planned)
