"""Parts of pid 1 on their own: commands checked and forked, reports in words, services by name, signals."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sandboxd.errors import CommandNotExecutable, CommandNotFound, LaunchFailed, NotFound, QueueFull, SandboxdError, SpecInvalid
from sandboxd.launch.exits import ExitFile
from sandboxd.launch.loop import Loop
from sandboxd.launch.program import Program, Stdio, error_of, failed, fork
from sandboxd.launch.services import NAME_LIMIT, SERVICES_LIMIT, Services
from tests.kernel.inits import ROOT
from tests.require import require


def test_a_program_has_defaults() -> None:
    program = Program({"argv": ["true"]})
    assert (program.env, program.workdir, program.umask, program.rlimits) == ({}, "/", 0o022, {})
    assert (program.tty, program.stdin, program.rows, program.cols) == (False, False, 24, 80)
    assert Program({"argv": ["true"], "umask": 0, "rlimits": {"CPU": [1, -1]}}).rlimits == {"CPU": (1, resource.RLIM_INFINITY)}


@pytest.mark.parametrize(
    "asked",
    [
        None, [], "true", {}, {"argv": None}, {"argv": [""]}, {"argv": [1]}, {"argv": ["a"], "env": []},
        {"argv": ["a"], "env": {"A": None}}, {"argv": ["a"], "env": {"A\0": "b"}}, {"argv": ["a"], "workdir": 5},
        {"argv": ["a"], "rlimits": {"NOFILE": 5}}, {"argv": ["a"], "rlimits": {"NOFILE": [1]}},
        {"argv": ["a"], "rlimits": {"NOFILE": ["1", "2"]}}, {"argv": ["a"], "umask": 0o1000}, {"argv": ["a"], "rows": 70000},
        {"argv": ["a"], "cols": "80"},
    ],
)  # fmt: skip
def test_a_program_that_is_none(asked: Any) -> None:
    with pytest.raises(SpecInvalid):
        Program(asked)


def run_report(program: Program) -> tuple[bytes, int]:
    """What a forked program reports, and its wait status."""
    stdio = Stdio(program)
    pid, report = fork(program, stdio)
    os.set_blocking(report, True)
    words = os.read(report, 1 << 16)
    os.close(report)
    _, wait_status = os.waitpid(pid, 0)
    stdio.close()
    return words, wait_status


def test_no_report_is_a_program_that_runs() -> None:
    assert run_report(Program({"argv": ["/bin/true"]})) == (b"", 0)


def test_a_report_says_which_step() -> None:
    program = Program({"argv": ["/none"]})
    report, wait_status = run_report(program)
    assert os.waitstatus_to_exitcode(wait_status) == 127
    error = error_of(report, program)
    assert type(error) is CommandNotFound
    assert error.details == {"command": "/none", "errno": errno.ENOENT}
    assert isinstance(error_of(run_report(Program({"argv": ["/etc"]}))[0], Program({"argv": ["/etc"]})), CommandNotExecutable)


def test_an_argument_of_any_length_gives_a_whole_report() -> None:
    program = Program({"argv": ["ü" * 3000 + "/x" * 500, "y" * 50_000]})
    error = error_of(run_report(program)[0], program)
    assert isinstance(error, LaunchFailed | CommandNotFound)
    assert error.details.get("step") != "report"


@pytest.mark.parametrize("report", [b"{", b"[]", b"{}", b'{"errno":"x","step":"exec"}', b"\xff"])
def test_a_report_that_is_cut_off(report: bytes) -> None:
    error = error_of(report, Program({"argv": ["x"]}))
    assert isinstance(error, LaunchFailed)
    assert "cut off" in error.message


def test_refusals_before_exec_have_hints() -> None:
    assert "limit of processes" in failed("fork", OSError(errno.EAGAIN, ""), "x").hint
    assert "descriptors" in failed("pipe", OSError(errno.EMFILE, ""), "x").hint
    assert failed("fork", OSError(errno.ENOMEM, ""), "x").details == {"step": "fork", "errno": errno.ENOMEM}


@pytest.fixture
def services() -> Iterator[Services]:
    loop = Loop()
    yield Services(loop, ExitFile(-1), 1 << 20, lambda _event: None)
    loop.close()


def test_services_by_name(services: Services) -> None:
    with pytest.raises(NotFound):
        services.get("web")
    assert services.add("web", None) is services.get("web")
    for name in ("", "x" * (NAME_LIMIT + 1)):
        with pytest.raises(SpecInvalid):
            services.add(name, (os.dup(2), os.dup(2)))
    for number in range(SERVICES_LIMIT - 1):
        services.add(f"s{number}", None)
    with pytest.raises(QueueFull):
        services.add("more", (os.dup(2), os.dup(2)))


def test_a_start_that_is_refused_is_kept(services: Services) -> None:
    service = services.add("web", None)
    with pytest.raises(SpecInvalid) as caught:
        services.start(service, {})
    assert service.error is caught.value
    assert not service.is_alive


def test_stdio_of_a_terminal_and_of_pipes() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for asked, ours, theirs in (
        ({"tty": True}, {"pty"}, 1),
        ({"stdin": True}, {"stdin", "stdout", "stderr"}, 3),
        ({}, {"stdout", "stderr"}, 3),
    ):
        stdio = Stdio(Program({"argv": ["x"], **asked}))
        assert (set(stdio.ours), len(stdio.child)) == (ours, theirs)
        assert bool(stdio.terminal) == ("pty" in ours)
        assert len(stdio.three()) == 3
        assert not any(os.get_inheritable(fd) for fd in (*stdio.ours.values(), *stdio.child))
        stdio.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_stdio_that_cannot_be_had_leaves_nothing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    lowest = os.dup(0)
    os.close(lowest)
    for room in (1, 2, 3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, hard))
        try:
            with pytest.raises(SandboxdError) as caught:
                Stdio(Program({"argv": ["x"]}))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.details["errno"] == errno.EMFILE
    assert os.listdir("/proc/self/fd") == before


RESET = """
import signal, sys
sys.path.insert(0, sys.argv[1])
import sandboxd.launch.init as init
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda number, frame: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGRTMIN])
init.reset_signals()
for line in open("/proc/self/status"):
    if line.startswith(("SigBlk", "SigIgn", "SigCgt")):
        print(int(line.split()[1], 16))
"""


@pytest.mark.parametrize(
    ("wrapper", "awaited"),
    [
        (["unshare", "--user", "--pid", "--fork"], [signal.SIGCHLD]),
        ([], [signal.SIGCHLD, signal.SIGTERM]),  # without a pid namespace: how init hears that its guard is gone
    ],
    ids=["as pid 1", "without a pid namespace"],
)
def test_every_signal_is_reset(wrapper: list[str], awaited: list[signal.Signals]) -> None:
    if wrapper:
        require("userns")
    command = [*wrapper, sys.executable, "-I", "-S", "-c", RESET, str(ROOT)]
    # Ignored signals are inherited: as from nohup, or a shell's background job.
    ignoring = ["sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh", *command]
    done = subprocess.run(ignoring, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [sum(1 << (number - 1) for number in awaited), 0, 0]
