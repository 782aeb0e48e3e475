"""A server inside a stand-in env that knows how many requests it has at once, and in which order they came."""

import itertools
import json
import socket
import threading
import time

from tests.router.servers import each, read_head


class Counter:
    """Of one listener."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = 0
        self.numbers = itertools.count(1)

    def serve(self, sock: socket.socket) -> None:
        """`GET /SECONDS` is answered after so long; `/never` never, nor is a WebSocket's switch followed by anything."""
        file = sock.makefile("rb")
        while head := read_head(file):
            with self.lock:
                self.now += 1
                found = [self.now, next(self.numbers)]
            path = head.split(b" ")[1].strip(b"/")
            try:
                if b"Upgrade:" in head:
                    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                if path == b"never":
                    file.read()
                    return
                time.sleep(float(path or 0))
            finally:
                with self.lock:
                    self.now -= 1
            body = json.dumps(found).encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def counting(listener: socket.socket, _name: str) -> None:
    each(listener, Counter().serve)
