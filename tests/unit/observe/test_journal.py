"""The log as the journal takes it, heard by a socket of the test's own."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.observe import journal
from sandboxd.observe.journal import JournalHandler, is_journal, told


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        yield sock


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    handler = JournalHandler(str(tmp_path / "journal"))
    found = logging.getLogger("sandboxd.test_journal")
    found.propagate = False
    for logger in (found, journal.events):
        logger.addHandler(handler)
    found.setLevel("DEBUG")
    level = journal.events.level
    journal.events.setLevel("INFO")
    yield found
    journal.events.setLevel(level)
    for logger in (found, journal.events):
        logger.removeHandler(handler)
    handler.close()


def fields(data: bytes) -> dict[str, str]:
    """As systemd reads them."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[9 + size :]
        found[name.decode()] = value.decode()
    return found


def test_a_record_has_its_fields(ear: socket.socket, log: logging.Logger) -> None:
    log.warning("env %s is late", "shop")
    assert fields(ear.recv(1 << 16)) == {
        "MESSAGE": "env shop is late",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "sandboxd",
        "LOGGER": "sandboxd.test_journal",
    }
    log.debug("x")
    assert fields(ear.recv(1 << 16))["PRIORITY"] == "7"


def test_no_line_end_makes_a_field_of_its_own(ear: socket.socket, log: logging.Logger) -> None:
    log.error("one\nPRIORITY=0\ntwo \udcff")
    assert fields(ear.recv(1 << 16))["MESSAGE"] == "one\nPRIORITY=0\ntwo \\udcff"
    log.error("x" * 1_000_000)
    assert len(fields(ear.recv(1 << 20))["MESSAGE"]) == journal.MOST


def test_what_happens_to_an_env_can_be_searched_for(ear: socket.socket, log: logging.Logger) -> None:
    told("stopped", "0" * 32, "shop", 1000, {"cause": "ttl"})
    found = fields(ear.recv(1 << 16))
    assert found["MESSAGE"] == "env shop: stopped cause=ttl"
    assert {key: value for key, value in found.items() if key.startswith("SANDBOXD_")} == {
        "SANDBOXD_EVENT": "stopped",
        "SANDBOXD_ENV": "shop",
        "SANDBOXD_ENV_ID": "0" * 32,
        "SANDBOXD_OWNER": "1000",
    }


def test_a_journal_that_is_gone_leaves_the_line_on_stderr(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for handler in log.handlers:
        if isinstance(handler, JournalHandler):
            handler.setStream(sys.stderr)
    log.error("nobody hears")
    assert capsys.readouterr().err == "nobody hears\n"


def test_only_the_stream_that_was_given_is_the_journals(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        found = os.fstat(file.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, file.fileno())
        assert not is_journal({}, file.fileno())
