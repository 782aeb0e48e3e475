"""The source: what every child is cloned from. It does nothing else, so that it stays as it was when it was made.

Imports the standard library, `errors` and `kernel`. A page that a process writes to after a fork is one that its child has for
itself from then on. The launcher reads orders, writes id maps, reaps: 0.6 MB for every child that was parked before (measured).
So it has a process beside it that waits for a word, clones, and waits again: a tenth of that. Its children are the launcher's
own (CLONE_PARENT), who reaps them; and it ends when the launcher does.
"""

import _socket
import os
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel import fds, namespaces, titles
from sandboxd.kernel.libc import HINTS
from sandboxd.launch import child, grouping, quick

TITLE = "sandboxd-source"
WORD = struct.Struct("=QB?")  # flags of clone3, how many sockets, in a control group
ANSWER = struct.Struct("=ii")  # pid, errno
LINE = 3


class Source:
    """The launcher's side."""

    def __init__(self, run_init) -> None:  # type: ignore[no-untyped-def]
        self.line, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        pid, process = namespaces.clone3(0)
        if pid == 0:
            try:
                live(theirs.detach(), run_init)
            finally:
                os._exit(1)
        os.close(process)
        theirs.close()

    def clone(self, flags: int, sockets: list[int], group: grouping.Group | None) -> tuple[int, int]:
        """A child of ours with these sockets, born in that group: pid, pidfd. Raises KernelError."""
        given = sockets if group is None else [*sockets, group.services, group.top, group.init]
        try:
            fds.send(self.line, WORD.pack(flags, len(sockets), group is not None), given)
            answer = self.line.recv(ANSWER.size)
        except ConnectionError:
            answer = b""
        if not answer:
            os._exit(1)  # it was killed, and no other is as it was: the daemon starts us anew
        pid, number = ANSWER.unpack(answer)
        if not pid:
            raise KernelError(number, "clone3", hint=HINTS.get(("clone3", number), ""))
        return pid, os.pidfd_open(pid)  # nobody but us reaps it


def live(line: int, run_init) -> None:  # type: ignore[no-untyped-def]
    """Clone for each word; never returns but at the launcher's end."""
    os.dup2(line, LINE, inheritable=False)
    fds.close_range(LINE + 1)
    titles.set_title(TITLE)
    sock = _socket.socket(fileno=LINE)
    start = quick.made()
    while True:
        word, given = fds.recv(sock, WORD.size)
        if not word:
            os._exit(0)
        flags, sockets, grouped = WORD.unpack(word)
        try:
            if grouped:
                pid, process = grouping.clone(flags, given[sockets + 1], given[sockets + 2])
            else:
                pid, process = namespaces.clone3(flags | namespaces.PARENT)
        except OSError as error:
            sock.send(ANSWER.pack(0, error.errno or 1))
        else:
            if pid == 0:
                os.sched_yield()  # on the same core, that pid 1 is there has to be said before it can go on
                child.main(given[:sockets], given[sockets : sockets + 1], flags != 0, run_init, start)
            os.close(process)
            sock.send(ANSWER.pack(pid, 0))
        fds.close_all(given)
