"""launch.quick: the first program by vfork, made before its view stands; and what has to be forked."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sandboxd.kernel import spawn
from sandboxd.launch import quick
from sandboxd.launch.program import PLAIN, Birth, Program
from sandboxd.launch.quick import Quick

pytestmark = pytest.mark.skipif(not spawn.is_possible(), reason="this C library or machine lacks makecontext")
SHOW = "pwd; umask; echo $A; grep -h SigBlk /proc/self/status; ulimit -c"


@pytest.fixture(autouse=True)
def beyond_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test process has more open than pid 1 has."""
    monkeypatch.setattr(quick, "STDIO", (900, 901, 902))


def children() -> set[str]:
    """Ours, those that ended and nobody waited for among them."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def asked(**more: Any) -> dict[str, Any]:
    return {"argv": ["/bin/sh", "-c", SHOW], "env": {"A": "1", "PATH": "/nowhere:/bin"}, "workdir": "/", **more}


def test_it_starts_where_and_as_it_is_asked_to(tmp_path: Path) -> None:
    here, mask = os.getcwd(), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    later = tmp_path / "later"
    program = Program(asked(argv=["sh", "-c", SHOW], workdir=str(later), umask=0o027, rlimits={"CORE": [0, 0]}))
    try:
        start = Quick()
        start.open()
        assert start.stdio is not None
        try:
            assert start.takes(program, PLAIN)
            later.mkdir()  # of the view there was nothing yet when it was made
            pid = start.start()
            start.stdio.close_child()
            with open(start.stdio.ours["stdout"], "rb", closefd=False) as output:
                text = output.read()
        finally:
            start.close()
        assert os.waitpid(pid, 0)[1] == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGCHLD, *mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.chdir(here)
    assert text.decode().split() == [str(later), "0027", "1", "SigBlk:", "0" * 16, "0"]


@pytest.mark.parametrize(
    "more", [{"argv": ["none"]}, {"argv": ["/etc/passwd"]}, {"workdir": "/none"}, {"argv": ["/" + "x" * 5000]}]
)
def test_what_cannot_be_started_so_leaves_no_child(more: dict[str, Any]) -> None:
    here, before = os.getcwd(), (set(os.listdir("/proc/self/fd")), children())
    start = Quick()
    start.open()
    try:
        assert start.takes(Program(asked(**more)), PLAIN)
        assert start.start() == 0
    finally:
        start.close()
        os.chdir(here)
    assert set(os.listdir("/proc/self/fd")) <= before[0]
    assert children() <= before[1]


@pytest.mark.parametrize(
    "more", [{"tty": True}, {"stdin": True}, {"confine": [["landlock", 0]]}, {"rlimits": {"NOFILE": [1 << 30, 1 << 30]}}]
)
def test_what_has_to_be_forked(more: dict[str, Any]) -> None:
    start = Quick()
    try:
        assert not start.takes(Program(asked(**more)), PLAIN)
        assert not start.takes(Program(asked()), Birth(3))
        assert not start.takes(Program(asked(argv=["x"] * 1000)), PLAIN)
    finally:
        start.close()
