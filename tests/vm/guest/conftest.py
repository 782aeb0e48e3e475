"""Fixtures of the checks that run in the guest, as the user of its session: nothing here is shared with the host's tests."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120  # seconds: the guest is emulated


class Host:
    """The guest as its user finds it."""

    def run(self, *argv: str, check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """A command's result; with check, a failure shows what it said."""
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False, **kw
        )
        if check:
            assert done.returncode == 0, f"{argv} left with {done.returncode}\n{done.stdout}{done.stderr}{self.log()}"
        return done

    def sandbox(self, *argv: str, check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """`sandbox ARGS`."""
        return self.run("sandbox", *argv, check=check, **kw)

    def json(self, *argv: str) -> Any:
        """What `sandbox ARGS --format json` prints, its first object."""
        return json.loads(self.sandbox(*argv, "--format", "json").stdout.splitlines()[0])

    def inspect(self, env: str) -> Any:
        """One env."""
        return json.loads(self.sandbox("inspect", env).stdout)[0]

    def log(self) -> str:
        """The tail of the daemon's logs."""
        state = Path(os.environ.get("SANDBOXD_DIR") or Path.home() / ".local/state/sandboxd")
        return "".join(f"\n--- {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(state.glob("*.log")))

    def cgroup(self, pid: int) -> str:
        """The path of a process's cgroup below /sys/fs/cgroup."""
        return Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2]

    def systemctl(self, *argv: str, check: bool = True) -> str:
        """`systemctl` of this user's own manager."""
        manager = [] if os.geteuid() == 0 else ["--user"]
        return self.run("systemctl", *manager, *argv, check=check).stdout.strip()

    def answers(self) -> bool:
        """Whether a daemon runs: to ask `sandbox` would start one."""
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(os.environ["XDG_RUNTIME_DIR"] + "/sandboxd/control.sock") == 0

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait for what nothing tells us of."""
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}{self.log()}"
            time.sleep(0.2)
        return found


@pytest.fixture
def host() -> Iterator[Host]:
    """The guest, with nothing of ours left running at the end."""
    host = Host()
    yield host
    if (Path.home() / ".local/state/sandboxd").exists():
        if any((Path.home() / ".local/state/sandboxd/envs").iterdir()):
            host.sandbox("rm", "-f", "all", "--yes")
        if host.answers():
            host.sandbox("daemon", "stop", "--all")
