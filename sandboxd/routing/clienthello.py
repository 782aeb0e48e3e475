"""The server name that a TLS client asks for, from the first bytes of its connection.

Pure. Three answers: the name, "" for what is no TLS or names nobody, None while more bytes are needed; what begins as TLS and
then breaks its rules, or is over the cap, is a HelloError. Records, and the hello in them, may be cut anywhere (RFC 8446 5.1).
"""

MOST = 1 << 15  # a hello with post-quantum key shares has 2 KiB
HANDSHAKE, CLIENT_HELLO, SERVER_NAME, HOST_NAME = 22, 1, 0, 0


class HelloError(Exception):
    """It is no hello that a TLS client sends."""


def server_name(data: bytes | bytearray) -> str | None:
    """See above."""
    if not data:
        return None
    if data[0] != HANDSHAKE or (len(data) > 1 and data[1] != 3):
        return ""
    hello = handshake(data)
    if hello is None:
        if len(data) > MOST:
            raise HelloError("it is too long")
        return None
    try:
        return name_in(hello)
    except IndexError:
        raise HelloError("it is cut short") from None


def handshake(data: bytes | bytearray) -> bytes | None:
    """The body of the first handshake message, out of its records; None while it is not whole."""
    body = bytearray()
    offset = 0
    while True:
        if len(body) >= 4:
            if body[0] != CLIENT_HELLO:
                raise HelloError("it begins with another message")
            length = int.from_bytes(body[1:4], "big")
            if length > MOST:
                raise HelloError("it is too long")
            if len(body) >= 4 + length:
                return bytes(body[4 : 4 + length])
        if len(data) < offset + 5:
            return None
        if data[offset] != HANDSHAKE or data[offset + 1] != 3:
            raise HelloError("another record is in between")
        length = int.from_bytes(data[offset + 3 : offset + 5], "big")
        if not 0 < length <= 1 << 14:
            raise HelloError("a record has no length that there is")
        body += data[offset + 5 : offset + 5 + length]
        offset += 5 + length


class Reader:
    """A cursor; reading past the end is an IndexError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """That many bytes."""
        if self.at + count > len(self.data):
            raise IndexError
        self.at += count
        return self.data[self.at - count : self.at]

    def vector(self, width: int) -> bytes:
        """Bytes with their length before them."""
        return self.take(int.from_bytes(self.take(width), "big"))


def name_in(hello: bytes) -> str:
    """The host name of a ClientHello (RFC 8446 4.1.2, RFC 6066 3); "" when there is none. Raises HelloError, IndexError."""
    reader = Reader(hello)
    reader.take(2 + 32)
    for width in (1, 2, 1):  # session, cipher suites, compression
        reader.vector(width)
    if reader.at == len(hello):
        return ""
    extensions = Reader(reader.vector(2))
    found = ""
    while extensions.at < len(extensions.data):
        kind = int.from_bytes(extensions.take(2), "big")
        body = extensions.vector(2)
        if kind != SERVER_NAME:
            continue
        names = Reader(Reader(body).vector(2))
        if found or names.take(1)[0] != HOST_NAME:
            raise HelloError("it names its server twice, or not by a host name")
        found = names.vector(2).decode("ascii", "replace").lower().rstrip(".")
        if names.at != len(names.data) or not found:
            raise HelloError("it names its server twice, or by nothing")
    return found
