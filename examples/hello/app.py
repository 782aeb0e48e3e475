"""A web server of the standard library that tells what it sees from inside its env."""

import http.server
import os
import socket


def page() -> str:
    """What there is to be seen from here."""
    processes = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    lines = [
        f"Hello from {os.environ.get('SANDBOXD_ENV', 'no env at all')}.",
        "",
        f"host name    {socket.gethostname()}",
        f"reached at   {os.environ.get('SANDBOXD_URL', 'unknown')}",
        f"listens on   127.0.0.1:{PORT}, which no other env can reach",
        f"processes    {len(processes)}, this one is {os.getpid()}",
        f"workspace    {os.getcwd()}",
        f"home         {os.path.expanduser('~')}, in it: {', '.join(os.listdir(os.path.expanduser('~'))) or 'nothing'}",
    ]
    return "\n".join(lines) + "\n"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the page."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PORT = int(os.environ.get("PORT", "8000"))

if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
