"""Three servers of three makers, as witnesses: h11, node's http, and nginx before another h11.

A program (`python -m tests.router.corpus.backends DIRECTORY NAME [node nginx]`), run inside a stand-in env; a byte in the
fifo DIRECTORY/ready tells that all are up. Each answers with what it understood; a connection to its second port is answered,
once no connection to the first is open, with all that it saw, answered or not.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import h11

PORTS = {"h11": (3000, 3001), "node": (3010, 3011), "nginx": (3020, 3021)}
BEHIND = 3022  # the h11 that nginx passes on to
STATUS = 3023

NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log crit;
events {{ worker_connections 256; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_set_header Host $http_host; proxy_ignore_client_abort on; }}
    }}
    server {{ listen 127.0.0.1:{status}; location / {{ stub_status; }} }}
}}
"""


class Witness:
    """An h11 server, a thread to a connection."""

    def __init__(self, who: str, port: int) -> None:
        self.who = who
        self.seen: list[list[str]] = []
        self.open = 0
        self.changed = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=512)
        start(self.accept)

    def accept(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            with self.changed:
                self.open += 1
            start(self.serve, sock)

    def serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                self.converse(sock)
        except OSError:
            pass
        finally:
            with self.changed:
                self.open -= 1
                self.changed.notify_all()

    def converse(self, sock: socket.socket) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                request, body = self.request(connection, sock)
            except (h11.RemoteProtocolError, ValueError):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if request is None:
                return
            what = [request.method.decode(), request.target.decode("latin-1"), body.decode("latin-1")]
            with self.changed:
                self.seen.append(what)
            answer = json.dumps({"who": self.who, "what": what}).encode()
            head = h11.Response(status_code=200, headers=[("Content-Length", str(len(answer)))])
            events = [head, h11.EndOfMessage()] if request.method == b"HEAD" else [head, h11.Data(answer), h11.EndOfMessage()]
            sock.sendall(b"".join(connection.send(event) or b"" for event in events))
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def request(self, connection: h11.Connection, sock: socket.socket) -> tuple[h11.Request | None, bytes]:
        """The next one, as a whole."""
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    sock.sendall(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                connection.receive_data(sock.recv(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:  # the end of the connection
                return None, b""

    def tell(self, port: int, *, nginx: bool = False) -> None:
        listener = socket.create_server(("127.0.0.1", port))
        while True:
            sock, _ = listener.accept()
            with sock:
                if nginx:
                    until_idle()
                with self.changed:
                    self.changed.wait_for(lambda: not self.open, 20)
                    sock.sendall(json.dumps(self.seen).encode())
                    self.seen.clear()


def until_idle() -> None:
    """Until nginx serves nobody but who asks: it tells of that in no other way."""
    for _ in range(2000):
        with urllib.request.urlopen(f"http://127.0.0.1:{STATUS}/", timeout=10) as answer:
            if answer.read().startswith(b"Active connections: 1 "):
                return


def start(function: object, *arguments: object, **options: object) -> None:
    threading.Thread(target=function, args=arguments, kwargs=options, daemon=True).start()


def main() -> None:
    directory, name, *others = sys.argv[1:]
    port, control = PORTS["h11"]
    start(Witness(name + " h11", port).tell, control)
    if "node" in others:
        port, control = PORTS["node"]
        program = str(Path(__file__).with_name("node.js"))
        node = subprocess.Popen(["node", program, name + " node", str(port), str(control)], stdout=subprocess.PIPE)
        node.stdout.readline()
    if "nginx" in others:
        port, control = PORTS["nginx"]
        start(Witness(name + " nginx", BEHIND).tell, control, nginx=True)
        config = Path(directory) / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, port=port, behind=BEHIND, status=STATUS))
        subprocess.Popen(["nginx", "-p", directory, "-c", str(config), "-e", "stderr"], env={**os.environ, "PATH": PATH})
        until_listening(port)
    (Path(directory) / "ready").write_bytes(b"up")
    threading.Event().wait()


PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def until_listening(port: int) -> None:
    """Nginx says nothing when it is up."""
    pause = threading.Event()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            pause.wait(0.02)
        else:
            return


if __name__ == "__main__":
    main()
