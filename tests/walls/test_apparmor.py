"""The AppArmor profile that ships: it parses, it attaches to the copy and to nothing else, and the copy is an interpreter.

No kernel here has AppArmor, so nothing is loaded: apparmor_parser compiles it (-Q: no load, -K: no cache). Whether a namespace
is then let through was seen by nobody in this suite.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sandboxd.doctor import look, mend
from sandboxd.doctor.report import Fix
from sandboxd.launch import interpreter
from tests.daemons import ROOT
from tests.require import unmet

PROFILE = ROOT / "systemd/apparmor/sandboxd"
PARSER = "/usr/sbin/apparmor_parser"


def compiled(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PARSER, "-Q", "-K", *options], input=text, capture_output=True, text=True, timeout=60, check=False)


def parser_version() -> int:
    told = subprocess.run([PARSER, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.", told)
    assert found, told
    return int(found[1])


def test_the_profile_parses(require: Any) -> None:
    require("apparmor_parser")
    text = PROFILE.read_text()
    if parser_version() < 4:
        # An older parser knows neither abi 4.0 nor `userns`: all else of it is held against that one.
        old = text.replace("abi <abi/4.0>", "abi <abi/3.0>").replace("  userns,\n", "")
        done = compiled(old)
        assert done.returncode == 0, done.stderr
        assert compiled(old.replace("flags=(unconfined)", "flags=(nonsense)")).returncode != 0, "it reads what it is given"
        unmet("apparmor4", f"{PARSER} is older than 4.0, so the line `userns,` was not compiled")
    done = compiled(text)
    assert done.returncode == 0, done.stderr


def test_the_profile_is_for_the_copy_alone_and_gives_userns_alone() -> None:
    text = "\n".join(line for line in PROFILE.read_text().splitlines() if not line.startswith("#"))
    (attached,) = re.findall(r"^profile sandboxd (\S+) flags=\(unconfined\) \{$", text, re.MULTILINE)
    assert interpreter.COPIES in ("/usr/lib/sandboxd", "/usr/local/lib/sandboxd")
    assert attached == "/usr/{,local/}lib/sandboxd/python3*"
    assert Path(interpreter.copy_path()).name.startswith("python3")
    rules = [line.strip() for line in text[text.index("{\n") :].splitlines()[1:-1] if line.strip() and "#" not in line]
    assert rules == ["userns,", "include if exists <local/sandboxd>"]
    assert mend.profile_text() == PROFILE.read_text()


@pytest.fixture
def copies() -> Iterator[Path]:
    """A directory that is root's alone, up to the root of the tree, as /tmp is not."""
    place = Path(tempfile.mkdtemp(prefix="sandboxd-test-", dir="/usr/local/lib"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.root
def test_the_copy_is_this_interpreter_and_runs_the_trials(copies: Path) -> None:
    copy = Path(interpreter.copy_path(str(copies)))
    mend.copy_interpreter(Path(interpreter.original()), copy)
    assert interpreter.what_is_wrong(str(copy)) == ""
    assert interpreter.interpreter(str(copies)) == str(copy)
    told = subprocess.run(
        [copy, "-I", "-S", "-c", "import ctypes, json, sys; print(sys.version)"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == sys.version
    trial = [copy, "-I", "-S", ROOT / "sandboxd/launch/attempts.py"]
    assert '"user": 0' in subprocess.run(trial, capture_output=True, text=True, check=True).stdout


@pytest.mark.root
@pytest.mark.parametrize("harm", ["write", "owner", "directory", "other build", "link"])
def test_a_copy_that_others_could_have_made_is_not_used(copies: Path, harm: str) -> None:
    copy = Path(interpreter.copy_path(str(copies)))
    mend.copy_interpreter(Path(interpreter.original()), copy)
    match harm:
        case "write":
            copy.chmod(0o775)
        case "owner":
            shutil.chown(copy, 65534)
        case "directory":
            copies.chmod(0o777)
        case "other build":
            copy.write_bytes(copy.read_bytes() + b"\0")
        case "link":
            copy.unlink()
            copy.symlink_to(interpreter.original())
    assert interpreter.what_is_wrong(str(copy)) not in ("", "missing")
    assert interpreter.interpreter(str(copies)) == sys.executable


@pytest.mark.root
def test_a_second_install_replaces_an_old_copy_while_it_runs(copies: Path) -> None:
    copy = Path(interpreter.copy_path(str(copies)))
    source = Path(interpreter.original())
    mend.copy_interpreter(source, copy)
    with subprocess.Popen([copy, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, text=True) as running:
        mend.copy_interpreter(source, copy)
        assert interpreter.what_is_wrong(str(copy)) == ""
        running.communicate("\n", timeout=60)
        assert running.returncode == 0


@pytest.mark.root
def test_a_sysctl_is_set_and_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mend, "PERSISTENT", tmp_path / "sysctl.d" / "60-sandboxd.conf")
    now = Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip()  # what it is already: nothing changes here
    fix = Fix(id="s", kind="sysctl", target="fs.inotify.max_user_instances", value=now, root=True)
    for _ in range(2):
        done = mend.mend(fix)
        assert (done.done, done.after, done.error) == (True, now, "")
    kept = (tmp_path / "sysctl.d" / "60-sandboxd.conf").read_text()
    assert kept.count(f"fs.inotify.max_user_instances = {now}\n") == 1
    assert mend.mend(msgspec.structs.replace(fix, target="no.such.setting")).error


@pytest.mark.root
def test_root_under_sudo_looks_for_the_user_who_typed_it() -> None:
    seen = look.look({"SUDO_UID": "65534", "PATH": "/usr/bin:/bin"}, "sandbox")
    assert (seen.uid, seen.root) == (65534, True)
    assert seen.host is not None
    assert seen.host.walls["no_new_privs"].offered
    assert seen.state is not None
    assert not seen.state.path.startswith("/root/")
