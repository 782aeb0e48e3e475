"""The servers inside stand-in envs: HTTP of every form that tests need, raw TCP, and answers spelled out by the test."""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.router.corpus.answers import ROWS as ANSWERS

PATTERN = bytes(range(256)) * 256


def spawn(function: Callable[..., object], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def each(listener: socket.socket, function: Callable[..., object], *arguments: object) -> None:
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spawn(guarded, function, sock, *arguments)


def guarded(function: Callable[..., object], sock: socket.socket, *arguments: object) -> None:
    try:
        function(sock, *arguments)
    except OSError:
        pass
    finally:
        sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def http(listener: socket.socket, name: str) -> None:
    each(listener, serve_http, name)


def echo(listener: socket.socket, _name: str) -> None:
    each(listener, serve_echo)


def serve_echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.sendall(b"<end>")


def raw(listener: socket.socket, _name: str) -> None:
    each(listener, serve_raw)


def serve_raw(sock: socket.socket) -> None:
    """One line names what to do."""
    file = sock.makefile("rb")
    word, _, number = file.readline().strip().partition(b" ")
    count = int(number or 0)
    if word == b"reset-after":
        sock.sendall(pattern(count))
        time.sleep(0.05)
        reset(sock)
    elif word == b"send-then-close":  # with input unread: the kernel makes it a reset
        sock.sendall(pattern(count))
        time.sleep(0.05)  # a reset takes what was not yet delivered with it, with a router between or without
        sock.close()
    elif word == b"finish-first":
        sock.sendall(b"mine")
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        while sock.recv(65536):
            pass
    elif word == b"sink":
        digest = hashlib.sha256()
        while data := file.read1(1 << 16):
            digest.update(data)
        sock.sendall(digest.hexdigest().encode())
    elif word == b"wait":
        while sock.recv(65536):
            pass
    elif word == b"bytes":
        sock.sendall(pattern(count))


def answers(listener: socket.socket, _name: str) -> None:
    """Answers each connection with the bytes that the request's X-Answer field holds in hex, then closes."""
    each(listener, serve_answers)


def serve_answers(sock: socket.socket) -> None:
    while head := read_head(sock.makefile("rb")):
        fields = fields_of(head)
        repeated, _, count = fields.get("x-repeat", ",0").partition(",")
        sock.sendall(bytes.fromhex(fields["x-answer"]) + bytes.fromhex(repeated) * int(count))
        if "x-keep" not in fields:
            return


def book(listener: socket.socket, _name: str) -> None:
    """Answers `GET /NUMBER/STEP` with that row of the corpus in pieces of that size (0: at once); keeps what was whole."""
    each(listener, serve_book)


def serve_book(sock: socket.socket) -> None:
    rows = list(ANSWERS.values())
    file = sock.makefile("rb")
    while head := read_head(file):
        path = head.split(b" ")[1]
        if path.startswith(b"/next"):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
            continue
        number, step = map(int, path.strip(b"/").split(b"/"))
        data, verdict = rows[number][:2]
        for at in range(0, len(data), step or len(data) or 1):
            sock.sendall(data[at : at + (step or len(data) or 1)])
        if not isinstance(verdict, int):
            return


def series(listener: socket.socket, _name: str) -> None:
    """Answers request after request, of whichever connection, with the next of SERIES: what is asked for says nothing of it."""
    each(listener, serve_series, iter(SERIES))


def serve_series(sock: socket.socket, rows: Iterator[tuple[bytes, ...]]) -> None:
    file = sock.makefile("rb")
    while read_head(file):
        pieces = next(rows)
        for piece in pieces:
            sock.sendall(piece)
            if piece is not pieces[-1]:
                time.sleep(0.02)  # so that they do not arrive as one
        if pieces[-1] == b"":
            return


def one_at_a_time(listener: socket.socket, name: str) -> None:
    while True:
        sock, _ = listener.accept()
        guarded(serve_http, sock, name)


HEAD = b"HTTP/1.1 200 OK\r\nServer: series\r\nContent-Length: %d\r\n\r\n"
ALIKE = [(HEAD % 5 + letter * 5,) for letter in (b"a", b"b", b"c", b"d")]
SERIES: list[tuple[bytes, ...]] = [
    *ALIKE,
    (HEAD % 5 + b"e", b"eeee"),
    *ALIKE,
    (HEAD % 5, b"fffff"),
    *ALIKE,
    (HEAD % 6 + b"gggggg",),
    *ALIKE,
    (HEAD.replace(b"200", b"404") % 5 + b"hhhhh",),
    *ALIKE,
    (b"HTTP/1.1 100 Continue\r\n\r\n", HEAD % 5 + b"iiiii"),
    *ALIKE,
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\njj\r\n0\r\n\r\n",),
    *ALIKE,
    (HEAD % 5 + b"kkkkk", b""),  # and closes, which it did not say
    *ALIKE,
    (HEAD % 20000 + b"l" * 20000,),
    *[(HEAD % 20000 + b"m" * 20000,)] * 3,
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nnnnnn", b""),
]
SERVERS = {"http": http, "echo": echo, "raw": raw, "answers": answers, "single": one_at_a_time, "book": book, "series": series}


def pattern(count: int) -> bytes:
    return (PATTERN * (count // len(PATTERN) + 1))[:count]


def read_head(file: Any) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline(65536)
        if not line:
            return b""
        head += line
    return head


def fields_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read_body(file: Any, fields: dict[str, str]) -> Iterator[Any]:
    """Pieces of the body; the trailers of a chunked one are the last piece, as a list."""
    if fields.get("transfer-encoding") == "chunked":
        while size := int(file.readline().split(b";")[0], 16):
            left = size
            while left:
                piece = file.read1(min(left, 1 << 16))
                left -= len(piece)
                yield piece
            file.readline()
        trailers = []
        while (line := file.readline()) not in (b"\r\n", b""):
            trailers.append(line.decode().strip())
        yield trailers
    else:
        left = int(fields.get("content-length", 0))
        while left:
            piece = file.read1(min(left, 1 << 16))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            yield piece


def serve_http(sock: socket.socket, name: str) -> None:
    file = sock.makefile("rb")
    served = 0
    while head := read_head(file):
        served += 1
        call = Call(sock, file, head, served)
        call.name = name
        handler = PATHS.get(call.path, page)
        if not handler(call) or call.fields.get("connection", "").lower() == "close" or call.version == "HTTP/1.0":
            return


class Call:
    """One request as a handler gets it; what it returns tells whether the connection goes on."""

    def __init__(self, sock: socket.socket, file: Any, head: bytes, served: int) -> None:
        self.sock, self.file, self.head, self.served = sock, file, head, served
        self.method, target, self.version = head.split(b"\r\n")[0].decode().split(" ")
        self.path, _, self.query = target.partition("?")
        self.fields = fields_of(head)
        self.name = ""

    def body(self) -> Iterator[Any]:
        return read_body(self.file, self.fields)

    def answer(self, body: bytes, *extra: str, status: str = "200 OK") -> bool:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *extra, "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + (b"" if self.method == "HEAD" else body))
        return True


def page(call: Call) -> bool:
    for _ in call.body():
        pass
    return call.answer(f"{call.name} {call.served}\n".encode(), "Content-Type: text/plain")


def show(call: Call) -> bool:
    for _ in call.body():
        pass
    return call.answer(call.head)


def digest(call: Call) -> bool:
    found, count, trailers = hashlib.sha256(), 0, []
    for piece in call.body():
        if isinstance(piece, list):
            trailers = piece
        else:
            found.update(piece)
            count += len(piece)
    return call.answer(json.dumps([count, found.hexdigest(), trailers]).encode())


def continued(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return digest(call)


def refused_early(call: Call) -> bool:
    call.answer(b"no", "Connection: close", status="413 Content Too Large")
    return False


def refused_then_reset(call: Call) -> bool:
    call.answer(b"no", "Connection: close", status="413 Content Too Large")
    time.sleep(0.05)
    reset(call.sock)
    return False


def sized(call: Call) -> bool:
    """Any number of bytes, whose hash is that of pattern(n)."""
    count = int(call.query)
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
    block = PATTERN * 16
    for _ in range(count // len(block)):
        call.sock.sendall(block)
    call.sock.sendall(block[: count % len(block)])
    return True


def chunked(call: Call) -> bool:
    size, _, count = call.query.partition(",")
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = pattern(int(size))
    for _ in range(int(count)):
        call.sock.sendall(b"%x\r\n%b\r\n" % (len(block), block))
    call.sock.sendall(b"0\r\nX-Sum: 7\r\n\r\n")
    return True


def until_close(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n" + pattern(int(call.query)))
    return False


def events(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    for number in range(int(call.query or 1000000)):
        call.sock.sendall(b"data: %d\n\n" % number)
        time.sleep(0.02)
    return False


def gated(call: Call) -> bool:
    """Streams one piece, then waits until another connection opens the gate."""
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    gate.wait(30)
    call.sock.sendall(b"3\r\ntwo\r\n0\r\n\r\n")
    return True


gate = threading.Event()


def open_gate(call: Call) -> bool:
    gate.set()
    return call.answer(b"open")


def empty(call: Call) -> bool:
    status = {"204": "204 No Content", "304": "304 Not Modified"}[call.query]
    extra = "Content-Length: 5\r\n" if call.query == "304" else ""
    call.sock.sendall(f"HTTP/1.1 {status}\r\n{extra}\r\n".encode())
    return True


def hints(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
    return call.answer(b"after hints")


def trickle(call: Call) -> bool:
    """The same answer each time, a few bytes at a time."""
    data = b"HTTP/1.1 200 OK\r\nX-Same: yes\r\nContent-Length: 6\r\n\r\nsame%b\n" % call.query.encode()
    for at in range(0, len(data), 9):
        call.sock.sendall(data[at : at + 9])
        time.sleep(0.002)
    return True


def same(call: Call) -> bool:
    """The same answer, at once."""
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nX-Same: yes\r\nContent-Length: 6\r\n\r\nsame%b\n" % call.query.encode())
    return True


def cut_off(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + pattern(int(call.query)))
    time.sleep(0.05)
    reset(call.sock)
    return False


def cut_off_stream(call: Call) -> bool:
    call.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + pattern(int(call.query)))
    time.sleep(0.05)
    reset(call.sock)
    return False


def hang(call: Call) -> bool:
    while call.sock.recv(65536):
        pass
    return False


def no_answer(call: Call) -> bool:
    return False


def once_then_die(call: Call) -> bool:
    """Keeps the connection, and closes it at the next request without a word, as servers do whose keep-alive ran out."""
    call.answer(f"{call.name} {call.served}".encode())
    read_head(call.file)
    return False


def upgrade(call: Call) -> bool:
    call.sock.sendall(
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {call.fields['upgrade']}\r\n\r\nhi:".encode()
    )
    while data := call.file.read1(65536):
        call.sock.sendall(data.upper())
    call.sock.sendall(b"<end>")
    return False


def upgrade_refused(call: Call) -> bool:
    return call.answer(b"not here")


PATHS = {
    "/show": show,
    "/digest": digest,
    "/continued": continued,
    "/refused-early": refused_early,
    "/refused-then-reset": refused_then_reset,
    "/bytes": sized,
    "/chunked": chunked,
    "/until-close": until_close,
    "/events": events,
    "/gated": gated,
    "/open-gate": open_gate,
    "/empty": empty,
    "/hints": hints,
    "/trickle": trickle,
    "/same": same,
    "/cut-off": cut_off,
    "/cut-off-stream": cut_off_stream,
    "/hang": hang,
    "/no-answer": no_answer,
    "/once": once_then_die,
    "/upgrade": upgrade,
    "/upgrade-refused": upgrade_refused,
}
