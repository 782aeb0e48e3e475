"""What the daemon and the router say to each other over router.sock, and the router's master and its workers between them.

Tagged messages, length-prefixed JSON, capped.

Pure. Frame: 4 bytes little-endian length, then one JSON object. Either side may be of another version (a router outlives its
daemon), so unknown keys are ignored and an unknown message is skipped by who receives it. The newest daemon to connect is
obeyed; the router tells it all it holds in `Hello`.
"""

import struct
from typing import TypeVar

import msgspec

from sandboxd.routing.outlets import Left, Outlet, Passage
from sandboxd.routing.table import Change, RouteTable

VERSION = 5
CHANGES = 2  # the first that takes ChangeTable
BOUNDS = WAYS = 3  # the first that bounds the connections to an env, and that takes ChangeOutlets
REPLACES = ONE = 4  # the first that takes Replace, and that unpublishes one port of several
LEAVES = LOOKS = 5  # the first whose worker of what goes out leaves what it knows to another; whose others can be asked, too
MOST_FRAME = 16 << 20  # a table of 30,000 endpoints
LENGTH = struct.Struct("<I")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """One frame."""


# -- daemon to router ----------------------------------------------------------------------------------------------------


class SetTable(Message, frozen=True, kw_only=True, tag="table"):
    """Replace the table."""

    table: RouteTable


class ChangeTable(Message, frozen=True, kw_only=True, tag="change"):
    """Change the table."""

    change: Change


class Listen(Message, frozen=True, kw_only=True, tag="listen"):
    """Listen on exactly these addresses; answered by Done with the addresses that hold."""

    order: int
    addresses: list[str]


class Publish(Message, frozen=True, kw_only=True, tag="publish"):
    """Listen on a host address for one port of an env, as raw TCP; answered by Done. address: an IP, reached by whom the env's
    name is where there is an `owner`; or `unix:/PATH`, bound as him. proxy: begin with a PROXY protocol v2 header."""

    order: int
    address: str
    host_port: int
    env_id: str
    service: str
    port: int
    proxy: bool = False
    owner: int = -1


class Unpublish(Message, frozen=True, kw_only=True, tag="unpublish"):
    """Close the env's published listeners; answered by Done. host_port, address: only this one."""

    order: int
    env_id: str
    address: str = ""
    host_port: int = 0

    def means(self, held: "Published") -> bool:
        """Whether that is one of them."""
        return held.env_id == self.env_id and self.address in ("", held.address) and self.host_port in (0, held.host_port)


class Release(Message, frozen=True, kw_only=True, tag="release"):
    """Close every connection and socket of the env; answered by Done."""

    order: int
    env_id: str


class Count(Message, frozen=True, kw_only=True, tag="count"):
    """Send the counts as they are now; answered by Done after them, and after all that was ordered before."""

    order: int


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Answered by Done: the heartbeat."""

    order: int


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """End."""


class Replace(Message, frozen=True, kw_only=True, tag="replace"):
    """Have another program take over in this process, with all that is listened on and all who serve (router.handover);
    answered by Done only where that failed. command: becomes `python -m sandboxd.router`; path: where it finds its modules."""

    order: int
    command: list[str]
    path: str


class Retire(Message, frozen=True, kw_only=True, tag="retire"):
    """From master to worker: others listen from now on; serve those who are connected, and end with the last."""


class Deny(Message, frozen=True, kw_only=True, tag="deny"):
    """There will be no env for a key: those who wait for it are told so."""

    slot: str
    text: str
    hint: str
    retry_after: int


class SetOutlets(Message, frozen=True, kw_only=True, tag="outlets"):
    """Replace all ways out. resolvers: HOST:PORT, none: those of the host. own: the router's ports, which no env may reach."""

    outlets: list[Outlet]
    resolvers: list[str] = []
    own: list[int] = []


class ChangeOutlets(Message, frozen=True, kw_only=True, tag="change-outlets"):
    """Replace or add these, let go of those that are gone."""

    outlets: list[Outlet] = []
    gone: list[str] = []


class Look(Message, frozen=True, kw_only=True, tag="look"):
    """What of an env goes out and comes in; answered by Flows, of each worker, and Done."""

    order: int
    env_id: str


class Bequest(Message, frozen=True, kw_only=True, tag="bequest"):
    """From a worker of what goes out that retires to the one in its place, by way of the master: what it knows of an env."""

    left: Left


class Retired(Message, frozen=True, kw_only=True, tag="retired"):
    """From a worker of what goes out to the master: it takes nobody more, and every bequest is told but for what ends later."""


class Admit(Message, frozen=True, kw_only=True, tag="admit"):
    """From master to worker: what becomes of what it seeks. Not granted: as many wait already as may."""

    number: int
    granted: bool


class Newest(Message, frozen=True, kw_only=True, tag="newest"):
    """From master to worker: every table that was on its way when the worker asked stands before this."""


class BriefEndpoint(msgspec.Struct, frozen=True):
    """Of an endpoint what the master needs."""

    env_id: str
    max_connections: int = 0


class Brief(msgspec.Struct, frozen=True):
    """Of a table what the master needs."""

    version: int
    endpoints: list[BriefEndpoint]


class BriefTable(Message, frozen=True, kw_only=True, tag="table"):
    """SetTable, as the master reads it: workers get it in the bytes it came in."""

    table: Brief


class BriefChange(msgspec.Struct, frozen=True):
    """Of a change what the master needs."""

    version: int
    endpoints: dict[int, BriefEndpoint] = {}
    gone: list[str] = []


