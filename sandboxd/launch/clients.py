"""The control side of pid 1: connections on init.sock, their calls, and the events all of them hear.

Runs inside pid 1. The socket lies in a 0700 directory outside, so whoever reached it may ask; still nothing that arrives can
hurt: frames are capped, a connection that breaks the rules or does not read is closed, and a call whose caller left is undone
by its own `lost`. What a call does is init's; this file knows frames, replies and events only.
"""

from __future__ import annotations

import _socket

from sandboxd.errors import Internal, KernelError, ProtocolViolation, SandboxdError
from sandboxd.kernel.fds import CutOff, close_all
from sandboxd.launch.dialer import Listener
from sandboxd.launch.frames import VERSION, Inbox, Outbox, encode, error_to
from sandboxd.launch.loop import READ, WRITE, Loop, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandboxd.launch.frames import Message

CLIENTS_LIMIT = 16
OUTBOX_LIMIT = 2 << 20  # bytes that wait for a client that does not read


class Client:
    """One connection."""

    __slots__ = ("inbox", "is_open", "outbox", "sock")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.inbox = Inbox(sock)
        self.outbox = Outbox(sock)
        self.is_open = True


class Call:
    """One request: answered once, at any later time, or refused."""

    __slots__ = ("asked", "client", "control", "fds")

    def __init__(self, control: Control, client: Client, asked: Message, fds: dict[str, int]) -> None:
        self.control = control
        self.client = client
        self.asked = asked
        self.fds = fds  # the call takes what it needs out; the rest is closed once it was dispatched

    def answer(self, result: Message, fds: dict[str, int] | None = None, lost: Callable[[], None] | None = None) -> None:
        """Reply, and give these descriptors away; `lost` when the caller will never read it."""
        fds = fds or {}
        frame = encode({"id": self.asked.get("id"), "ok": result, "fds": list(fds)})
        self.control.send(self.client, frame, list(fds.values()), lost)

    def refuse(self, error: SandboxdError) -> None:
        """Reply with an error."""
        self.control.send(self.client, encode({"id": self.asked.get("id"), "error": error_to(error)}))


class Control:
    """Serves init.sock."""

    __slots__ = ("clients", "do", "hello", "listener", "loop")

    def __init__(self, loop: Loop, fd: int, hello: Callable[[], Message], do: Callable[[Call], None]) -> None:
        self.loop = loop
        self.hello = hello
        self.do = do
        self.clients: list[Client] = []
        self.listener = Listener(loop, fd, CLIENTS_LIMIT, self.join)

    def join(self, sock: _socket.socket) -> None:
        """A new client hears first who we are and how things stand: what happened before it came it need not ask for."""
        client = Client(sock)
        self.clients.append(client)
        self.loop.watch(sock.fileno(), READ, lambda events: self.serve(client, events))
        hello = {"event": "hello", "version": VERSION, **self.hello()}
        try:
            frame = encode(hello)
        except SandboxdError as error:  # over the cap, by many long words about failures
            frame = encode({**hello, "status": {**hello["status"], "failed": {}}})
            complain("greeting a client", error)
        self.send(client, frame)

    def leave(self, client: Client) -> None:
        """Close a connection and all that waits in it."""
        if not client.is_open:
            return
        client.is_open = False
        self.clients.remove(client)
        self.listener.open -= 1
        self.loop.forget(client.sock.fileno())
        client.sock.close()
        client.inbox.close()
        client.outbox.close()

    def serve(self, client: Client, events: int) -> None:
        """Receive once, do every whole call; send what waits."""
        try:
            if events & WRITE:
                self.flush(client)
            if client.is_open and events & ~WRITE and not client.inbox.pull():
                self.leave(client)
            for asked, fds in client.inbox.frames() if client.is_open else ():
                self.dispatch(Call(self, client, asked, fds))
                if not client.is_open:
                    break
        except BlockingIOError:
            return
        except ProtocolViolation as error:
            self.send(client, encode({"id": None, "error": error_to(error)}))
            self.leave(client)
        except OSError:
            self.leave(client)

    def dispatch(self, call: Call) -> None:
        """Do a call; whatever happens, it is answered and its descriptors have an owner."""
        try:
            if len(call.fds) < len(call.asked.get("fds", [])):
                raise CutOff
            self.do(call)
        except SandboxdError as error:
            call.refuse(error)
        except OSError as error:
            call.refuse(KernelError(error.errno or 0, str(call.asked.get("op"))))
        except Exception as error:  # pid 1 outlives every fault of one call
            complain(f"call {call.asked.get('op')!r}", error)
            call.refuse(Internal(f"init failed at {call.asked.get('op')!r}: {error!r}"))
        finally:
            close_all(list(call.fds.values()))
            call.fds = {}

    def send(self, client: Client, frame: bytes, fds: list[int] | None = None, lost: Callable[[], None] | None = None) -> None:
        """Send now or when there is room; descriptors are taken over in any case."""
        if not client.is_open:
            close_all(fds or [])
            if lost is not None:
                lost()
            return
        client.outbox.put(frame, fds, lost)
        self.flush(client)
        if client.is_open and client.outbox.size > OUTBOX_LIMIT:
            self.leave(client)

    def flush(self, client: Client) -> None:
        """Send what the kernel takes."""
        try:
            done = client.outbox.flush()
        except OSError:
            self.leave(client)
            return
        self.loop.watch(client.sock.fileno(), READ if done else READ | WRITE, lambda events: self.serve(client, events))

    def tell(self, event: Message) -> None:
        """To everyone connected; to nobody while no daemon runs: exits are on disk and the rest is in `status`."""
        frame = encode(event) if self.clients else b""
        for client in list(self.clients):
            self.send(client, frame)
