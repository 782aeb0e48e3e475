"""Another machine than x86-64: an env's whole life there, and the tests that know numbers, structures and codes of the kernel.

It takes a quarter of an hour, so it is one of the guests that have to be asked for. The rest of tests/kernel holds there too,
but for tests that start hundreds of programs in half a minute.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.kernel import spawn

VARIANTS = ("aarch64",)
ROOT = Path("/share/checkout")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=600", "-o", "faulthandler_timeout=500"]


def test_this_is_another_machine(host) -> None:
    assert platform.machine() == "aarch64"
    assert spawn.is_possible()
    checks = {check["id"]: check for check in host.json("doctor")["checks"]}
    assert all(check["offered"] for name, check in checks.items() if name.startswith("wall.")), checks


def test_an_env_lives_behind_every_wall_and_leaves_nothing(host) -> None:
    host.until(lambda: host.sandbox("daemon", "start", check=False).returncode == 0, "the daemon")
    host.sandbox("up", str(ROOT / "examples/hello"))
    assert host.fetch("hello") == 200
    env = host.inspect("hello")
    assert env["state"] == "ready"
    walls = {name: wall for name, wall in env["walls"].items() if wall["demanded"]}
    assert {"user", "pid", "net", "mount", "landlock", "seccomp", "capabilities"} <= set(walls), env["walls"]
    assert all(wall["enforced"] for wall in walls.values()), walls
    assert host.sandbox("exec", "hello", "--", "uname", "-m").stdout == "aarch64\n"
    denied = host.sandbox("exec", "hello", "--", "unshare", "--user", "true", check=False)
    assert denied.returncode != 0
    assert "Operation not permitted" in denied.stderr
    host.until(
        lambda: any("unshare" in one["what"] for one in host.json("why", "hello")["denials"]), "word of what was refused"
    )
    assert '"GET / HTTP/1.1" 200' in host.sandbox("logs", "hello").stderr

    group = Path(env["cgroup"])
    host.sandbox("update", "-m", "200m", "hello")
    assert (group / "svc/memory.max").read_text() == f"{200 << 20}\n"
    host.sandbox("suspend", "hello")
    assert "frozen 1" in (group / "svc/cgroup.events").read_text()
    assert host.inspect("hello")["state"] == "suspended"
    host.sandbox("resume", "hello")
    assert host.fetch("hello") == 200

    receipt = json.loads(host.sandbox("rm", "-f", "--receipt", "hello").stdout)["receipt"]
    assert receipt["leaked"] == {}
    assert not group.exists()
    assert not (host.state / "envs" / env["id"]).exists()


KERNEL = ("seccomp", "denials", "quick", "kcmp", "landlock", "namespaces", "fds", "nftables", "sockdiag", "inotify", "probes")
SUITES = {
    "kernel": [f"tests/kernel/test_{name}.py" for name in KERNEL],
    "programs": ["tests/unit/isolation"],
    "filter": ["tests/walls/test_seccomp.py"],
}


@pytest.mark.parametrize("name", SUITES)
def test_what_depends_on_the_machine(name: str) -> None:
    done = subprocess.run([*PYTEST, *SUITES[name]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20000:]
