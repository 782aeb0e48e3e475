"""Ports of the host itself: who has one, and which is free.

For messages ("port 7070 is taken by nginx, pid 812") and for `--network host`. May use kernel and /proc; decides nothing.
"""

import os
import socket

from sandboxd.errors import KernelError
from sandboxd.kernel import sockdiag

WILDCARDS = ("0.0.0.0", "::")


def who_holds(address: str, port: int) -> tuple[int, str] | None:
    """(pid, process name) that listens on this host address; None when nobody does or it is not ours to know."""
    try:
        with sockdiag.open_diag() as diag:
            rows = sockdiag.dump_listeners(diag)
    except KernelError:
        return None
    wanted = numeric(address)
    inodes = {f"socket:[{row.inode}]" for row in rows if row.port == port and clashes(numeric(row.address), wanted)}
    return holder(inodes) if inodes else None


def pick_free_port(address: str = "127.0.0.1") -> int:
    """A port nobody listens on now at this address (bind it soon: nothing keeps it); raises KernelError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise KernelError(error.errno or 0, "bind", address) from error
        return int(probe.getsockname()[1])


def numeric(address: str) -> str:
    """One spelling per address: no brackets or zone, "localhost" and v4-mapped ones as IPv4, "" as the wildcard."""
    text = address.strip("[]").partition("%")[0].lower()
    if text == "localhost":
        return "127.0.0.1"
    return text.removeprefix("::ffff:") or "0.0.0.0"


def clashes(held: str, wanted: str) -> bool:
    """Whether a listener at `held` keeps another one from `wanted`: the same address, or a wildcard on either side."""
    return held == wanted or held in WILDCARDS or wanted in WILDCARDS


def holder(links: set[str]) -> tuple[int, str] | None:
    """The process that has one of these sockets among its descriptors; only those we may look at are seen (proc(5))."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{number}") in links for number in os.listdir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    return int(pid), comm.read().strip()
        except OSError:
            continue  # gone meanwhile, or another user's
    return None
