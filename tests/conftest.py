"""Fixtures for every test: leaks of descriptors and children are failures, and `daemon` is a real one of the test's own."""

import contextlib
import fcntl
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.daemons import Daemon
from tests.keeper import describe
from tests.require import require as require_facts

# A shell starts what it puts in the background with SIGINT ignored, and programs that tests start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No wall time decides a test, and the checkout may be read-only.
settings.register_profile("house", deadline=None, database=None)
settings.register_profile("long", deadline=None, database=None, max_examples=int(os.environ.get("EXAMPLES", "10000")))
settings.load_profile("house")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With several workers (pytest-xdist) no other test runs beside one that is marked `alone`.

    A lock of readers and writers, on the project's file and folder: who waits to be alone holds the gate, so that the others
    do not starve it. Outermost of the hooks: waiting counts for no test's time-out, and its descriptors for no test's leak.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)
    gate, turn = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (item.config.inipath or __file__, item.config.rootpath))
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)
    finally:
        fcntl.flock(turn, fcntl.LOCK_UN)  # also where a child that the test forked still has it
        os.close(gate)
        os.close(turn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test wrote or logged is text that a worker can send (pytest-xdist): hostile names come as lone surrogates."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def descriptors() -> dict[int, str]:
    """This process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed them
            continue
    return found


def children() -> set[int]:
    """Pids of this process's children, dead ones that nobody waited for included."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # pytest's own watchdog thread comes and goes
            found.update(int(pid) for pid in Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a descriptor or a child behind."""
    fds, pids = descriptors(), children()
    yield
    new = {fd: what for fd, what in descriptors().items() if fds.get(fd) != what}
    if new:
        gc.collect()
        new = {fd: what for fd, what in descriptors().items() if fds.get(fd) != what}
    left = {pid: describe(pid) for pid in children() - pids}
    assert not new, f"descriptors left open: {new}"
    assert not left, f"children left behind: {left}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `root` run as root only; before any fixture, since a module's would come first."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """`require("userns")`: skip here, or fail where SANDBOXD_REQUIRE names it."""
    return require_facts


def mounts() -> list[str]:
    """The host's own mounts, as this process sees them."""
    return [line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def run_daemon(**environ: str) -> Iterator[Daemon]:
    """A running daemon; at the end no process, mount or file of it may be left."""
    require_facts("userns", "unprivileged")
    before = mounts()
    daemon = Daemon(**environ)
    try:
        daemon.start()
    except BaseException:  # what it said is the news, not that it then could not be asked to end
        daemon.abandon()
        raise
    try:
        yield daemon
    finally:
        daemon.close()
    assert mounts() == before


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of this test's own."""
    yield from run_daemon()


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """One daemon for a module's tests, which must take other names each and not stop it."""
    yield from run_daemon()
