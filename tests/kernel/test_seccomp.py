"""seccomp(2) for real (sandboxd.kernel.seccomp): the kernel takes our programs, and hands what they refuse to a listener."""

import base64
import platform
import signal
import subprocess
import sys

import pytest

from sandboxd.isolation.seccomp.policy import Demand, program
from sandboxd.isolation.seccomp.syscalls import ARCHES
from tests.kernel.inside import ROOT, run

MACHINE = platform.machine()
CALLS = ARCHES[MACHINE].calls
NEWUSER = 0x10000000
# The module under test, and a call by its name: the errno it fails with, 0 when it works.
HEAD = """
from sandboxd.kernel import seccomp
capabilities.no_new_privs()
def called(name, *arguments):
    call = libc.syscall(given["calls"][name], *[ctypes.c_long] * len(arguments))
    return ctypes.get_errno() if call(*arguments) < 0 else 0
def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def in_a_child(name, *arguments):
    child = os.fork()
    if child == 0:
        os._exit(called(name, *arguments))
    return child
"""


def inside(code: str, *, notify: bool = False, head: str = HEAD) -> object:
    """What the code finds; it has the default program as given["text"]."""
    return run(head + code, calls=CALLS, text=filtered(notify=notify))


def filtered(*, notify: bool = False, machine: str = MACHINE) -> str:
    """The default policy's program as a step carries it."""
    return base64.b64encode(program(machine, Demand(), notify=notify)).decode()


def test_the_filter_holds_for_all_that_descends() -> None:
    code = """
listener = seccomp.install(given["text"], listener=False)
with open("/proc/self/status") as status:
    mode = next(line.split()[1] for line in status if line.startswith("Seccomp:"))
names = ("mount", "clone3", "getppid")
found = [listener, ended(in_a_child("keyctl", 0, 0)), [called(name, 0, 0) for name in names], mode]
"""
    assert inside(code) == [-1, 1, [1, 38, 0], "2"]


def test_without_no_new_privs_there_is_no_filter() -> None:
    code = 'found = errno_of(seccomp.install, given["text"], listener=False)'
    assert inside(code, head="from sandboxd.kernel import seccomp\n") == "EACCES"


@pytest.mark.parametrize("machine", ARCHES)
def test_the_kernel_takes_the_program_of_every_architecture(machine: str) -> None:
    """A filter of the other architecture ends whoever makes its next call: so it was taken."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sandboxd.kernel import capabilities, seccomp
capabilities.no_new_privs()
seccomp.install({filtered(machine=machine)!r}, listener=False)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True)
    assert done.returncode == (0 if machine == MACHINE else -signal.SIGSYS), done.stderr


def test_a_listener_answers_and_its_descriptor_is_close_on_exec() -> None:
    code = """
listener = seccomp.install(given["text"], listener=True)
child = in_a_child("unshare", 0x10000000)
select.select([listener], [], [])
cookie, pid, number, args = seccomp.receive(listener)
seccomp.refuse(listener, cookie, errno.EXDEV)
found = [os.get_inheritable(listener), pid == child, number, args[0], ended(child)]
"""
    assert inside(code, notify=True) == [False, True, CALLS["unshare"], NEWUSER, 18]


def test_a_caller_that_is_gone_is_no_error() -> None:
    code = """
listener = seccomp.install(given["text"], listener=True)
def waiting():
    child = in_a_child("unshare", 0x10000000)
    select.select([listener], [], [])
    return child
def killed(child):
    os.kill(child, 9)
    return ended(child)
first = waiting()
found = [killed(first)]  # before it was received
second = waiting()
cookie, pid, _, _ = seccomp.receive(listener)
found += [killed(second), pid == second]  # before it was answered
seccomp.refuse(listener, cookie, 1)
found.append(select.select([listener], [], [], 0)[0])
"""
    assert inside(code, notify=True) == [-9, -9, True, []]


def test_only_one_filter_of_a_chain_has_a_listener() -> None:
    code = """
seccomp.install(given["text"], listener=True)
found = [errno_of(seccomp.install, given["text"], listener=True), errno_of(seccomp.install, given["text"], listener=False)]
"""
    assert inside(code, notify=True) == ["EBUSY", "ok"]


def test_what_this_kernel_has() -> None:
    code = "found = [seccomp.has_action(action) for action in (0x00050000, 0x7FC00000, 0x12340000)]"
    assert inside(code) == [True, True, False]
