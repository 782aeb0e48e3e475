"""http://sandboxd.localhost:7070: what the daemon itself shows over HTTP, behind the router, which frames and refuses.

A listener on a loopback port that nobody is told of but the router's table. Whoever connects must be the daemon's own user or
root, as on the control socket: the kernel says whose a loopback connection is (sock_diag(7)), and the router has checked its
client in the same way. Heads are capped, every wait is bounded, each connection answers one request.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable

from sandboxd.kernel.sockdiag import peer_uid
from sandboxd.observe.metrics import CONTENT_TYPE
from sandboxd.routing.table import Endpoint

log = logging.getLogger(__name__)

NAME = "sandboxd"
HEAD_LIMIT = 16 << 10
PATIENCE = 5.0
MOST_AT_ONCE = 16


class Web:
    """The listener. scrape: gives the text for /metrics."""

    def __init__(self, scrape: Callable[[], Awaitable[bytes]]) -> None:
        self._scrape = scrape
        self._server: asyncio.Server | None = None
        self._scraping = asyncio.Lock()
        self._open = 0

    async def start(self) -> Endpoint:
        """Serve; where the router finds it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
        port = self._server.sockets[0].getsockname()[1]
        return Endpoint(
            env_id=NAME, name=NAME, service=NAME, state="ready", dial="", port=port, netns_cookie=0, owner=os.geteuid()
        )

    async def stop(self) -> None:
        """Close the listener; who is being answered is answered."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(await self._answer(reader, writer.get_extra_info("socket")))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("a client of %s.localhost did not come to its end", NAME)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, sock: socket.socket) -> bytes:
        # asyncio hands out a look-alike of the socket; the look-up needs no more of it than its two names.
        if peer_uid(sock) not in (0, os.geteuid()):
            return response("403 Forbidden", b"this is shown to its owner only\n")
        if self._open > MOST_AT_ONCE:
            return response("503 Service Unavailable", b"too many at once\n")
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return response("404 Not Found", b"there is /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return response("405 Method Not Allowed", b"GET it\n", extra="Allow: GET, HEAD\r\n")
        async with self._scraping:
            body = await self._scrape()
        return response("200 OK", body, kind=CONTENT_TYPE, bodiless=method == b"HEAD")


def response(
    status: str, body: bytes, *, kind: str = "text/plain; charset=utf-8", extra: str = "", bodiless: bool = False
) -> bytes:
    """One whole answer; the connection ends with it."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if bodiless else body)
