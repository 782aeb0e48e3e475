import errno
import os
import socket

import pytest

from sandboxd.errors import ProtocolViolation
from sandboxd.kernel import fds
from tests.kernel.inside import run


def test_descriptors_arrive_close_on_exec() -> None:
    here, there = socket.socketpair()
    with here, there, open("/dev/null", "rb") as null:
        os.set_inheritable(null.fileno(), True)
        fds.send(here, b"x", [null.fileno()] * 3)
        data, got = fds.recv(there, 10)
        assert (data, len(got)) == (b"x", 3)
        assert not any(os.get_inheritable(fd) for fd in got)
        fds.close_all(got)


def test_the_library_call_would_not_have_done_it() -> None:
    """The control: what `socket.recv_fds` gives on 3.11 is inherited whatever flags say; where it is not, ours is no worse."""
    here, there = socket.socketpair()
    with here, there, open("/dev/null", "rb") as null:
        socket.send_fds(here, [b"x"], [null.fileno()])
        _, got, _, _ = socket.recv_fds(there, 10, 1)
        inherited = [os.get_inheritable(fd) for fd in got]
        fds.close_all(got)
        assert inherited in ([True], [False])


@pytest.mark.parametrize(("sent", "allowed"), [(2, 1), (3, 1), (1, 0), (20, 4)])
def test_more_than_allowed_is_refused_and_closed(sent: int, allowed: int) -> None:
    here, there = socket.socketpair()
    with here, there, open("/dev/null", "rb") as null:
        before = len(os.listdir("/proc/self/fd"))
        fds.send(here, b"x", [null.fileno()] * sent)
        with pytest.raises(ProtocolViolation):
            fds.recv(there, 10, max_fds=allowed)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_table_is_an_error_and_not_a_loss() -> None:
    found = run("""
import resource
here, there = socket.socketpair()
null = os.open("/dev/null", os.O_RDONLY)
fds.send(here, b"x", [null] * 8)
open_now = max(int(name) for name in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 2, open_now + 2))
try:
    fds.recv(there, 10)
except OSError as error:
    found = [type(error).__name__, error.errno, error.data.decode(), len(os.listdir("/proc/self/fd"))]
found.append(len(os.listdir("/proc/self/fd")))
""")
    assert found[:3] == ["CutOff", errno.EMFILE, "x"], "what came without them is there"
    assert found[3] == found[4]


def test_a_copy_of_all_or_of_none() -> None:
    found = run("""
import resource
null = os.open("/dev/null", os.O_RDONLY)
open_now = max(int(name) for name in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 2, open_now + 2))
before = len(os.listdir("/proc/self/fd"))
try:
    fds.dup_all([null] * 8)
except OSError as error:
    found = [error.errno, len(os.listdir("/proc/self/fd")) - before, len(fds.dup_all([null]))]
""")
    assert found == [errno.EMFILE, 0, 1]


def test_the_end_is_empty() -> None:
    here, there = socket.socketpair()
    here.close()
    with there:
        assert fds.recv(there, 10) == (b"", [])


def test_a_peer_that_is_gone_is_an_error_and_no_signal() -> None:
    here, there = socket.socketpair()
    there.close()
    with here, pytest.raises(BrokenPipeError):
        fds.send(here, b"x")


def test_keep_only_keeps_only() -> None:
    found = run("""
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
keep = [0, 1, 2, kept[3], kept[3], kept[20]]
fds.keep_only(keep)
found = [sorted(set(keep)), sorted(int(name) for name in os.listdir("/proc/self/fd"))]
""")
    wanted, there = found
    assert set(there) - set(wanted) <= {min(set(range(100)) - set(wanted))}  # the one that listed them


def test_close_all_goes_on_past_a_bad_one() -> None:
    read, write = os.pipe()
    fds.close_all([read, 1 << 20, write])
    for fd in (read, write):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
