"""Pid 1 as listener of the filter: every refused call is answered as its rule says, counted, told; and nobody waits for it."""

import base64
import platform
from typing import Any

from sandboxd.isolation.seccomp.policy import Demand, program, refusals_text
from sandboxd.isolation.seccomp.syscalls import ARCHES
from tests.kernel.inside import run

MACHINE = platform.machine()
CALLS = ARCHES[MACHINE].calls
# The module under test in a process that is behind the filter itself, as pid 1 is; `called` gives a call's errno.
HEAD = """
from sandboxd.kernel import seccomp
from sandboxd.launch import denials
from sandboxd.launch.denials import Denials
from sandboxd.launch.loop import READ, Loop
capabilities.no_new_privs()
events, loop = [], Loop()
def called(name, *arguments):
    call = libc.syscall(given["calls"][name], *[ctypes.c_long] * len(arguments))
    return ctypes.get_errno() if call(*arguments) < 0 else 0
def child(act):
    pid = os.fork()
    if pid == 0:
        loop.epoll.close()
        os._exit(act() or 0)
    process = os.pidfd_open(pid)
    loop.watch(process, READ, lambda _: loop.forget(process))
    return pid, process
def until_over(*children):
    while any(process in loop.acts for _, process in children):
        loop.turn()
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
"""
BEGIN = """
box = Denials(loop, given["rules"], seccomp.install(given["text"], listener=True), events.append)
"""


def inside(code: str, head: str = HEAD + BEGIN) -> Any:
    """What the code finds behind the default filter."""
    text = base64.b64encode(program(MACHINE, Demand(), notify=True)).decode()
    return run(head + code, calls=CALLS, text=text, rules=refusals_text(MACHINE, Demand()))


def test_each_call_is_answered_by_its_rule_and_counted() -> None:
    code = """
def act():
    titles.set_title("a program")
    wrong = [called("keyctl", 0, 0) != 1, called("socket", 40, 1, 0) != 97, called("socket", 16, 3, 12) != 93]
    wrong += [called("ioctl", 0, 1 << 32 | 0x5412, 0) != 1, called("keyctl", 7, 7) != 1, called("socket", 1, 0x80001, 0) != 0]
    return sum(wrong)
code = until_over(child(act))
rows = sorted((row["call"], row["args"], row["program"], row["count"]) for row in box.all())
found = [code, rows, all(abs(row["time"] - time.time()) < 3600 for row in box.all())]
"""
    code, rows, is_timed = inside(code)
    assert code == [0]
    assert is_timed
    wanted = [
        [CALLS["ioctl"], [0x5412], "a program", 1],
        [CALLS["keyctl"], [], "a program", 2],
        [CALLS["socket"], [16, 3, 12], "a program", 1],
        [CALLS["socket"], [40, 1, 0], "a program", 1],
    ]
    assert rows == sorted(wanted)


def test_changes_are_told_and_only_those() -> None:
    code = """
for name in ("keyctl", "bpf", "keyctl"):
    until_over(child(lambda: called(name, 0, 0)))
    box.report()
found = [[(row["call"], row["count"]) for row in event["rows"]] for event in events]
"""
    assert inside(code) == [[[CALLS["keyctl"], 1]], [[CALLS["bpf"], 1]], [[CALLS["keyctl"], 2]]]


def test_a_report_comes_by_itself() -> None:
    code = """
until_over(child(lambda: called("keyctl", 0, 0)))
while not events:
    loop.turn()
found = [event["event"] for event in events]
"""
    assert inside(code) == ["denied"]


def test_the_table_is_bounded() -> None:
    code = """
def act():
    for number in range(300):
        titles.set_title(f"program {number}")
        called("bpf", number, 0)
denials.BURST = 10000
until_over(child(act))
rows = box.all()
found = [len(rows), sum(row["count"] for row in rows), [row["count"] for row in rows if row["call"] == denials.MOST]]
"""
    assert inside(code) == [129, 300, [172]]


def test_a_flood_of_refused_calls_keeps_nobody_else_waiting() -> None:
    """Whoever makes them waits for answers, which are few a turn; every turn serves the others too."""
    code = """
def act():
    for _ in range(3000):
        called("keyctl", 0, 0)
flooding = [child(act) for _ in range(3)]
read, write = os.pipe()
ticks = []
loop.watch(read, READ, lambda _: ticks.append(os.read(read, 1)))
most, turns, before = 0, 0, 0
while turns < 200 and all(process in loop.acts for _, process in flooding):
    os.write(write, b"t")
    loop.turn()
    turns += 1
    count = sum(row["count"] for row in box.all())
    most, before = max(most, count - before), count
for pid, _ in flooding:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
found = [turns - len(ticks), most <= denials.BATCH, turns]
"""
    missed, is_bounded, turns = inside(code)
    assert missed <= 1, "a turn without the other descriptor"
    assert is_bounded
    assert turns > 10


def test_without_credit_callers_wait_and_then_go_on() -> None:
    code = """
denials.BURST, denials.BATCH = 4, 2
box.credit = 0
def act():
    return sum(called("keyctl", 0, 0) != 1 for _ in range(20))
found = [until_over(child(act)), sum(row["count"] for row in box.all())]
"""
    assert inside(code) == [[0], 20]


def test_a_listener_that_fails_leaves_nobody_waiting() -> None:
    """The kernel answers ENOSYS once nobody listens."""
    code = """
box.rules = "no JSON"
os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
def act():
    os.close(box.listener)  # the copy that a fork has, and an exec closes
    return called("socket", 40, 1, 0)
found = [until_over(child(act)), box.listener]
"""
    assert inside(code) == [[38], -1]
