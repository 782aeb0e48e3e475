"""The audit log's files: whole lines, bounded, and nothing that fails when they cannot be written."""

import os
from pathlib import Path

import pytest

from sandboxd.store.audit import AuditLog

LINE = b"x" * 99


def test_it_stays_within_its_bound_and_has_the_newest(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", 1000)
    for number in range(50):
        log.add(b"%03d" % number + LINE[:96])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "audit.jsonl": 0o600,
        "audit.jsonl.1": 0o600,
    }
    assert [line[:3] for line in log.last(3)] == [b"047", b"048", b"049"]
    assert len(log.last(1000)) == 10
    log.close()
    again = AuditLog(tmp_path / "audit.jsonl", 1000)
    again.add(b"again")
    assert again.last(2)[1] == b"again"
    assert again.last(2)[0][:3] == b"049"
    again.close()


def test_none_is_none(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", 0)
    log.add(LINE)
    assert log.last(5) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_what_cannot_be_written_is_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "there"
    place.mkdir(mode=0o500)
    log = AuditLog(place / "audit.jsonl", 1000)
    log.add(LINE)
    log.add(LINE)
    assert [record.message for record in caplog.records] == [f"the audit log cannot be written: {log.path}: Permission denied"]
    place.chmod(0o700)
    log.add(LINE)
    assert caplog.records[-1].message == f"the audit log {log.path} lacks 2 lines"
    assert log.last(5) == [LINE]
    log.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    log = AuditLog(tmp_path / "audit.jsonl", 1000)
    log.add(LINE)
    assert not (tmp_path / "elsewhere").exists()
    assert log.lost == 1
