"""Which calls the loop breaks: those that do not return, and none that only wait for a CPU. So of sandboxd.router.loop."""

import subprocess
import sys

import pytest

# A loop that looks five times a second, with one connection, whose handler does what the argument says.
LOOP = """
import os, socket, subprocess, sys, time
from sandboxd.router import loop as module
from sandboxd.router.loop import READ, Loop, Signals

others = []

def crowd():
    # Beside one of nice 0 this one has a seventieth of the CPU (sched(7)), for longer than a call may be stuck.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spin = [sys.executable, "-c", "print(flush=True)\\nwhile True: pass"]
    others.append(subprocess.Popen(spin, stdout=subprocess.PIPE))
    others[0].stdout.readline()
    os.nice(19)
    loop.guard()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        pass

class Handler:
    def on_event(self, mask):
        if sys.argv[1] == "crowded":
            crowd()
        else:
            loop.guard()
            os.read(os.pipe()[0], 1)
        print("done")
        loop.stop()

    def abort(self, *, stalled=False):
        print("stalled" if stalled else "failed")
        loop.stop()

module.STALL = 0.2
loop = Loop()
signals = Signals(loop, loop.stop)
near, far = socket.socketpair()
handler = Handler()
loop.watch(near.fileno(), handler, READ)
loop.foreign = int(sys.argv[2])
far.send(b"x")
loop.run()
for other in others:  # not in the handler: to wait for its end is no work, and may take long where it gets no CPU to end in
    other.kill()
    other.wait()
"""


def run(word: str, foreign: int = 1) -> str:
    """What became of the call."""
    done = subprocess.run(
        [sys.executable, "-c", LOOP, word, str(foreign)], capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("foreign", [1, 0])
def test_a_call_that_does_not_return_is_broken(foreign: int) -> None:
    """Also where nothing is held that could stall us but what the call itself was about to make."""
    assert run("blocks", foreign) == "stalled"


def test_who_waits_for_a_cpu_is_not_stuck() -> None:
    assert run("crowded") == "done"
