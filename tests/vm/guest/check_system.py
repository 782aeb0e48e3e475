"""The system's unit: root's daemon, hardened, its router on port 80 by socket activation, envs that survive it."""

import os
from pathlib import Path

VARIANTS = ("root",)
UNIT = "sandboxd.service"
EXPOSURE = 6.7


def disk_traffic_is_limited(host) -> None:
    """Of the disk that the state lies on, which is a whole one here: only systems' units are given the io controller."""
    host.sandbox(
        "run", "-d", "--name", "slow", "-w", host.place(), "--io-read", "64m", "--io-write", "32m", "--", "sleep", "1000"
    )
    found = host.inspect("slow")
    assert [found["limits_enforced"][name] for name in ("io_read", "io_write")] == ["cgroup", "cgroup"]
    group = Path(found["cgroup"]) / "svc"
    device = host.state.stat().st_dev
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
        disk_traffic_is_limited(host)
    finally:
        host.sandbox("daemon", "stop", "--all")
        host.sandbox("daemon", "uninstall", "--system")
    assert not list(Path("/etc/systemd/system").glob("sandboxd*"))
