"""The AppArmor profile that ships, loaded by a kernel that has AppArmor: what it lets through, and that another does not.

Debian's kernel mediates user namespaces (since 6.7), but has no switch that closes them to programs without a profile: that is
Ubuntu's. So what Ubuntu would do is shown on a copy of the interpreter whose profile does not permit `userns`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sandboxd.launch.attempts
from sandboxd.doctor import mend
from sandboxd.doctor.report import Fix
from sandboxd.launch import interpreter

VARIANTS = ("apparmor",)
SECURITY = Path("/sys/kernel/security/apparmor")
CLOSED = """abi <abi/4.0>,
profile closed /usr/local/lib/closed/python3* {
  file,
  capability,
  network,
  mount,
  pivot_root,
  signal,
  ptrace,
  unix,
  dbus,
}
"""


def as_dev(copy: Path) -> str:
    """What the trials of walls say, run by an ordinary user from that interpreter."""
    trial = ["runuser", "-u", "dev", "--", str(copy), "-I", "-S", sandboxd.launch.attempts.__file__]
    return subprocess.run(trial, capture_output=True, text=True, timeout=120, check=True).stdout


def label(pid: int) -> str:
    """The profile that a process is under."""
    return Path(f"/proc/{pid}/attr/apparmor/current").read_text().strip()


def test_the_profile_is_loaded_and_lets_the_launcher_through(host) -> None:
    mediated = SECURITY / "features/namespaces/mask"
    if not mediated.exists() or "userns_create" not in mediated.read_text():
        pytest.skip("this kernel has no AppArmor that mediates user namespaces")
    closed = Path("/usr/local/lib/closed") / Path(interpreter.copy_path()).name
    mend.copy_interpreter(Path(interpreter.original()), closed)
    subprocess.run(["apparmor_parser", "-r", "-K"], input=CLOSED, text=True, check=True)
    assert '"user": 0' not in as_dev(closed), "a profile without `userns` closes them"

    copied = {"target": interpreter.copy_path(), "value": interpreter.original()}
    fix = Fix(id="apparmor", kind="apparmor", root=True, **copied)
    done = mend.mend(fix)
    assert (done.done, done.error) == (True, "")
    assert "sandboxd (unconfined)" in (SECURITY / "profiles").read_text()
    copy = Path(interpreter.copy_path())
    assert interpreter.interpreter() == str(copy) != sys.executable
    assert '"user": 0' in as_dev(copy)

    # Its Python loads nothing that was compiled here: the first start takes longer than a command waits for it.
    host.until(lambda: host.sandbox("daemon", "start", check=False).returncode == 0, "the daemon")
    host.sandbox("run", "-d", "--name", "let", "-w", host.place(), "--", "sleep", "1000")
    env = host.inspect("let")
    assert env["state"] in ("starting", "ready")
    assert label(env["pid"]) == "sandboxd (unconfined)", "inherited from the launcher, which is the copy"
    assert all(wall["enforced"] for wall in env["walls"].values() if wall["demanded"])
    assert label(host.json("daemon", "status")["pid"]) == "unconfined", "no other program of ours, or of Python, is let through"
    host.sandbox("rm", "-f", "let")
    shutil.rmtree(closed.parent)
