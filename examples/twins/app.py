"""An application that insists on port 3000, and remembers in a file of its home how often it was asked."""

import http.server
import os
from pathlib import Path

COUNT = Path.home() / "count"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the name of its env and its own count."""

    def do_GET(self) -> None:
        count = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
        COUNT.write_text(str(count))
        body = f"{os.environ.get('SANDBOXD_ENV', 'nobody')} on port 3000, asked {count} times\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.HTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
