"""The name in a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3), and the alert for one that leads nowhere.

Pure. The bytes go on to the service as they came, so nothing is decided but where to: strict in what frames the name, blind to
all else (versions, ciphers, ALPN, GREASE). A hello may come in several records and any pieces; it is capped before it is
looked at. Encrypted hellos show their outer name, which is what a relay is to see. Invariant: a name, None for "not yet", or
HelloError with the alert to answer.
"""

import re

MOST_HELLO = 16384  # of bytes, records' heads included; 18 kB post-quantum hellos are not seen, 2 kB ones are
HANDSHAKE, CLIENT_HELLO = 22, 1
SERVER_NAME, HOST_NAME = 0, 0
RECORD_HEAD, MOST_RECORD = 5, 16384
NAME = re.compile(rb"[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63})*")

# Alerts (RFC 8446 6, RFC 6066)
UNEXPECTED_MESSAGE, DECODE_ERROR, INTERNAL_ERROR, ACCESS_DENIED, UNRECOGNIZED_NAME = 10, 50, 80, 49, 112


class HelloError(Exception):
    """A connection that cannot be passed on. alert: the description to answer with."""

    def __init__(self, alert: int, reason: str) -> None:
        super().__init__(reason)
        self.alert = alert
        self.reason = reason


def alert(description: int) -> bytes:
    """A fatal alert, as a record of TLS 1.2, which every version takes before it has agreed on another."""
    return bytes((21, 3, 3, 0, 2, 2, description))


def server_name(data: bytes) -> bytes | None:
    """The name that the hello in these bytes asks for, in lower case; raises HelloError."""
    message = handshake(data)
    if message is None:
        if len(data) >= MOST_HELLO:
            raise HelloError(DECODE_ERROR, "the hello is too large")
        return None
    return name_in(Reader(message))


def handshake(data: bytes) -> bytes | None:
    """The body of the ClientHello, put together from its records; None: more bytes are needed."""
    message, at = b"", 0
    while True:
        head = data[at : at + RECORD_HEAD]
        # What is there of the head is judged at once: a client that speaks something else is told so.
        if head[:1] not in (b"", bytes((HANDSHAKE,))):
            raise HelloError(UNEXPECTED_MESSAGE, "it is no handshake")
        if head[1:2] not in (b"", b"\x03"):
            raise HelloError(DECODE_ERROR, "it is no TLS")
        if len(head) < RECORD_HEAD:
            return None
        length = int.from_bytes(head[3:], "big")
        if not 0 < length <= MOST_RECORD:
            raise HelloError(DECODE_ERROR, "a record is empty or too long")
        message += data[at + RECORD_HEAD : at + RECORD_HEAD + length]
        if message and message[0] != CLIENT_HELLO:
            raise HelloError(UNEXPECTED_MESSAGE, "it does not begin with a hello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > MOST_HELLO:
                raise HelloError(DECODE_ERROR, "the hello is too large")
            if len(message) >= 4 + size:
                return message[4 : 4 + size]
        at += RECORD_HEAD + length
        if at > len(data):
            return None


class Reader:
    """Takes bytes off a message; raises HelloError where there are not enough."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next ones."""
        taken = self.data[self.at : self.at + count]
        if len(taken) < count:
            raise HelloError(DECODE_ERROR, "the hello is cut short")
        self.at += count
        return taken

    def number(self, size: int) -> int:
        """A number of that many bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> "Reader":
        """What a length of that many bytes states."""
        return Reader(self.take(self.number(size)))

    @property
    def left(self) -> bool:
        """Whether there is more."""
        return self.at < len(self.data)


def name_in(hello: Reader) -> bytes:
    """The one host name among the extensions."""
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # ciphers
    hello.vector(1)  # compressions
    found: bytes | None = None
    extensions = hello.vector(2) if hello.left else Reader(b"")
    if hello.left:
        raise HelloError(DECODE_ERROR, "bytes follow the extensions")
    while extensions.left:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == SERVER_NAME:
            if found is not None:
                raise HelloError(DECODE_ERROR, "the name is given twice")
            found = listed(body)
    if found is None:
        raise HelloError(UNRECOGNIZED_NAME, "no name is asked for")
    return found


def listed(body: Reader) -> bytes:
    """The name in a server_name extension: of one list with one entry, the only form in use."""
    names = body.vector(2)
    if body.left:
        raise HelloError(DECODE_ERROR, "bytes follow the list of names")
    kind, name = names.number(1), names.vector(2).data
    if names.left or kind != HOST_NAME:
        raise HelloError(DECODE_ERROR, "more than one name is asked for, or one of another kind")
    if len(name) > 253 or not NAME.fullmatch(name):
        raise HelloError(UNRECOGNIZED_NAME, "the name is no host name")
    return name.lower()
