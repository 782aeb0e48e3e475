"""The guest is the host that it is taken for, and an env runs there."""

import os
from pathlib import Path

VARIANTS = ("systemd",)


def test_systemd_and_delegated_controllers() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert os.geteuid() == 1000
    manager = Path("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers")
    assert {"cpu", "memory", "pids"} <= set(manager.read_text().split())


def test_an_env_runs(host) -> None:
    assert host.sandbox("run", "--rm", "--", "echo", "hello").stdout == "hello\n"
