"""The stagehand: builds the views of children whom somebody waits for, one at a time, without a fork for each.

Imports the standard library, `errors`, `kernel` and `launch`. A stager of a child's own begins with a fork of pid 1, which both
wait for, and goes on to touch half of what it is a copy of: 2 ms of 8 until the first program runs (measured). So there is a
process beside the launcher whose children borrow its memory instead (kernel.beside): each joins pid 1's namespaces, is a stager
there, and ends. It takes one child at a time, and only when it has nothing else to do; where it is busy, a child has a stager
of its own. So a file system that hangs holds up nobody but the env that shows it. Invariant: it keeps nothing of a child. It
ends with the launcher, and at once where one of its children was killed halfway: then the launcher has another.
"""

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import _socket
import errno
import os
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel import beside, capabilities, fds, namespaces, titles
from sandboxd.launch import child, plain, stager, talk

TITLE = "sandboxd-stager"
WORD = struct.Struct("=Q")  # of what kinds the namespaces are that are to be joined
JOINED, IDLE = b"j", b"i"
LINE = 3
PATIENCE = 5.0  # seconds; somebody may have stopped it


class Stagehand:
    """The launcher's side. line: readable when it has something to say. is_idle: it can be given a child."""

    def __init__(self) -> None:
        self.line, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.is_idle = True
        pid, process = namespaces.clone3(0)
        if pid == 0:
            try:
                live(theirs.detach())
            except ConnectionError:
                os._exit(0)  # the launcher has ended while we were busy
            except BaseException as error:  # the last line of a process that must not return into the launcher's loop
                talk.tell(f"{TITLE}: {error!r}\n")
            finally:
                os._exit(1)
        os.close(process)
        theirs.close()
        self.line.settimeout(PATIENCE)

    def give(self, flags: int, sockets: list[int], process: int) -> None:
        """Stage the child of that pidfd: its stager's ends of the daemon's socket and of pid 1's. It waits for the launcher's
        word there."""
        self.is_idle = False
        fds.send(self.line, WORD.pack(flags), [*sockets, process])

    def await_joined(self) -> None:
        """Until it is in the child's namespaces, which it can join no more once pid 1 is not dumpable. Raises KernelError:
        pid 1 was killed meanwhile, or it was itself, or stopped."""
        if self.hear() != JOINED:
            raise KernelError(errno.ESRCH, "setns", "a child's namespaces", hint="try it again")

    def hear(self) -> bytes:
        """Its next word; b"" when it has ended."""
        try:
            word = self.line.recv(1)
        except (ConnectionError, TimeoutError):
            word = b""
        self.is_idle = word == IDLE
        return word


def live(line: int) -> None:
    """Stage one child after another; never returns but at the launcher's end."""
    os.dup2(line, LINE, inheritable=False)
    fds.close_range(LINE + 1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # its children are reaped as they end (wait(2))
    capabilities.set_dumpable(False)  # as each stager is
    titles.set_title(TITLE)
    here = beside.Beside()
    sock = _socket.socket(fileno=LINE)
    while True:
        word, given = fds.recv(sock, WORD.size)
        if not word:
            os._exit(0)
        (flags,) = WORD.unpack(word)
        here.run(lambda flags=flags, given=given: stage(here, sock, flags, *given))  # type: ignore[misc]
        fds.close_all(given)
        sock.send(IDLE)


def stage(here: beside.Beside, control: _socket.socket, flags: int, line: int, bridge: int, process: int) -> None:
    """In a child that shares our memory: be the stager of that process. What cannot be done is told to the daemon."""
    own = _socket.socket(fileno=line)
    try:
        namespaces.join(process, flags)
        control.send(JOINED)
        base, ahead = child.drop(own), talk.start(own)
        if base is None or ahead is None:
            return
        work = plain.decode(ahead[3])
        child.tell_network(own)

        def leave_behind() -> bool:
            """Nobody waits after all: a copy of us does, and we go. Whether we are that copy."""
            if namespaces.clone3(namespaces.PARENT)[0] != 0:
                return False
            os.close(control.fileno())
            return True

        stager.live(own, _socket.socket(fileno=bridge), base, work, stager.Lent(here, leave_behind))
    except (OSError, KernelError, ValueError, IndexError) as error:
        talk.send(own, {"failed": "plan", "index": -1, **talk.in_words(error)})