class BriefChangeTable(Message, frozen=True, kw_only=True, tag="change"):
    """ChangeTable, as the master reads it."""

    change: BriefChange


Order = (
    SetTable | ChangeTable | Listen | Publish | Unpublish | Release | Count | Ping | Stop
    | Look | Newest | Deny | Admit | Retire
)  # fmt: skip
EgressOrder = SetOutlets | ChangeOutlets | Release | Count | Ping | Stop | Look | Bequest | Retire  # to that of what goes out
BriefOrder = (
    BriefTable | BriefChangeTable | Listen | Publish | Unpublish | Release | Count | Ping | Stop | Deny
    | SetOutlets | ChangeOutlets | Look | Replace
)  # fmt: skip
Numbered = Listen | Publish | Unpublish | Release | Count | Look | Replace


# -- router to daemon ----------------------------------------------------------------------------------------------------


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A published port: host address and port, and what it leads to; see Publish."""

    address: str
    host_port: int
    env_id: str
    service: str
    port: int
    proxy: bool = False
    owner: int = -1


def published_of(order: Publish) -> Published:
    """What an order to publish makes."""
    return Published(**{field: getattr(order, field) for field in Published.__struct_fields__})


def publish_order(number: int, held: Published) -> Publish:
    """The order that makes it."""
    return Publish(order=number, **msgspec.structs.asdict(held))


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """One env's counts: connections to its services, exchanges under way, tunnels and who waits for a connection now; since the
    router began requests, bytes, those of the bytes that went through its open tunnels, and who waited for one in vain.
    out: the same of what goes out of it, and what was denied."""

    open: int
    busy: int = 0
    tunnels: int = 0
    tunnelled: int = 0
    queued: int = 0
    refused: int = 0
    requests: int
    bytes_in: int
    bytes_out: int
    out_open: int = 0
    out_begun: int = 0
    out_denied: int = 0
    out_sent: int = 0
    out_received: int = 0


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """The first frame on every connection."""

    version: int
    pid: int
    listen: list[str]
    published: list[Published]
    table: int  # version of the table in force, -1: none yet
    workers: list[int] = []  # their pids
    build: str = ""  # as its daemon called the program


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """An order was carried out; or not: errno and on which address."""

    order: int
    errno: int = 0
    address: str = ""
    listen: list[str] = []


class Counts(Message, frozen=True, kw_only=True, tag="counts"):
    """The envs whose counts changed since the last one. pages: answers of the router's own since it began, by status."""

    envs: dict[str, Traffic]
    pages: dict[int, int] = {}


class Wake(Message, frozen=True, kw_only=True, tag="wake"):
    """A request is here for an env that is asleep."""

    env_id: str


class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """A request is here for a key of a template that has no env. source: the address it comes from."""

    template: str
    key: str
    slot: str
    source: str


class Stuck(Message, frozen=True, kw_only=True, tag="stuck"):
    """An env's socket blocked the router, against what was asked of it; the env is not dialled for a while."""

    env_id: str


class Seek(Message, frozen=True, kw_only=True, tag="seek"):
    """From worker to master: a connection is wanted to an env that bounds them; answered by Admit."""

    env_id: str
    number: int


class Leave(Message, frozen=True, kw_only=True, tag="leave"):
    """From worker to master: what was sought is not wanted any more, or the connection is closed."""

    env_id: str
    number: int


class AskNewest(Message, frozen=True, kw_only=True, tag="ask-newest"):
    """From worker to master: somebody asks for a host that is in no table yet; answered by Newest."""


class Flows(Message, frozen=True, kw_only=True, tag="flows"):
    """What of an env goes out now and did lately; and since it began: connections, denied ones, bytes. What comes in now."""

    env_id: str
    passages: list[Passage]
    total: int = 0
    denied: int = 0
    sent: int = 0
    received: int = 0


Report = Hello | Done | Counts | Wake | Ask | Stuck | AskNewest | Seek | Leave | Flows | Bequest | Retired

_encoder = msgspec.json.Encoder()
order_decoder: "msgspec.json.Decoder[Order]" = msgspec.json.Decoder(Order)
egress_decoder: "msgspec.json.Decoder[EgressOrder]" = msgspec.json.Decoder(EgressOrder)
brief_decoder: "msgspec.json.Decoder[BriefOrder]" = msgspec.json.Decoder(BriefOrder)
report_decoder: "msgspec.json.Decoder[Report]" = msgspec.json.Decoder(Report)

Kind = TypeVar("Kind")


class FrameError(Exception):
    """The peer sent a frame over the cap."""


def encode(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


class Frames:
    """Bytes in, whole frames out. begun: the part of a frame that has come."""

    def __init__(self, begun: bytes = b"") -> None:
        self.begun = bytearray(begun)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are now whole; raises FrameError before anything over the cap is kept."""
        self.begun += data
        frames = []
        while len(self.begun) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self.begun)
            if length > MOST_FRAME:
                raise FrameError(f"a frame of {length} bytes is over the cap of {MOST_FRAME}")
            if len(self.begun) < LENGTH.size + length:
                break
            frames.append(bytes(self.begun[LENGTH.size : LENGTH.size + length]))
            del self.begun[: LENGTH.size + length]
        return frames


def decode(decoder: "msgspec.json.Decoder[Kind]", frame: bytes) -> Kind | None:
    """The message, or None for one that this version does not know."""
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError):  # what is of another form is a DecodeError, too
        return None
