"""A client that says exactly what it is told, and reads answers one by one."""

import socket
from typing import NamedTuple


class Answer(NamedTuple):
    """One answer as it came; chunked bodies are taken apart, trailers kept."""

    status: int
    fields: dict[str, str]
    body: bytes
    head: bytes
    trailers: bytes = b""


class Talk:
    """A connection. `get` is the usual request; `send` and `answer` are for all others."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> "Talk":
        self.sock.sendall(data)
        return self

    def get(self, path: str = "/", host: str = "shop.localhost", *fields: str, method: str = "GET") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        self.send("\r\n".join(lines).encode())
        return self.answer(method=method)

    def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            if not line:
                raise EOFError(f"the connection ended in the head: {head!r}")
            head += line
        return head

    def answer(self, method: str = "GET") -> Answer:
        head = self.head()
        lines = head.decode("latin-1").split("\r\n")[:-2]
        status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if method == "HEAD" or status < 200 or status in (204, 304):
            return Answer(status, fields, b"", head)
        if fields.get("transfer-encoding") == "chunked":
            body, trailers = self._chunks()
            return Answer(status, fields, body, head, trailers)
        if "content-length" in fields:
            length = int(fields["content-length"])
            body = self.file.read(length)
            if len(body) < length:
                raise EOFError(f"{len(body)} of {length} bytes came")
            return Answer(status, fields, body, head)
        return Answer(status, fields, self.file.read(), head)

    def _chunks(self) -> tuple[bytes, bytes]:
        body, trailers = b"", b""
        while size := int(self.file.readline().split(b";")[0], 16):
            body += self.file.read(size)
            assert self.file.readline() == b"\r\n"
        while (line := self.file.readline()) != b"\r\n":
            if not line:
                raise EOFError
            trailers += line
        return body, trailers

    def at_end(self) -> bool:
        """Whether the router closed the connection, in order or with a reset."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True
