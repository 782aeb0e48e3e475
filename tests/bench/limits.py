"""`limits`: how far past its memory limit an env comes, and how long until it is stopped; by cgroup where there is one.

A hog writes to memory as fast as it can, in one process or in four, and notes in a shared page how much it has and when: the
rows are of what it got beyond the limit, and of the time from the limit to its last sign of life. Held against what else an
ordinary user has: `prlimit --data` (each process by itself, which then gets ENOMEM and goes on), a loop over psutil once a
second as process managers have it, and `systemd-run --user -p MemoryMax` where there is a user manager.
"""

import argparse
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

GIVEN = ("SANDBOXD_CGROUP", "PYTHONPATH")  # by guest.py
LIMIT = 128 << 20
BLOCK = 1 << 20
# A hog that nobody stops ends by itself.
MOST = min(4 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
PATIENCE = 60.0
NOTE = struct.Struct("=Qdd")  # bytes, when the limit was passed, last sign of life (monotonic clock, the same for all)
HOG = f"""
import mmap, os, struct, sys, time
note = struct.Struct("=Qdd")
count = int(sys.argv[2])
page = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), note.size * count)
which = 0
for number in range(1, count):
    if not os.fork():
        which = number
        break
kept, passed, until = [], 0.0, time.monotonic() + {PATIENCE}
while len(kept) * {BLOCK} * count < {MOST} and time.monotonic() < until:
    try:
        kept.append(b"x" * {BLOCK})
    except MemoryError:
        time.sleep(0.001)
    now = time.monotonic()
    others = sum(note.unpack_from(page, note.size * number)[0] for number in range(count) if number != which)
    if not passed and others + len(kept) * {BLOCK} > {LIMIT}:
        passed = now
    note.pack_into(page, note.size * which, len(kept) * {BLOCK}, passed, now)
"""
Start = Callable[[list[str]], None]  # runs the hog to its end


def run(args: argparse.Namespace) -> Iterable[Row]:
    """`count` rounds (10)."""
    found: dict[tuple[str, int], list[Outcome]] = {}
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        daemon = Daemon(**{name: os.environ[name] for name in GIVEN if name in os.environ})
        stack.callback(daemon.close)
        daemon.start()
        ways: dict[str, Start] = {}
        ways[f"sandboxd ({how(daemon)})"] = lambda argv: in_an_env(daemon, workspace, argv)
        ways |= peers()
        for _ in range(args.count or 10):
            for subject, start in ways.items():
                for count in (1, 4):
                    found.setdefault((subject, count), []).append(one(workspace, start, count))
    rows = []
    for (subject, count), seen in found.items():
        what = "one process" if count == 1 else f"{count} processes"
        is_peer = not subject.startswith("sandboxd")
        held = [one.held / (1 << 20) for one in seen]
        rows.append(row(f"overshoot, {what}", subject, [max(0.0, size - (LIMIT >> 20)) for size in held], "MiB", peer=is_peer))
        # Who is never past the limit was stopped at it, or never ran: this tells which.
        rows.append(row(f"written at the end, {what}", subject, held, "MiB", peer=is_peer))
        if subject != "prlimit":  # which stops nobody
            rows.append(row(f"time to stop, {what}", subject, [one.took * 1000 for one in seen], "ms", peer=is_peer))
    return sorted(rows, key=lambda one: (one.metric, one.peer))


def how(daemon: Daemon) -> str:
    """How memory is limited here."""
    from sandboxd.protocol.messages import Status

    with daemon.client() as client:
        return "cgroup" if "memory" in client.call(Status()).controllers else "sampled"


class Outcome(NamedTuple):
    """What one hog had written at its end, in bytes, and the seconds from the limit to its last sign of life."""

    held: int
    took: float


def one(workspace: Path, start: Start, count: int) -> Outcome:
    """One hog, to its end."""
    note = workspace / "note"
    note.write_bytes(bytes(NOTE.size * count))
    start(["python3", "-c", HOG, str(note), str(count)])
    data = note.read_bytes()
    seen = [NOTE.unpack_from(data, NOTE.size * number) for number in range(count)]
    passed = min((when for _, when, _ in seen if when), default=0.0)
    last = max(when for _, _, when in seen)
    return Outcome(sum(size for size, _, _ in seen), last - passed if passed else 0.0)


def in_an_env(daemon: Daemon, workspace: Path, argv: list[str]) -> None:
    """Our own."""
    from sandboxd.protocol.messages import Remove, Run, Wait
    from sandboxd.spec import EnvSpec, Limits, Service, Workspace

    spec = EnvSpec(
        services={"main": Service(command=argv)}, workspace=Workspace(path=str(workspace)), limits=Limits(memory=LIMIT)
    )
    with daemon.client() as client:
        env = client.call(Run(spec=spec, environ=ENVIRON)).env
        client.call(Wait(target=env.id, timeout=2 * PATIENCE))
        client.call(Remove(target=env.id, force=True))


def peers() -> dict[str, Start]:
    """Those that are here."""
    found: dict[str, Start] = {"psutil once a second": watched}
    if shutil.which("prlimit"):
        found["prlimit"] = lambda argv: ended(
            subprocess.Popen(["prlimit", f"--data={LIMIT}", *argv], start_new_session=True), 2.0
        )
    has_manager = (
        subprocess.run(["systemctl", "--user", "show"], capture_output=True, check=False) if shutil.which("systemctl") else None
    )
    if has_manager is not None and has_manager.returncode == 0:
        limits = ["-p", f"MemoryMax={LIMIT}", "-p", "MemorySwapMax=0"]
        found["systemd-run"] = lambda argv: ended(
            subprocess.Popen(["systemd-run", "--user", "--scope", "--quiet", *limits, *argv], start_new_session=True), PATIENCE
        )
    return found


def ended(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for its end, at most so long, and take its whole session along."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def watched(argv: list[str]) -> None:
    """What a process manager does: look at the sum of RSS once a second."""
    process = subprocess.Popen([sys.executable, *argv[1:]], start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(1.0)
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            if sum(member.memory_info().rss for member in family) > LIMIT:
                break
    except psutil.Error:
        pass
    ended(process, 0)
