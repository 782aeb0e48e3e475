"""What a program says to a proxy: HTTP CONNECT, HTTP requests in absolute form, SOCKS5; and the answers. Pure.

For envs whose way out is by proxy variables. The first byte tells the languages apart: 5 is SOCKS (RFC 1928), a letter HTTP
(RFC 9110 9.3.6, RFC 9112 3.2.2). A request in clear is rewritten for its server and made the last of its connection, so that
none for another server can follow it. Invariant: what was read is capped, and nothing of it is passed on unread but a body.
"""

import ipaddress
import re
from typing import NamedTuple

MOST_HEAD = 1 << 15
SOCKS, CONNECT_TO, IPV4, NAME, IPV6 = 5, 1, 1, 3, 4
GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) (HTTP/1\.[01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)")
ABSOLUTE = re.compile(rb"(?i:http)://([^/?#@]+)([/?][^#]*)?")
PLACE = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")
DROPPED = (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate")
BAD, DENIED, UNREACHABLE = "400 Bad Request", "403 Forbidden", "502 Bad Gateway"
SOCKS_CODES = {BAD: 7, DENIED: 2, UNREACHABLE: 4}  # RFC 1928 6: command not supported, not allowed, host unreachable


class Asked(NamedTuple):
    """Where to. granted: what to answer once the connection stands; first: what its server gets first of all."""

    host: str
    port: int
    granted: bytes
    first: bytes


class Refused(Exception):
    """It asks for nothing that can be had; `reply` says so."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class Conversation:
    """One connection's, up to the answer. asked: where to, once that is known."""

    def __init__(self) -> None:
        self.asked: Asked | None = None
        self._buffer = b""
        self._greeted = False

    def feed(self, data: bytes) -> bytes:
        """What came, and what to answer now; raises Refused."""
        self._buffer += data
        if not self._buffer:
            return b""
        if self._buffer[0] == SOCKS:
            return self._socks()
        self._http()
        return b""

    def refusal(self, status: str, text: str) -> bytes:
        """That it cannot be, in the language it was asked in."""
        if self._greeted:
            return bytes((SOCKS, SOCKS_CODES[status], 0, IPV4, 0, 0, 0, 0, 0, 0))
        body = f"sandboxd: {text}\n".encode(errors="replace")
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body

    # -- SOCKS5 ----------------------------------------------------------------------------------------------------------

    def _socks(self) -> bytes:
        buffer = self._buffer
        if not self._greeted:
            if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
                return b""
            if 0 not in buffer[2 : 2 + buffer[1]]:
                raise Refused(bytes((SOCKS, 0xFF)))
            self._buffer = buffer[2 + buffer[1] :]
            self._greeted = True
            return bytes((SOCKS, 0)) + (self._socks() if self._buffer else b"")
        if len(buffer) < 5:
            return b""
        kind = buffer[3]
        size = {IPV4: 4, IPV6: 16, NAME: 1 + buffer[4]}.get(kind, 0)
        if buffer[0] != SOCKS or buffer[1] != CONNECT_TO or not size:
            raise Refused(self.refusal(BAD, ""))
        if len(buffer) < 6 + size:
            return b""
        raw, port = buffer[4 : 4 + size], int.from_bytes(buffer[4 + size : 6 + size], "big")
        host = raw[1:].decode("latin-1") if kind == NAME else str(ipaddress.ip_address(raw))
        if not port or not PLACE.fullmatch(host.encode("latin-1") if kind != IPV6 else b"v6"):
            raise Refused(self.refusal(BAD, ""))
        granted = bytes((SOCKS, 0, 0, IPV4, 0, 0, 0, 0, 0, 0))
        self._done(host, port, granted, b"", buffer[6 + size :])
        return b""

    # -- HTTP ------------------------------------------------------------------------------------------------------------

    def _http(self) -> None:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MOST_HEAD:
            raise Refused(self.refusal(BAD, "the head of the request is too long"))
        if not end:
            return
        first, *lines = head.split(b"\r\n")
        found = REQUEST.fullmatch(first)
        fields = [FIELD.fullmatch(line) for line in lines]
        if found is None or None in fields:
            raise Refused(self.refusal(BAD, "no request that a proxy takes"))
        method, target, version = found.groups()
        if method == b"CONNECT":
            host, port = self._place(target, 0)
            self._done(host, port, GRANTED, b"", rest)
            return
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(self.refusal(BAD, "a request to a proxy names http://HOST/PATH"))
        host, port = self._place(absolute[1], 80)
        path = absolute[2] or b"/"
        path = path if path.startswith(b"/") else b"/" + path
        pairs = [(field[1], field[2]) for field in fields if field is not None]
        kept = [(name, value) for name, value in pairs if name.lower() not in (*DROPPED, b"host")]
        head = b"".join(b"%s: %s\r\n" % pair for pair in [(b"Host", absolute[1]), *kept, (b"Connection", b"close")])
        self._done(host, port, b"", b"%s %s %s\r\n%s\r\n" % (method, path, version, head) + rest, b"")

    def _place(self, text: bytes, port: int) -> tuple[str, int]:
        found = PLACE.fullmatch(text)
        number = int(found[3] or port) if found is not None else 0
        if found is None or not 0 < number < 65536:
            raise Refused(self.refusal(BAD, "no host and port"))
        return (found[1] or found[2]).decode(), number

    def _done(self, host: str, port: int, granted: bytes, first: bytes, early: bytes) -> None:
        """early: what came before the answer, which the look at TLS would miss."""
        if early:
            raise Refused(self.refusal(BAD, "it did not wait for the answer"))
        self.asked = Asked(host.lower().rstrip("."), port, granted, first)
