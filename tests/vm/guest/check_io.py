"""Limits of disk traffic: systemd delegates the io controller to nobody unasked, so root names a group that has it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIANTS = ("root",)
GROUP = Path("/sys/fs/cgroup/sandboxd-io")


@pytest.fixture
def named(host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A daemon of its own below that group; its directory, on the guest's disk."""
    (GROUP.parent / "cgroup.subtree_control").write_text("+io +memory +pids +cpu")
    GROUP.mkdir()
    state = Path("/var/tmp/sandboxd-io")
    state.mkdir()
    monkeypatch.setenv("SANDBOXD_DIR", str(state))
    monkeypatch.setenv("SANDBOXD_CGROUP", str(GROUP))
    host.until(lambda: host.sandbox("daemon", "start", check=False).returncode == 0, "the daemon")
    yield state
    host.sandbox("daemon", "stop", "--all")
    for directory, _, _ in os.walk(GROUP, topdown=False):
        os.rmdir(directory)


def test_disk_traffic_is_limited_and_counted(host, named: Path) -> None:
    flags = ["--io-read", "64m", "--io-write", "32m"]
    host.sandbox("run", "-d", "--name", "slow", "-w", host.place(), *flags, "--", "sleep", "1000")
    found = host.inspect("slow")
    assert [found["limits_enforced"][name] for name in ("io_read", "io_write")] == ["cgroup", "cgroup"]
    group = Path(found["cgroup"]) / "svc"
    device = named.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    assert (group / "io.max").read_text().split() == [name, f"rbps={64 << 20}", f"wbps={32 << 20}", "riops=max", "wiops=max"]
    host.sandbox("exec", "slow", "--", "sh", "-c", "dd if=/dev/zero of=$HOME/big bs=1M count=8 conv=fsync")
    host.until(lambda: io_written((group / "io.stat").read_text(), name) >= 8 << 20, "what it wrote")
    host.sandbox("update", "--io-write", "16m", "slow")
    assert f"wbps={16 << 20}" in (group / "io.max").read_text()
    host.sandbox("rm", "-f", "slow")


def io_written(stat: str, device: str) -> int:
    """Bytes written to that disk, as io.stat has them."""
    lines = [line.split() for line in stat.splitlines() if line.startswith(f"{device} ")]
    return sum(int(word.partition("=")[2]) for line in lines for word in line if word.startswith("wbytes="))
