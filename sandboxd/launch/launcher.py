"""The launcher: a program of its own that makes parked children on request, and nothing else.

    python -I -S launcher.py --fd N [--init MODULE] [--path DIR] [--first 1]

Imports the standard library, `errors`, `kernel` and `launch`. Single-threaded and small, because the cost of a fork grows
with the page tables. All it will ever need, init included, is imported before the first child; then the means to import are
taken away. It never sees a plan: a child's sockets go to the daemon, and what is asked for here is only who a child runs as,
whether it has a network of its own, and the base of its view, which the child reads. Each page that this loop writes to is one
that every child parked before has for itself from then on (measured: 0.5 MB each, when it read and wrote JSON here), so it
does as little as it can. It ends when the daemon's end of its socket does; envs do not depend on it.
"""

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import _socket
import errno
import os
import select
import struct
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandboxd.errors import KernelError, PermissionDenied, SandboxdError
from sandboxd.kernel import fds, heap, namespaces, pidfd, signals, titles
from sandboxd.launch import grouping, plain, source, stagehand, talk, walls, warm

ALWAYS = (
    namespaces.NEWUSER | namespaces.NEWNS | namespaces.NEWPID | namespaces.NEWIPC | namespaces.NEWUTS | namespaces.NEWCGROUP
)
TITLE = "sandboxd-launcher"


class Order:
    """What is asked for (`talk.ORDER`): who an env runs as, (inside, outside), whether with a network; the base as it came, and
    what pid 1 does ahead.

    Only our own ids may be asked for, or as root any but 0; 0 only by name. drop: there are privileges to be given up. group:
    the path of the control group to make for it, "" for none.
    """

    __slots__ = ("ahead", "base", "drop", "gid", "group", "is_awaited", "namespaces", "network", "uid")

    def __init__(self, body: bytes) -> None:
        self.namespaces, self.network, root, self.is_awaited, *ids, path, ahead = talk.ORDER.unpack_from(body)
        self.uid, self.gid = (ids[0], ids[1]), (ids[2], ids[3])
        start = talk.ORDER.size + path
        self.group = body[talk.ORDER.size : start].decode()
        self.ahead = body[start : start + ahead]
        self.base = body[start + ahead :]
        own = os.geteuid()
        self.drop = own == 0
        if own != 0 and (ids[1], ids[3]) != (own, os.getegid()):
            raise PermissionDenied(f"uid {own} cannot start an env as {ids[1]}:{ids[3]}")
        if own == 0 and 0 in (ids[1], ids[3]) and not root:
            raise PermissionDenied("an env runs as root only where that is asked for by name")

    def start(self, work: bytes) -> bytes:
        """The word to one of a child's two (`talk.START`), and what it is to do."""
        return talk.START.pack(self.drop, self.uid[0], self.gid[0], len(work)) + work


