"""What the filter of an env refuses is in `why`: which call, by whom, how often, and what would allow it.

So of sandboxd.daemon.denials, through a real daemon and init.
"""

import json
import platform

import pytest

from sandboxd.isolation.seccomp.syscalls import ARCHES
from sandboxd.launch.initevents import Refused, as_refused
from sandboxd.protocol import messages as m
from sandboxd.spec import Isolation
from tests.daemon.asking import ended, inspect, logged, run

CALLS = ARCHES[platform.machine()].calls
# Three times keyctl, once unshare(CLONE_NEWUSER), socket(AF_VSOCK) and a call that is allowed; each errno is printed.
ASK = f"""
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
def called(*numbers):
    print(ctypes.get_errno() if libc.syscall(*map(ctypes.c_long, numbers)) < 0 else 0)
for _ in range(3):
    called({CALLS["keyctl"]}, 0, -3, 0)
called({CALLS["unshare"]}, 0x10000000)
called({CALLS["socket"]}, 40, 1, 0)
called({CALLS["getppid"]})
"""


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def denials(client, target):
    """What its filter refused."""
    found = client.call(m.Why(target=target)).denials
    return {(one.what, one.program, one.count, one.option) for one in found if one.wall == "seccomp"}


def test_why_tells_each_refused_call(client):
    env = run(client, ["python3", "-I", "-S", "-c", ASK])
    ended(client, env.id)
    assert logged(client, env.id).split() == ["1", "1", "1", "1", "97", "0"]
    assert denials(client, env.id) == {
        ("keyctl", "python3", 3, ""),
        ("unshare(CLONE_NEWUSER)", "python3", 1, "--nested"),
        ("socket(AF_VSOCK, SOCK_STREAM, 0)", "python3", 1, ""),
    }


def test_they_are_told_of_every_process_of_the_env(client):
    """The first service, which has a filter of its own, and what pid 1 starts later."""
    env = run(client, ["sleep", "600"])
    for session in client.stream(m.Exec(target=env.id, argv=["python3", "-I", "-S", "-c", ASK])):
        code = session.exit_code
    assert code == 0
    assert ("keyctl", "python3", 3, "") in denials(client, env.id)
    assert inspect(client, env.id).walls["seccomp"].enforced


def test_the_next_daemon_still_knows(daemon):
    with daemon.client() as client:
        env = run(client, ["sh", "-c", 'python3 -I -S -c "$0"; exec sleep 600', ASK])
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        while ("keyctl", "python3", 3, "") not in denials(client, env.id):
            pass


def test_the_command_line_says_what_allows_it(daemon, tmp_path):
    daemon.sandbox("run", "--name", "asks", "--", "python3", "-I", "-S", "-c", ASK, cwd=tmp_path)
    said = daemon.sandbox("why", "asks").stdout
    assert "unshare(CLONE_NEWUSER) by python3" in said
    assert "to allow it: --nested" in said
    daemon.sandbox("run", "--nested", "--name", "nests", "--", "python3", "-I", "-S", "-c", ASK, cwd=tmp_path)
    assert "unshare" not in daemon.sandbox("why", "nests").stdout
    (shown,) = json.loads(daemon.sandbox("inspect", "asks").stdout)
    assert shown["walls"]["seccomp"]["demanded"]


def test_with_nested_namespaces_are_no_denial(client):
    env = run(client, ["python3", "-I", "-S", "-c", ASK], isolation=Isolation(nested=True))
    ended(client, env.id)
    assert logged(client, env.id).split() == ["1", "1", "1", "0", "97", "0"]
    assert {what for what, *_ in denials(client, env.id)} == {"keyctl", "socket(AF_VSOCK, SOCK_STREAM, 0)"}


@pytest.mark.parametrize(
    "rows",
    [
        None, 7, [1], [{}], [{"call": "x", "args": [], "program": "", "count": 1, "time": 1}],
        [{"call": 1, "args": 5, "program": "", "count": 1, "time": 1}],
        [{"call": 1, "args": [], "program": "", "count": 1, "time": 1e300}],
        [{"call": 1, "args": [], "program": "", "count": 1, "time": "now"}],
        [{"call": 1, "args": [[]], "program": "", "count": 1, "time": 1}],
    ],
)  # fmt: skip
def test_what_a_hostile_init_makes_up_is_refused(rows):
    from sandboxd.errors import ProtocolViolation

    with pytest.raises(ProtocolViolation):
        as_refused(rows)


def test_what_init_tells_is_capped():
    row = {"call": 1, "args": [1] * 100, "program": "x" * 1000, "count": 5, "time": 1}
    rows = as_refused([row] * 1000)
    assert len(rows) == 256
    assert rows[0] == Refused(1, (1,) * 6, "x" * 64, 5, 1.0)
