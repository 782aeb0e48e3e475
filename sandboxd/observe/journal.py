"""The daemon's log as systemd's journal takes it: one datagram a record, with fields to search by (systemd.journal-fields(7)).

Only where stderr is the journal's own ($JOURNAL_STREAM names it, systemd.exec(5)); elsewhere the log is lines on stderr. What
happens to envs is told there, too: `journalctl SANDBOXD_ENV=shop`. A journal that does not hear gets the line by stderr.
"""

import logging
import os
import socket
import sys
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MOST = 48 << 10  # characters; a datagram that is too large (SO_SNDBUF) would be none
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)
events = logging.getLogger("sandboxd.events")


def set_up(environ: Mapping[str, str], path: str = SOCKET) -> None:
    """Have the log go where whoever started us reads it."""
    if not is_journal(environ, sys.stderr.fileno()):
        events.setLevel("WARNING")  # `sandbox events` has them
        logging.basicConfig(level="INFO", format=FORMAT)
        return
    logging.basicConfig(level="INFO", handlers=[JournalHandler(path)])


def is_journal(environ: Mapping[str, str], fd: int) -> bool:
    """Whether this is the stream to the journal that a unit begins with; one that was redirected since is not."""
    found = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def told(event: str, env_id: str, name: str, owner: int, detail: Mapping[str, str]) -> None:
    """Something happened to an env."""
    if events.isEnabledFor(logging.INFO):
        words = " ".join(f"{key}={value}" for key, value in detail.items())
        fields = {"EVENT": event, "ENV": name, "ENV_ID": env_id, "OWNER": str(owner)}
        events.info("env %s: %s", name, f"{event} {words}".rstrip(), extra={"fields": fields})


class JournalHandler(logging.StreamHandler):  # type: ignore[type-arg] # stderr, where the journal does not hear
    """Sends records."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.setFormatter(logging.Formatter("%(message)s"))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """One record; never waits."""
        try:
            self.sock.sendto(datagram(record, self.format(record)), socket.MSG_DONTWAIT, self.path)
        except OSError:
            super().emit(record)

    def close(self) -> None:
        """And its socket."""
        self.sock.close()
        super().close()


def datagram(record: logging.LogRecord, message: str) -> bytes:
    """A record in the journal's own form."""
    fields = {
        "MESSAGE": message[:MOST],
        "PRIORITY": str(next((number for level, number in PRIORITIES if record.levelno >= level), 7)),
        "SYSLOG_IDENTIFIER": "sandboxd",
        "LOGGER": record.name,
    }
    more: Mapping[str, str] = getattr(record, "fields", {})
    return b"".join(field(name, value) for name, value in (fields | {f"SANDBOXD_{key}": more[key] for key in more}).items())


def field(name: str, value: str) -> bytes:
    """One of them; what has line ends goes with its length (JOURNAL_NATIVE_PROTOCOL)."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
