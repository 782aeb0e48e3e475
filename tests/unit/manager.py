"""A stand-in for a user's service manager: its socket, and programs of systemd's names that do what their command line says."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

# Writes down how it was called, and becomes the command after `--`; a service (no --scope) runs with its own environment only.
RUN = """#!/bin/bash
echo "systemd-run $*" >>"$LOG"
[ ! -e "$LOG.broken" ] || exit 1
keep=(); scope=no
while [ "$1" != -- ]; do
    case $1 in --scope) scope=yes;; --setenv=*) name=${1#--setenv=}; keep+=("$name=${!name}");; esac
    shift
done
shift
[ $scope = no ] || exec "$@"
HOME=$HOME exec env -i "HOME=$HOME" "XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR" "${keep[@]}" "$@"
"""
CTL = """#!/bin/bash
echo "systemctl $*" >>"$LOG"
exit 5
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which its programs write how they were called; `FILE.broken` makes systemd-run fail."""
    log = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    (tmp_path / "run/systemd").mkdir(parents=True)
    for name, text in ("systemd-run", RUN), ("systemctl", CTL):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("LOG", str(log))
    with socket.socket(socket.AF_UNIX) as private:
        private.bind(str(tmp_path / "run/systemd/private"))
        yield log
