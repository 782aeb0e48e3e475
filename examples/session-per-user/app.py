"""Notes of one visitor. It knows nothing of sessions: whoever reaches it is the one it is there for.

Notes are kept in a file of its home, which is private to its env and outlives a stop.
"""

import html
import http.server
import json
import os
import urllib.parse
from pathlib import Path

NOTES = Path.home() / "notes.json"
PAGE = """<!doctype html><title>Notes</title><h1>Your notes</h1><ul>{notes}</ul>
<form method="post"><input name="note" autofocus><button>Add</button></form><p>Kept by {env}, for nobody but you.</p>
"""


def notes() -> list[str]:
    """Those written so far."""
    return json.loads(NOTES.read_text()) if NOTES.exists() else []


class Handler(http.server.BaseHTTPRequestHandler):
    """GET shows the notes (as JSON to programs), POST adds one."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "text/html" in self.headers.get("Accept", ""):
            items = "".join(f"<li>{html.escape(note)}" for note in notes())
            self.answer(200, "text/html", PAGE.format(notes=items, env=os.uname().nodename))
        else:
            self.answer(200, "application/json", json.dumps(notes()) + "\n")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        added = urllib.parse.parse_qs(body).get("note", [])
        NOTES.write_text(json.dumps([*notes(), *added]))
        self.send_response(303)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, kind: str, text: str) -> None:
        """The whole of one."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """A browser keeps a connection open, and may open another."""

    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", 8000), Handler).serve_forever()
