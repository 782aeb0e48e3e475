"""Private memory of a process, also of one that is not dumpable, whose smaps only root may read.

`run_as(user, work)` forks before anything else: the child becomes the user and works, root stays behind and answers with
the smaps_rollup of the pids it is asked for. Without root the number is an upper bound from /proc/PID/status.
"""

import contextlib
import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT_READER: list[socket.socket] = []


class Private(NamedTuple):
    """Bytes: private dirty pages, page tables. exact is false where shared copy-on-write pages had to be counted too."""

    dirty: int
    tables: int
    exact: bool


def run_as(user: str | None, work: Callable[[], int]) -> int:
    """Run work, as another user where root asked for one; its exit code."""
    if user is None:
        return work()
    account = pwd.getpwnam(user)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        mine.close()
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ |= {"HOME": account.pw_dir, "USER": user, "LOGNAME": user}
        ROOT_READER.append(theirs)
        os._exit(work())
    theirs.close()
    with mine:
        while request := mine.recv(64):
            text = b""
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{int(request)}/smaps_rollup").read_bytes()
            mine.send(text or b"-")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fields(text: str) -> dict[str, int]:
    """`Name:  123 kB` lines as bytes."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = found.get(words[0].rstrip(":"), 0) + int(words[1]) * 1024
    return found


def private(pid: int) -> Private:
    """What this process alone holds; raises ProcessLookupError."""
    status = fields(Path(f"/proc/{pid}/status").read_text())
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except PermissionError:
        rollup = ""
        if ROOT_READER:
            ROOT_READER[0].send(str(pid).encode())
            rollup = ROOT_READER[0].recv(1 << 16).decode()
    found = fields(rollup)
    if "Private_Dirty" in found:
        return Private(found["Private_Dirty"], status["VmPTE"], exact=True)
    return Private(status["RssAnon"], status["VmPTE"], exact=False)
