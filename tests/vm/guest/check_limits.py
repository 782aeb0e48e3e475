"""Limits by cgroup v2, as systemd delegates it to a user: written, changed, met, named, and nothing left of them."""

import json
import os
import time
from pathlib import Path

import pytest

VARIANTS = ("systemd",)
M = 1 << 20
HOG = "import time; x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); time.sleep(1000)"
HOLD = "import time; x = b'x' * (40 << 20); time.sleep(1000)"
BUSY = "import os\nfor _ in range(4):\n    if not os.fork(): break\nwhile True: pass"
BOMB = """
import os, time
failed = 0
for _ in range(200):
    try:
        if not os.fork():
            time.sleep(1000)
    except BlockingIOError:
        failed += 1
open("failed", "w").write(str(failed))
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def started(host) -> None:
    """A daemon: in a guest on a busy machine its start may take longer than a command waits for it."""
    host.until(lambda: host.sandbox("daemon", "start", check=False).returncode == 0, "the daemon")


def svc(host, name: str) -> Path:
    """The group that is limited."""
    return Path(host.inspect(name)["cgroup"]) / "svc"


def said(group: Path, name: str) -> str:
    return (group / name).read_text().strip()


def test_limits_are_the_kernels_and_change_while_it_runs(host) -> None:
    flags = ["-m", "256m", "--memory-reservation", "200m", "--cpus", "0.5", "--cpu-weight", "50", "--pids-limit", "64"]
    host.sandbox("run", "-d", "--name", "one", *flags, "--", "python3", "-c", HOLD)
    found = host.inspect("one")
    assert found["limits_enforced"] == {
        **dict.fromkeys(("memory", "memory_high", "cpus", "cpu_weight", "pids"), "cgroup"), "nofile": "rlimit",
    }  # fmt: skip
    group = svc(host, "one")
    assert [said(group, name) for name in ("memory.max", "memory.high", "memory.swap.max", "memory.oom.group")] == [
        str(256 * M), str(200 * M), "0", "1",
    ]  # fmt: skip
    assert [said(group, name) for name in ("cpu.max", "cpu.weight", "pids.max")] == ["50000 100000", "50", "64"]

    # Who lives where: init beside what it starts, commands of `exec` with the services, and nobody in between.
    init = found["pid"]
    assert host.cgroup(init).endswith("/init")
    assert host.cgroup(found["services"][0]["pid"]).endswith("/svc")
    assert host.sandbox("exec", "one", "--", "cat", "/proc/self/cgroup").stdout == "0::/svc\n"
    assert said(group.parent, "cgroup.procs") == ""
    # Inside, programs find their limits where they look for them, and cannot change them.
    inside = host.sandbox("exec", "one", "--", "cat", "/sys/fs/cgroup/svc/memory.max").stdout
    assert inside == f"{256 * M}\n"
    refused = host.sandbox("exec", "one", "--", "sh", "-c", "echo max > /sys/fs/cgroup/svc/memory.max", check=False)
    assert refused.returncode
    assert "Read-only file system" in refused.stderr

    host.sandbox("update", "-m", "512m", "--cpus", "1.5", "--pids-limit", "128", "--memory-reservation", "0", "one")
    assert [said(group, name) for name in ("memory.max", "cpu.max", "pids.max", "memory.high")] == [
        str(512 * M), "150000 100000", "128", "max",
    ]  # fmt: skip
    host.until(lambda: host.inspect("one")["usage"]["memory_bytes"] > 40 * M, "its memory")
    refused = host.sandbox("update", "-m", "20m", "one", check=False)
    assert refused.returncode
    assert "of memory are in use, more than 20MiB" in refused.stderr
    refused = host.sandbox("update", "--io-read", "1m", "one", check=False)
    assert refused.returncode == 125
    assert "'io' is not delegated" in refused.stderr
    assert "Delegate=cpu io memory pids" in refused.stderr

    # An env keeps its group when the daemon goes, and what was changed holds after a restart.
    host.sandbox("daemon", "stop")
    assert host.inspect("one")["cgroup"] == str(group.parent)
    host.sandbox("update", "--pids-limit", "100", "one")
    assert said(group, "pids.max") == "100"
    host.sandbox("restart", "one")
    again = svc(host, "one")
    assert (said(again, "memory.max"), said(again, "pids.max")) == (str(512 * M), "100")
    assert not group.parent.exists()
    receipt = json.loads(host.sandbox("rm", "-f", "--receipt", "one").stdout)["receipt"]
    assert (receipt["before"]["cgroups"], receipt["after"]["cgroups"]) == (3, 0)
    assert not again.parent.exists()


def test_what_is_met_is_named_and_a_neighbour_does_not_feel_it(host) -> None:
    host.sandbox("run", "-d", "--name", "neighbour", "--", "sleep", "1000")
    host.sandbox("run", "-d", "--name", "hog", "-m", "64m", "--", "python3", "-c", HOG)
    assert host.sandbox("wait", "hog").stdout == "137\n"
    ended = host.inspect("hog")
    assert ended["state"] == "failed"
    assert ended["reason"].startswith("memory: 64MiB limit, peak 64MiB; raise it with -m "), ended["reason"]
    assert "(memory: 64MiB limit, peak 64MiB)" in host.sandbox("ps", "-a", "--filter", "name=hog").stdout
    assert [hit["limit"] for hit in host.json("why", "hog")["limits"]] == ["memory"]

    host.sandbox("run", "-d", "--name", "bomb", "--pids-limit", "20", "-w", str(workspace()), "--", "python3", "-c", BOMB)
    host.until(lambda: host.json("why", "bomb")["limits"], "word of the fork bomb")
    hit = host.json("why", "bomb")["limits"][0]
    assert (hit["limit"], hit["value"]) == ("pids", 20)
    assert host.inspect("bomb")["usage"]["pids"] == 20
    host.until((workspace() / "failed").exists, "the bomb's own count")
    assert int((workspace() / "failed").read_text()) == 200 - 19

    host.sandbox("run", "-d", "--name", "busy", "--cpus", "0.2", "--", "python3", "-c", BUSY)
    host.until(lambda: host.json("why", "busy")["limits"], "word of the throttling")
    assert host.json("why", "busy")["limits"][0]["limit"] == "cpus"
    before, at = host.inspect("busy")["cgroup"] + "/svc/cpu.stat", time.monotonic()
    used = int(Path(before).read_text().split()[1])
    time.sleep(5)
    share = (int(Path(before).read_text().split()[1]) - used) / 1e6 / (time.monotonic() - at)
    assert share < 0.4, "four spinning processes on two CPUs"

    stats = host.json("stats", "--no-stream", "busy")
    assert stats["pids"] == 5
    assert stats["memory_bytes"] > M
    assert host.inspect("neighbour")["state"] == "ready"
    for name in ("neighbour", "hog", "bomb", "busy"):
        host.sandbox("rm", "-f", name)


def test_the_freezer_holds_what_is_suspended_and_its_memory_is_given_back(host) -> None:
    host.sandbox("run", "-d", "--name", "naps", "--", "python3", "-c", HOLD)
    host.until(lambda: host.inspect("naps")["usage"]["memory_bytes"] > 40 * M, "its memory")
    host.sandbox("suspend", "naps")
    group = svc(host, "naps")
    assert "frozen 1" in said(group, "cgroup.events")
    assert host.inspect("naps")["state"] == "suspended"
    host.sandbox("resume", "naps")
    assert "frozen 0" in said(group, "cgroup.events")
    assert host.sandbox("exec", "naps", "--", "echo", "awake").stdout == "awake\n"
    host.sandbox("suspend", "naps")
    host.sandbox("rm", "-f", "naps")
    assert not group.exists()


def test_what_a_killed_daemon_left_is_swept(host) -> None:
    host.sandbox("run", "-d", "--name", "stays", "--", "sleep", "1000")
    group = svc(host, "stays").parent
    host.until(lambda: len(list(group.parent.glob("env-*"))) > 1, "the pool")
    os.kill(host.json("daemon", "status")["pid"], 9)
    assert host.inspect("stays")["cgroup"] == str(group)
    host.until(lambda: list(group.parent.glob("env-*")) == [group], "an end of what the killed daemon had parked")
    host.sandbox("rm", "-f", "stays")


def workspace() -> Path:
    path = Path.home() / "work"
    path.mkdir(exist_ok=True)
    return path
