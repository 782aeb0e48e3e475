"""What is frozen is not counted any more (sandboxd.kernel.heap), in an interpreter of its own: nothing of it is ever freed."""

import subprocess
import sys
from pathlib import Path

CODE = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from sandboxd.kernel import heap
class Thing:
    def told(self):
        return ["a constant that is not shared", self]
thing = Thing()
known = heap.is_immortality_known()
assert bool(heap.freeze()) == known
for one in (thing, Thing.told, Thing.told.__code__, Thing.told.__code__.co_consts[1]):
    before = ctypes.c_uint32.from_address(id(one)).value
    more = [one] * 1000
    after = ctypes.c_uint32.from_address(id(one)).value
    assert (after == before == heap.IMMORTAL) if known else after >= before + 1000, (one, before, after)
    del more
for _ in range(1000):
    assert thing.told()[1] is thing
assert [Thing().told() for _ in range(1000)]
"""


def test_what_is_frozen_is_not_counted_from_3_12_on() -> None:
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", CODE, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
