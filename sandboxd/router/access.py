"""Who may come in from this host: the uid at the other end of a loopback connection, found by sock_diag.

A host name is easily guessed, and 127.0.0.1 is open to every local user and to every process of an env on the host's
network. So a connection from this very host must come from the endpoint's owner or root (any user, where it is shared with the
box), and a process of one env on the host's network reaches no other env through here. Of one from another host nothing is
known: it was let in by the address that was chosen to listen on, and reaches what says nothing of sharing. Asked once per
connection; what is shared by its link is `routing.links`'. Imports kernel.sockdiag.
"""

import functools
import logging
import os
import socket
from typing import Protocol

from sandboxd.kernel import sockdiag
from sandboxd.router import unixes
from sandboxd.routing.table import Endpoint

MOST_PROCESSES = 4096

log = logging.getLogger("sandboxd.router")


class Visitor(Protocol):
    """What is asked about: a client connection."""

    source: tuple[str, int]
    here: tuple[str, int]
    local: bool
    uid: int | None


class Access:
    """Keeps one diag socket. `hosted`: pid 1 of each env on the host's network, by env id."""

    def __init__(self) -> None:
        self._diag: socket.socket | None = None
        self.hosted: dict[str, int] = {}

    def allows(self, visitor: Visitor, endpoint: Endpoint) -> bool:
        """Whether this connection may reach that endpoint."""
        if not visitor.local:
            return not endpoint.share  # who that is cannot be known from here
        if visitor.uid == endpoint.owner and not self.hosted:
            return True
        if visitor.uid is None:
            visitor.uid = self._uid(visitor)
            if visitor.uid is None:
                return False  # its process is gone, or nothing can be known: no guess
        if visitor.uid not in (endpoint.owner, 0) and endpoint.share != "box":
            return False
        others = [pid for env_id, pid in self.hosted.items() if env_id != endpoint.env_id]
        return not others or not any(holds(pid, visitor.source, visitor.here) for pid in others)

    def is_closed(self, visitor: Visitor) -> bool:
        """Whether a client of this host that half-closed has closed altogether: then no process has its socket any more."""
        answer = self._ask(visitor)
        return answer is not None and sockdiag.is_orphan(answer)

    def close(self) -> None:
        """Close the diag socket."""
        if self._diag is not None:
            self._diag.close()
            self._diag = None

    def _uid(self, visitor: Visitor) -> int | None:
        answer = self._ask(visitor)
        if answer is None:
            return None
        return sockdiag.uid_in(answer, visitor.source[1].to_bytes(2, "big"), visitor.here[1].to_bytes(2, "big"))

    def _ask(self, visitor: Visitor) -> bytes | None:
        """`sockdiag.peer_uid` for who asks thousands of times a second: one kept socket, requests made ahead but for a port."""
        before, after = request_around(visitor.source[0], visitor.here[0], visitor.here[1])
        try:
            if self._diag is None:
                self._diag = sockdiag.open_diag()
                self._diag.connect((0, 0))  # only the kernel answers from here on (netlink(7))
            self._diag.send(before + visitor.source[1].to_bytes(2, "big") + after, socket.MSG_DONTWAIT)
            return self._diag.recv(512, socket.MSG_DONTWAIT)  # there before send returned: the kernel answers in the call
        except OSError as error:
            log.warning("the owner of a connection cannot be looked up: %s", error)
            self.close()
            return None


@functools.lru_cache(256)
def request_around(source: str, here: str, port: int) -> tuple[bytes, bytes]:
    """What stands before and behind the source port in a request for the socket at `source` that is connected to here:port."""
    family, from_address = sockdiag.packed(source)
    _, to_address = sockdiag.packed(here)
    body = sockdiag.REQUEST.pack(
        *(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, b"\0\0", port.to_bytes(2, "big")),
        *(from_address, to_address, 0, sockdiag.NO_COOKIE),
    )
    length = sockdiag.HEADER.size + len(body)
    head = sockdiag.HEADER.pack(length, sockdiag.SOCK_DIAG_BY_FAMILY, sockdiag.NLM_F_REQUEST, 1, 0)
    return head + body[:8], body[10:]  # inet_diag_req_v2: family, protocol, ext, pad and states, then the source port


def is_local(source: str, here: str) -> bool:
    """Whether the other end is on this host: a loopback address, or the very address it connected to."""
    plain = source.removeprefix("::ffff:")
    return plain.startswith("127.") or plain == "::1" or source == here


def holds(init_pid: int, source: tuple[str, int], target: tuple[str, int]) -> bool:
    """Whether a process below that init has the socket of a connection open (its inode, under /proc/PID/fd)."""
    if source[0] == unixes.PEER:
        return source[1] in descendants(init_pid)
    inode = inode_of(source, target)
    return inode is not None and any(has_inode(pid, inode) for pid in descendants(init_pid))


def inode_of(source: tuple[str, int], target: tuple[str, int]) -> int | None:
    """The inode of the socket that is bound to `source` and connected to `target`, from /proc/net/tcp and tcp6."""
    for name in ("tcp", "tcp6"):
        local, remote = hexed(source, name), hexed(target, name)
        if not local:
            continue
        with open(f"/proc/self/net/{name}", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[1] == local and fields[2] == remote:
                    return int(fields[9])
    return None


def hexed(address: tuple[str, int], name: str) -> str:
    """An address as /proc/net/tcp and tcp6 print it (32-bit words in host order), "" where it is not of that family."""
    host, port = address[0], address[1]
    if (":" in host) != (name == "tcp6"):
        return ""
    raw = socket.inet_pton(socket.AF_INET6 if name == "tcp6" else socket.AF_INET, host)
    return "".join(raw[at : at + 4][::-1].hex().upper() for at in range(0, len(raw), 4)) + f":{port:04X}"


def descendants(init_pid: int) -> list[int]:
    """The process and all below it, as far as they can be seen."""
    found: list[int] = []
    waiting = [init_pid]
    while waiting and len(found) < MOST_PROCESSES:
        pid = waiting.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    waiting.extend(int(child) for child in file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def has_inode(pid: int, inode: int) -> bool:
    """Whether the process has that socket open; a process that may not be looked into counts as not."""
    wanted = f"socket:[{inode}]"
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(read_link(entry.path) == wanted for entry in entries)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def read_link(path: str) -> str:
    """Where it points, "" when it went away meanwhile."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
