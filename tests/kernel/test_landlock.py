"""The Landlock calls as they are, each in a process of its own: a domain is never left again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.errors import KernelError
from sandboxd.isolation import landlock as rights
from sandboxd.kernel import landlock
from tests.kernel.inside import ROOT
from tests.require import require

HEAD = """
import errno, os, signal, socket, sys
from sandboxd.isolation import landlock as rights
from sandboxd.kernel import capabilities, landlock, mounts
abi = landlock.abi()
def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
"""


@pytest.fixture(autouse=True)
def _landlock() -> None:
    require("landlock")


def confined(code: str, *arguments: str) -> list[str]:
    """The words that the code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_right_that_we_know_is_known_to_this_kernel() -> None:
    """What `isolation.landlock` says of this ABI, the kernel takes whole; one bit more it does not."""
    abi = landlock.abi()
    os.close(landlock.create(rights.handled(abi), rights.ports_handled(abi), rights.scopes(abi)))
    if abi <= 9:
        with pytest.raises(KernelError) as refused:
            landlock.create(rights.handled(abi) << 1 | 1, 0, 0)
        assert refused.value.errno == 22


def test_a_ruleset_without_no_new_privs_cannot_be_entered() -> None:
    found = confined("print(tried(landlock.restrict, landlock.create(1, 0, 0), 0))")
    assert found == ["EPERM"] or os.geteuid() == 0


RULES = """
ruleset = landlock.create(rights.handled(abi), 0, rights.scopes(abi))
place = os.open(sys.argv[1], os.O_PATH)
landlock.allow_path(ruleset, place, rights.cut(abi, {"": rights.READ | rights.CHANGE})[0][1])
def read(path):
    open(path).read()
attempts = [(read, sys.argv[1] + "/file"), (read, sys.argv[2]), (os.listdir, "/"), (os.mkdir, sys.argv[1] + "/new")]
print(*[tried(*attempt) for attempt in attempts])
os.rmdir(sys.argv[1] + "/new")
capabilities.no_new_privs()
landlock.restrict(ruleset, rights.log_flags(abi))
print(*[tried(*attempt) for attempt in attempts], tried(os.kill, os.getppid(), 0))
"""


def test_only_what_rules_allow_is_left(tmp_path: Path) -> None:
    base = tmp_path
    (base / "mine").mkdir()
    (base / "mine" / "file").touch()
    (base / "other").touch()
    found = confined(RULES, str(base / "mine"), str(base / "other"))
    assert found[:4] == ["ok"] * 4
    assert found[4:8] == ["ok", "EACCES", "EACCES", "ok"]
    assert found[8] == ("EPERM" if landlock.abi() >= 6 else "ok"), "a signal out of the domain"


PORTS = """
if abi < 4:
    print("ok EACCES")
    raise SystemExit
free = [socket.socket() for _ in range(2)]
for sock in free:
    sock.bind(("127.0.0.1", 0))
allowed, other = (sock.getsockname()[1] for sock in free)
for sock in free:
    sock.close()
ruleset = landlock.create(0, rights.BIND_TCP, 0)
landlock.allow_port(ruleset, allowed, rights.BIND_TCP)
capabilities.no_new_privs()
landlock.restrict(ruleset, 0)
print(*[tried(socket.socket().bind, ("127.0.0.1", port)) for port in (allowed, other)])
"""


def test_ports_are_rules_too() -> None:
    assert confined(PORTS) == ["ok", "EACCES"]
