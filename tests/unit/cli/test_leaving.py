"""The end of a daemon is the end of its process."""

import os
import subprocess

import pytest

from sandboxd.cli import leaving
from sandboxd.errors import TimedOut
from sandboxd.protocol.messages import StatusReply


def status(pid: int) -> StatusReply:
    return StatusReply(pid=pid, version="", socket="", listen=[], dir="/d", uptime=0, envs={})


def test_it_waits_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    pidfd = leaving.open_pidfd(status(process.pid))
    assert pidfd is not None
    monkeypatch.setattr(leaving, "STOP_SECONDS", 0.01)
    with pytest.raises(TimedOut, match=str(process.pid)):
        leaving.wait_gone(pidfd, status(process.pid))
    process.kill()
    monkeypatch.setattr(leaving, "STOP_SECONDS", 30)
    leaving.wait_gone(pidfd, status(process.pid))
    os.close(pidfd)
    process.wait()


def test_one_that_has_gone_is_not_waited_for() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert leaving.open_pidfd(status(process.pid)) is None
    leaving.wait_gone(None, status(process.pid))
