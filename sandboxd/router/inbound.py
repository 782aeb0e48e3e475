"""Who is connected to an env now, as `sandbox net` shows it. Looked up when somebody asks, so that no request pays for it.

Bytes are those that the flows count anyway: of a tunnel all of them, of a request or an answer those of the body that is under
way. Imports client and published, and routing.outlets. Invariant: what is told is bounded, whoever is connected.
"""

from collections.abc import Iterable
from itertools import islice

from sandboxd.router.client import Client
from sandboxd.router.listener import joined
from sandboxd.router.published import Raw
from sandboxd.router.unixes import PEER
from sandboxd.routing.outlets import Passage

MOST_TOLD = 256  # connections of one worker
MOST_NAME = 255


def passages(connections: "Iterable[Client | Raw]", env_id: str) -> list[Passage]:
    """The connections that lead to that env, or lead there no more and are kept."""
    found = (one for one in connections if is_of(one, env_id))
    return [told(one) for one in islice(found, MOST_TOLD)]


def is_of(one: "Client | Raw", env_id: str) -> bool:
    """Whether it is that env's."""
    if one.backend is not None and one.backend.env.env_id == env_id:
        return True
    return isinstance(one, Client) and any(backend.env.env_id == env_id for backend in one.upstreams)


def told(one: "Client | Raw") -> Passage:
    """In words. sent: from the env, as of what goes out."""
    host, port = one.source[:2]
    if isinstance(one, Raw):
        name, way, began, inward, outward = asked_for(one), one.protocol, one.began, None, None
    else:
        name, began, inward, outward = (one.host or b"").decode("latin-1"), one.born, one.sending, one.receiving
        way = "tunnel" if one.tunnel is not None else "http" if one.busy else "http, idle"
    if one.tunnel is not None:
        inward, outward = one.tunnel.inward, one.tunnel.outward
    return Passage(
        # No serial number is given to connections; this one tells those apart that are there at one time.
        number=-(int(began * 1000) << 16 | one.fd & 0xFFFF),
        name=name[:MOST_NAME],
        address=f"pid {port}" if host == PEER else joined(host, port),
        port=(one.backend.endpoint.port or 0) if one.backend is not None else 0,
        state="open",
        rule=way,
        sent=outward.moved if outward is not None else 0,
        received=inward.moved if inward is not None else 0,
        began=began,
        incoming=True,
    )


def asked_for(raw: Raw) -> str:
    """The name in its hello, or the published address."""
    if raw.port is None:
        return raw.name.decode("latin-1")
    return joined(raw.port.published.address, raw.port.published.host_port)