class Launcher:
    """The loop: requests in, children out."""

    def __init__(self, control: _socket.socket, run_init) -> None:  # type: ignore[no-untyped-def]
        self.control = control
        self.run_init = run_init
        self.source: source.Source | None = None
        self.hand: stagehand.Stagehand | None = None
        self.epoll = select.epoll()
        self.buffer = bytearray()
        self.signals = signals.signalfd({_signal.SIGCHLD, _signal.SIGTERM})
        # A mount made on the host after a child was parked is not in that child's view (poll(2) on mountinfo: proc(5)).
        self.mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> None:
        """Until the daemon's end of the socket closes."""
        self.epoll.register(self.control, select.EPOLLIN)
        self.epoll.register(self.signals, select.EPOLLIN)
        self.epoll.register(self.mounts, select.EPOLLPRI)
        self.reply(b'{"ready":%d}' % os.getpid())
        while True:
            for fd, _ in self.epoll.poll():
                if self.hand is not None and fd == self.hand.line.fileno():
                    self.hear_hand(self.hand)
                if fd == self.signals and not self.take_signals():
                    return
                if fd == self.mounts:
                    self.reply(b'{"event":"mounts"}')
                if fd == self.control.fileno() and not self.take_requests():
                    return

    def take_signals(self) -> bool:
        """Reap whoever died; False on SIGTERM."""
        numbers = signals.read_signals(self.signals)
        if _signal.SIGCHLD in numbers:
            while reap():
                continue
        return _signal.SIGTERM not in numbers

    def take_requests(self) -> bool:
        """Answer each whole frame; False at the end."""
        data, received = talk.hear(self.control, talk.CHUNK)
        fds.close_all(received)
        self.buffer += data
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4], "little")
            if length > talk.FRAME_LIMIT:
                return False
            if len(self.buffer) < 4 + length:
                break
            body = bytes(self.buffer[4 : 4 + length])
            del self.buffer[: 4 + length]
            self.answer(body)
        return bool(data)

    def answer(self, body: bytes) -> None:
        """One request, one reply, in order."""
        try:
            order = Order(body)
            pid, given = self.park(order, self.free_hand() if order.is_awaited and order.namespaces else None)
        except (OSError, SandboxdError) as error:
            self.refuse("namespaces", error)
        except (struct.error, UnicodeDecodeError) as error:
            self.refuse("request", error)
        else:
            self.reply(b'{"pid":%d}' % pid, given)
            fds.close_all(given)

    def free_hand(self) -> stagehand.Stagehand | None:
        """The stagehand, where it has nothing to do."""
        if self.hand is None and self.source is not None:  # not before it is where its children are to be, as that is
            self.hand = stagehand.Stagehand()
            self.epoll.register(self.hand.line, select.EPOLLIN)
        return self.hand if self.hand is not None and self.hand.is_idle else None

    def hear_hand(self, hand: stagehand.Stagehand) -> None:
        """Its word; where it has ended, there will be another."""
        if not hand.hear():
            self.epoll.unregister(hand.line)
            hand.line.close()
            self.hand = None

    def park(self, order: Order, hand: stagehand.Stagehand | None) -> tuple[int, list[int]]:
        """A child in new namespaces with its ids mapped: pid; pidfd, our ends of its sockets: pid 1's, the stager's."""
        init, stager = _socket.socketpair(), _socket.socketpair()
        outer, inner = [init[0].detach(), stager[0].detach()], [init[1].detach(), stager[1].detach()]
        if order.namespaces:  # and what is between the two of them
            inner += [sock.detach() for sock in _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)]
        process, group = -1, None
        flags = (ALWAYS | (namespaces.NEWNET if order.network else 0)) if order.namespaces else 0
        try:
            if order.group:
                group = grouping.Group(order.group, order.uid[1])
            if self.source is None:  # not before it is where its children are to be: in a control group of our own
                self.source = source.Source(self.run_init)
                self.free_hand()
            pid, process = self.source.clone(flags, inner if hand is None else inner[::2], group)
            if group is not None:
                group.divide()
            if hand is not None:
                hand.give(flags, inner[1::2], process)
            if order.namespaces:
                namespaces.write_maps(pid, uid=order.uid, gid=order.gid)
            os.write(outer[1], order.start(order.base) + (order.start(order.ahead) if hand is not None else b""))
            if hand is not None:
                hand.await_joined()
            os.write(outer[0], order.start(order.ahead))
        except BaseException:
            fds.close_all(outer)
            if group is not None:
                group.remove()
            if process >= 0:
                pidfd.send_signal(process, _signal.SIGKILL)
                os.close(process)
            raise
        finally:
            fds.close_all(inner)
            if group is not None:
                group.close()
        return pid, [process, *outer]

    def refuse(self, what: str, error: Exception) -> None:
        """Say why there is no child."""
        self.reply(plain.encode({"failed": what, **talk.in_words(error)}))

    def reply(self, body: bytes, descriptors: list[int] | tuple[int, ...] = ()) -> None:
        """One frame to the daemon; when that is gone, the next read says so."""
        try:
            fds.send(self.control, len(body).to_bytes(4, "little") + body, descriptors)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise


def reap() -> bool:
    """Wait for one dead child, without waiting; False: no more."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def load(module: str):  # type: ignore[no-untyped-def]
    """`run` of the module that a child becomes; then nothing can be imported any more."""
    run_init = __import__(module, fromlist=["run"]).run
    walls.remember_outside()
    warm.warm()  # what an init runs first, it writes to; here it does so once
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()
    return run_init


def main(arguments: list[str]) -> int:
    """Set up, serve, leave."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    control = _socket.socket(fileno=int(given["--fd"]))
    os.set_inheritable(control.fileno(), False)
    if "--path" in given:
        sys.path.insert(0, given["--path"])
    if "--first" in given:  # what compiling leaves in the heap lies between what every child will write to
        __import__(given.get("--init", "sandboxd.launch.init"))
        os.set_inheritable(control.fileno(), True)
        os.execve(sys.executable, sys.orig_argv[:-2], {})
    signals.block_all()
    signals.default_all()
    titles.room()
    run_init = load(given.get("--init", "sandboxd.launch.init"))
    titles.set_title(TITLE)
    try:
        namespaces.leave_session_keyring()
    except KernelError as error:
        talk.tell(f"{TITLE}: {error}\n")
    heap.freeze()
    Launcher(control, run_init).serve()
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
