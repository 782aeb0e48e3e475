"""Files as another user sees them, in one thread only. Runs as root, but for what anybody can see."""

import errno
import os
import threading
from pathlib import Path

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel.identity import acting_as

ALICE = 61001


def test_as_ourselves_nothing_changes(tmp_path: Path) -> None:
    with acting_as(os.geteuid(), os.getegid()):
        (tmp_path / "x").touch()
    assert (tmp_path / "x").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may be anybody")
def test_who_may_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as refused, acting_as(0, 0):
        pass
    assert refused.value.errno == errno.EPERM
    (tmp_path / "x").touch()


@pytest.mark.root
def test_it_reaches_what_that_user_reaches_and_no_other_thread_notices() -> None:
    seen = []
    acting, looked = threading.Event(), threading.Event()

    def look() -> None:
        acting.wait()
        seen.append(os.access("/etc/shadow", os.R_OK, effective_ids=True))
        looked.set()

    other = threading.Thread(target=look)  # before: a new thread is as the one that starts it (clone(2))
    other.start()
    with acting_as(ALICE, ALICE):
        with pytest.raises(PermissionError):
            os.open("/etc/shadow", os.O_RDONLY)
        assert not os.access("/etc/shadow", os.R_OK, effective_ids=True)
        acting.set()
        looked.wait()
    other.join()
    assert seen == [True]
    os.close(os.open("/etc/shadow", os.O_RDONLY))
    assert os.access("/etc/shadow", os.R_OK, effective_ids=True)
