"""What `--fix` does, in directories of the test's own; and what it refuses to touch."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from sandboxd.cli.doctor import MARKS, PLAIN, called
from sandboxd.doctor import asking, look, mend
from sandboxd.doctor.report import Fix
from sandboxd.launch import interpreter


def test_a_fix_for_root_is_refused_to_others(require: Any) -> None:
    require("unprivileged")
    done = mend.mend(Fix(id="x", kind="sysctl", target="kernel.x", value="1", root=True))
    assert (done.done, done.error) == (False, "needs root")


def test_every_kind_of_fix_can_be_carried_out() -> None:
    kinds = Fix.__annotations__["kind"].__args__
    assert set(mend.ACTS) == set(kinds)
    assert set(MARKS) == set(PLAIN)


def test_modes_are_set_without_following_links(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(other)
    done = mend.mend(Fix(id="m", kind="mode", target=str(tmp_path / "link"), value="0700"))
    assert not done.done
    assert done.error
    assert other.stat().st_mode & 0o777 == 0o755
    done = mend.mend(Fix(id="m", kind="mode", target=str(other), value="0700"))
    assert (done.done, done.after) == (True, "0700")


def test_only_a_socket_that_nobody_answers_on_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    fix = Fix(id="s", kind="socket", target=str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        assert mend.mend(fix).error == "a daemon has come meanwhile"
        assert path.exists()
    assert mend.mend(fix).after == "removed"
    assert not path.exists()
    assert mend.mend(fix).after == "gone"


def test_an_interpreter_of_anybody_elses_is_never_copied(tmp_path: Path) -> None:
    source = tmp_path / "python3"
    source.write_bytes(b"#!/bin/sh\n")
    source.chmod(0o777)
    with pytest.raises(ValueError, match="no copy of it may be let through"):
        mend.copy_interpreter(source, tmp_path / "copy" / "python3")
    assert not (tmp_path / "copy").exists()


def test_a_copy_in_a_place_of_others_is_not_used(tmp_path: Path) -> None:
    assert interpreter.what_is_wrong(str(tmp_path / "none")) == "missing"
    copy = tmp_path / Path(interpreter.copy_path(str(tmp_path))).name
    copy.write_bytes(Path(interpreter.original()).read_bytes())
    copy.chmod(0o755)
    assert interpreter.what_is_wrong(str(copy))
    assert interpreter.interpreter(str(tmp_path)) == sys.executable


def test_the_command_is_told_by_its_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["venv/bin/sandbox"])
    assert called() == os.path.abspath("venv/bin/sandbox")


# -- looking


def test_mounts_are_found_by_the_longest_place() -> None:
    assert look.mount_of("/proc/self")[0] == "proc"
    assert look.mount_of("/")[0]


def test_a_place_that_is_not_there_is_judged_by_what_is_above(tmp_path: Path) -> None:
    seen = look.look_at_place(tmp_path / "a" / "b")
    assert (seen.mode, seen.writable, seen.error) == (None, True, "")
    assert seen.free


def test_answers_are_loopback_or_no_answer() -> None:
    assert asking.is_loopback("127.0.0.1\n")
    assert asking.is_loopback("::1")
    assert not asking.is_loopback("ENOTFOUND")
    assert asking.run_quietly(["/no/such/program"])[0] == -1
    assert asking.first_word("curl 7.88.1 (x)", 1) == "7.88.1"
    assert asking.last_line("a\nb\n") == "b"


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = asking.look_at_port(f"127.0.0.1:{taken.getsockname()[1]}")
        assert found.error
        assert str(os.getpid()) in found.holder
    assert not asking.look_at_port("127.0.0.1:0").error
