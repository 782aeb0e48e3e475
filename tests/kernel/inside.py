"""Runs code in a fresh, single-threaded interpreter (`python -I -S`), in new namespaces where asked, and gives what it found.

The code sets `found`; names of `sandboxd.kernel` are imported for it. A wall or call is never tried in pytest's own process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = """
import ctypes, errno, json, os, select, signal, socket, sys, time
sys.path.insert(0, {root!r})
from sandboxd.errors import KernelError
from sandboxd.kernel import capabilities, fds, libc, mounts, namespaces, pidfd, signals, titles
given = {given!r}
def errno_of(action, *arguments, **named):
    try:
        action(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
def enter(flags=0):
    uid, gid = os.getuid(), os.getgid()
    namespaces.unshare(namespaces.NEWUSER | flags)
    namespaces.write_proc("/proc/self/setgroups", b"deny")
    namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
    namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
    if flags & namespaces.NEWNS:
        mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
found = None
"""
TAIL = "\nos.write(1, json.dumps(found).encode())\n"


def run(code: str, *, enter: str = "", **given: Any) -> Any:
    """What the code found; `enter`: names of namespace flags joined by |, entered first."""
    flags = (
        f"enter({' | '.join(f'namespaces.{flag}' for flag in enter.split('|') if flag != 'NEWUSER') or 0})\n" if enter else ""
    )
    program = HEAD.format(root=str(ROOT), given=given) + flags + code + TAIL
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
