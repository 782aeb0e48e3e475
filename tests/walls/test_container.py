"""Inside a rootless podman container: what is refused there by name, what works, and with which options all of it does.

The container has no image: this machine's /usr is its system. podman's usual runtime, crun, refuses hosts with both versions of
cgroups, so runc runs it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import ROOT
from tests.require import require, unmet
from tests.walls.envs import wait_dead

SANDBOX = f"{sys.executable} -c 'import sys; from sandboxd.cli.main import main; sys.exit(main())'"
OPEN = ("--security-opt", "unmask=ALL", "--security-opt", "seccomp=unconfined")
Container = Callable[..., list[str]]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """Runs commands of sh in a container of its own; their output, a line each."""
    require("userns", "unprivileged", "podman", "runc")
    root = tmp_path / "root"
    for name in ("usr", "etc", "proc", "dev", "sys", "tmp", "run", "var/tmp", "root"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name, text in ("passwd", "root:x:0:0::/root:/bin/sh\n"), ("group", "root:x:0:\n"), ("hosts", "127.0.0.1 localhost\n"):
        (root / "etc" / name).write_text(text)
    shown = {"/usr", str(ROOT), sys.prefix}
    binds = [word for path in sorted(shown) for word in ("-v", f"{path}:{path}:ro")]
    podman = [
        "podman",
        "--cgroup-manager=cgroupfs",
        "--runtime=runc",
        f"--root={tmp_path}/storage",
        "run",
        "--rm",
        "--network=none",
    ]
    environ = ["-e", f"PYTHONPATH={ROOT}", "-e", "PYTHONDONTWRITEBYTECODE=1", "-e", "HOME=/tmp/home"]

    def run(script: str, *options: str) -> list[str]:
        words = [*podman, *options, *binds, *environ, "--rootfs", str(root), "/bin/sh", "-c"]
        begin = "mkdir -p /tmp/home /tmp/work && cd /tmp/work && echo begun\n"
        done = subprocess.run(
            [*words, begin + script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )  # fmt: skip
        if "begun" not in done.stdout:
            unmet("podman", f"podman cannot run a container here: {done.stderr.strip()[-300:]}")
        return done.stdout.partition("begun\n")[2].splitlines()

    yield run
    # podman keeps a process for each of its runtime directories, which holds their namespaces.
    pause = tmp_path / "libpod/tmp/pause.pid"
    if pause.exists():
        process = os.pidfd_open(int(pause.read_text()))
        signal.pidfd_send_signal(process, signal.SIGKILL)
        wait_dead(process)
        os.close(process)


END = f"{SANDBOX} daemon stop --all >/dev/null"


def test_what_a_container_forbids_is_named_and_less_works_by_name(container: Container) -> None:
    found = container(f"""
{SANDBOX} doctor --format json | tr -d '\\n'; echo
{SANDBOX} run --rm -- true 2>&1; echo $?
{SANDBOX} run --rm --isolation landlock --user root -- sh -c 'ls / >/dev/null 2>&1 || echo held' 2>/dev/null; echo $?
{END}""")
    assert "T3" in found[0]
    assert "this is a podman container" in found[0]
    assert found[1].startswith("sandbox: this host does not offer the ")
    assert "run sandboxd outside the container" in found[2]
    assert found[3:] == ["125", "held", "0"]


def test_with_two_options_all_of_it_works(container: Container) -> None:
    found = container(f"{SANDBOX} run --rm --user root -- sh -c 'echo $$; ls ~'; {END}", *OPEN)
    assert len(found) == 1
    assert 1 < int(found[0]) < 10, "a pid namespace of its own"
