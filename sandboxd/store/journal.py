"""What the daemon must remember: one record per env, the last events, a few facts; in sqlite, one transaction per call.

Touches one file, and waits for the disk only in `fold`, which is for a thread of its own. WAL with synchronous=NORMAL: what a
call wrote is there for whoever opens the file after this process dies at any moment; only a power cut may take the last calls
(and then the envs are gone too), never the file's sense.
Records are bytes to this module. Everything sqlite can say becomes StoreFailed with what to do.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from sandboxd.errors import StoreFailed

SCHEMA = 1
KEPT_EVENTS = 10_000
TRIM_EVERY = 256  # events; trimming each time would touch two more pages a call
BUSY_MS = 2000
# Pages after which a write takes the log into the database itself, with three waits for the disk (fsync(2); 2 to 20 ms each,
# measured, in which the daemon answers nobody): `fold` does that long before. And bytes of the log's file that are kept.
MOST_PAGES, LOG_KEPT = 16_384, 4 << 20

# From each schema to the next, as statements. In one transaction with what follows, so a death leaves either.
MIGRATIONS: dict[int, tuple[str, ...]] = {}

TABLES = """
CREATE TABLE IF NOT EXISTS envs (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS templates (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Value = str | bytes | int | float


class Journal:
    """The daemon's memory. Used by one thread; raises StoreFailed."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        """Open or make the database; a damaged one, or one of a newer sandboxd, is refused and left as it is. An older one is
        migrated. readonly: only look, at one that is there."""
        self.path = path
        if readonly:
            self._look(path)
            return
        try:
            with contextlib.suppress(OSError):  # sqlite says it better; its other two files take their mode from this one
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
        except sqlite3.Error as error:
            raise failed(error, path) from error
        try:
            self._open()
        except BaseException as error:
            self._db.close()
            if isinstance(error, (sqlite3.Error, UnicodeError)):
                raise failed(error, path) from error
            raise

    def put(self, env_id: str, record: bytes) -> None:
        """Write an env's record, new or anew; committed on return."""
        self._run("INSERT INTO envs VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record", env_id, record)

    def remove(self, env_id: str) -> None:
        """Forget an env; one that is not there is forgotten already."""
        self._run("DELETE FROM envs WHERE id = ?", env_id)

    def change(self, records: Mapping[str, bytes | None]) -> None:
        """Write these envs' records, or forget them (None), as one transaction: all of it, or none."""
        with self.together() if len(records) > 1 else contextlib.nullcontext():
            for env_id, record in records.items():
                if record is None:
                    self.remove(env_id)
                else:
                    self.put(env_id, record)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written within is one transaction, committed at the end: all of it, or none and StoreFailed."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk rolls back by itself
                self._run("ROLLBACK")
            raise

    def all(self) -> list[tuple[str, bytes]]:
        """Every env's record, by id."""
        return [(str(env_id), as_bytes(record)) for env_id, record in self._run("SELECT id, record FROM envs ORDER BY id")]

    def put_template(self, name: str, record: bytes) -> None:
        """Write a template, new or anew."""
        sql = "INSERT INTO templates VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record"
        self._run(sql, name, record)

    def remove_template(self, name: str) -> None:
        """Forget a template."""
        self._run("DELETE FROM templates WHERE name = ?", name)

    def templates(self) -> list[bytes]:
        """Every template, by name."""
        return [as_bytes(record) for (record,) in self._run("SELECT record FROM templates ORDER BY name")]

    def fact(self, key: str) -> str:
        """A fact by its name, or ""."""
        return next((str(value) for (value,) in self._run("SELECT value FROM meta WHERE key = ?", key)), "")

    def put_fact(self, key: str, value: str) -> None:
        """Write a fact."""
        self._run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)

    def add_events(self, events: Iterable[tuple[float, bytes]]) -> None:
        """Append events, (seconds since the epoch, body) each, in one transaction. The oldest give way."""
        rows = list(events)
        with self.together():
            try:
                self._db.executemany("INSERT INTO events (time, body) VALUES (?, ?)", rows)
            except sqlite3.Error as error:
                raise failed(error, self.path) from error
            ((seq,),) = self._run("SELECT last_insert_rowid()")
            if int(seq) % TRIM_EVERY < len(rows):
                self._run("DELETE FROM events WHERE seq <= ?", int(seq) - KEPT_EVENTS)

    def events(self, since: float = 0.0) -> list[bytes]:
        """Events since a time (seconds since the epoch), oldest first; the last 10,000 at most."""
        sql = "SELECT body FROM (SELECT seq, body FROM events WHERE time >= ? ORDER BY seq DESC LIMIT ?) ORDER BY seq"
        return [as_bytes(body) for (body,) in self._run(sql, since, KEPT_EVENTS)]

    @property
    def written(self) -> int:
        """How many rows were changed so far."""
        return self._db.total_changes

    def close(self) -> None:
        """Close the database; the write-ahead log goes into it."""
        self._db.close()

    def _look(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_MS / 1000, isolation_level=None
            )
            found = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except (sqlite3.Error, UnicodeError) as error:
            raise failed(error, path) from error
        if found is not None:
            readable(found[0], path)

    def _open(self) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()  # now, not in the middle of a transition
        if found != ("ok",):
            raise StoreFailed(
                f"{self.path} is damaged: {found[0] if found else 'unreadable'}", hint=aside(self.path), sqlite="SQLITE_CORRUPT"
            )
        mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != ("wal",):
            raise StoreFailed(f"{self.path} cannot keep a write-ahead log on this file system", hint=ELSEWHERE)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")
        self._db.execute("BEGIN IMMEDIATE")  # one at a time makes the tables
        try:
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
            (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            for version in range(readable(found, self.path), SCHEMA):
                for statement in MIGRATIONS[version]:
                    self._db.execute(statement)
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA),))
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _run(self, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            raise failed(error, self.path) from error


def fold(path: Path) -> None:
    """Take the write-ahead log into the database, which makes nobody wait who reads or writes; raises StoreFailed.

    Then write something: the first write to a log that begins anew waits for the disk with the log's header (walWriteFrames).
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            db.execute("INSERT OR REPLACE INTO meta VALUES ('folded', '')")
    except sqlite3.Error as error:
        raise failed(error, path) from error


ELSEWHERE = "keep the state on a local disk: set SANDBOXD_DIR"


def readable(found: object, path: Path) -> int:
    """The schema of a database, if we can read or migrate it; raises StoreFailed."""
    schema = int(str(found)) if str(found).isdigit() else 0
    if schema > SCHEMA:
        raise newer(path, f"its schema is {schema}", SCHEMA)
    if schema < SCHEMA and schema not in MIGRATIONS:
        raise StoreFailed(f"{path} has no schema that is known: {str(found)[:40]!r}", hint=aside(path))
    return schema


def newer(path: Path, what: str, known: int) -> StoreFailed:
    """The error for state of a later version, which is left as it is."""
    return StoreFailed(
        f"{path} is of a newer sandboxd: {what}, this one reads up to {known}",
        hint="use the sandboxd that wrote it, or SANDBOXD_DIR for a directory of its own",
    )


def as_bytes(value: Value) -> bytes:
    """A column that we only ever wrote bytes to; a damaged file may hold anything."""
    return value if isinstance(value, bytes) else str(value).encode()


def aside(path: Path) -> str:
    """What to do with a database that cannot be read."""
    return f"move it aside and start again: mv {path} {path}.bad (what runs and has no copy of its record then ends)"


def failed(error: sqlite3.Error | UnicodeError, path: Path) -> StoreFailed:
    """What sqlite said (sqlite.org/rescode.html, primary codes), with what to do."""
    if isinstance(error, UnicodeError):  # Python decodes names out of a damaged file, even inside sqlite's own messages
        return StoreFailed(f"cannot use {path}: it is damaged", hint=aside(path), sqlite="SQLITE_CORRUPT")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    hints = {
        sqlite3.SQLITE_FULL: f"free some space on the disk of {path.parent}",
        sqlite3.SQLITE_IOERR: f"see whether the disk of {path.parent} is full or failing (df, dmesg)",
        sqlite3.SQLITE_BUSY: f"another process has it locked; see which: fuser {path}",
        sqlite3.SQLITE_LOCKED: f"another process has it locked; see which: fuser {path}",
        sqlite3.SQLITE_CORRUPT: aside(path),
        sqlite3.SQLITE_NOTADB: aside(path),
        sqlite3.SQLITE_CANTOPEN: f"see whether {path.parent} exists and is yours",
        sqlite3.SQLITE_READONLY: f"make {path} and its directory writable, or {ELSEWHERE}",
        sqlite3.SQLITE_PERM: f"make {path} readable and writable for you",
    }
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreFailed(f"cannot use {path}: {error} ({name})", hint=hints.get(code, aside(path)), sqlite=name)
