"""The disk is full, has no inodes left, or the daemon no descriptors: said in words, nothing is lost, and it mends by itself.

So of sandboxd.store.copies and sandboxd.daemon.control.
"""

import contextlib
import errno
import os
import resource
import time
from pathlib import Path

import pytest

from sandboxd.errors import Internal, NotFound, SandboxdError
from sandboxd.protocol import messages as m
from tests.daemon.asking import SERVER, ended, inspect, remove, run
from tests.daemons import PATIENCE, Daemon
from tests.require import require

DISK = "size=24m,nr_inodes=3000,mode=0700"


class Small:
    """A daemon whose disk has an end, and that disk."""

    def __init__(self, **environ: str) -> None:
        self.daemon = Daemon(SMALLDISK=DISK, SANDBOXD_POOL="1", SANDBOXD_JANITOR="1", **environ)
        self.place = self.daemon.dir / "disk"
        self.daemon.environ |= {
            "SANDBOXD_DIR": str(self.place),
            "SANDBOXD_SOCKET": str(self.daemon.dir / "control.sock"),
        }
        self.daemon.module = "tests.daemon.crash.smalldisk"

    @property
    def disk(self) -> Path:
        """As seen from outside."""
        assert self.daemon.process is not None
        return Path(f"/proc/{self.daemon.process.pid}/root{self.place}")

    def fill(self, how):
        """Leave nothing; returns what undoes it."""
        if how == "space":
            with open(self.disk / "filler", "wb", buffering=0) as file:
                for size in (1 << 16, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while file.write(b"x" * size):
                            pass
        else:
            folder = self.disk / "many"
            folder.mkdir()
            number = 0
            with contextlib.suppress(OSError):
                while True:
                    (folder / str(number)).touch()
                    number += 1

    def free(self, how):
        if how == "space":
            (self.disk / "filler").unlink()
        else:
            for path in (self.disk / "many").iterdir():
                path.unlink()
            (self.disk / "many").rmdir()


@pytest.fixture
def small(request):
    require("userns", "unprivileged")
    small = Small()
    if stray := getattr(request, "param", ""):
        small.daemon.environ["SMALLDISK_STRAY"] = str(small.place / stray)
    try:
        small.daemon.start()
    except BaseException:
        small.daemon.abandon()
        raise
    try:
        yield small
    finally:
        small.daemon.close()


def until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def refused_at_last(client, path, most):
    """What one of so many envs is refused with."""
    for number in range(most):
        try:
            run(client, "sleep 1000", name=f"more-{number}", path=path)
        except SandboxdError as error:
            return error
    raise AssertionError(f"{most} envs were started")


@pytest.mark.parametrize("how", ["space", "inodes"])
def test_a_full_disk_is_said_and_nothing_is_lost(small, tmp_path, how):
    daemon = small.daemon
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        run(client, [*SERVER, "3000"], name="web", path=tmp_path, port=3000, wait="ready")
        run(client, "sleep 1000", name="stops", path=tmp_path)
        run(client, "sleep 1000", name="goes", path=tmp_path)
        pid = inspect(client, "web").pid
        small.fill(how)
        # a place or two were made ahead, and a page of the journal has some room left
        error = refused_at_last(client, tmp_path, 50)
        assert "free some" in f"{error} {error.hint}", error
        # what is there goes on, and does what it is told
        assert daemon.request("web") == (200, b"alive")
        assert client.call(m.Stop(target="stops", timeout=0.5)).env.state == "stopped"
        assert remove(client, "goes").leaked == {}
        assert inspect(client, "web").pid == pid
        small.free(how)
        for env in client.call(m.List(all=True)).envs:
            if env.name.startswith("more-"):
                remove(client, env.name)
        assert ended(client, run(client, "exit 3", name="after", path=tmp_path).id).exit_code == 3
    daemon.sandbox("daemon", "restart")  # another daemon reads what this one wrote
    with daemon.client() as client:
        found = {env.name: env.state for env in client.call(m.List(all=True)).envs}
        assert found == {"web": "ready", "stops": "stopped", "after": "failed"}
        assert inspect(client, "web").pid == pid
        for name in found:
            assert remove(client, name).leaked == {}


def test_the_journal_catches_up_by_itself(small, tmp_path):
    """Nothing more happens after there is room again."""
    daemon = small.daemon
    with daemon.client() as client:
        for number in range(12):
            run(client, "sleep 1000", name=f"one-{number}", path=tmp_path)
        small.fill("space")
        for number in range(12):
            assert client.call(m.Stop(target=f"one-{number}", timeout=0.5)).env.state == "stopped"
        was_behind = "the journal cannot be written" in journal_log(daemon)
        small.free("space")
        if was_behind:  # else the log had room for all of it
            until(lambda: "the journal can be written again" in journal_log(daemon), "it catches up")
    daemon.sandbox("daemon", "restart")
    with daemon.client() as client:
        envs = client.call(m.List(all=True)).envs
        assert {env.state for env in envs} == {"stopped"}
        assert len(envs) == 12
        for env in envs:
            remove(client, env.name)


def journal_log(daemon):
    return (daemon.dir / "daemon.log").read_text()


@pytest.mark.parametrize("small", [f"envs/{'f' * 32}/home"], indirect=True, ids=[""])
def test_a_mount_of_nobody_is_taken_away(small):
    table = Path(f"/proc/{small.daemon.process.pid}/mountinfo")
    until(lambda: "f" * 32 not in table.read_text(), "the mount is gone")
    until(lambda: not [path for path in (small.disk / "envs").iterdir() if path.name.endswith("f" * 32)], "its place, too")


def test_without_descriptors_calls_are_refused_in_words_and_then_answered(daemon, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        pid = run(client, [*SERVER, "3000"], name="web", path=tmp_path, port=3000, wait="ready").pid
        status = client.call(m.Status())
        usual = resource.prlimit(status.pid, resource.RLIMIT_NOFILE)
        held = max(int(fd) for fd in os.listdir(f"/proc/{status.pid}/fd"))
        resource.prlimit(status.pid, resource.RLIMIT_NOFILE, (held + 2, usual[1]))
        try:
            said = str(refused_at_last(client, tmp_path, 20))
            assert os.strerror(errno.EMFILE) in said, said
            assert daemon.request("web") == (200, b"alive")
            assert client.call(m.Status()).pid == status.pid
            assert inspect(client, "web").state == "ready"
        finally:
            resource.prlimit(status.pid, resource.RLIMIT_NOFILE, usual)
        assert inspect(client, "web").pid == pid
        assert client.call(m.Status()).launcher_pid == status.launcher_pid
        assert ended(client, run(client, "exit 3", name="after", path=tmp_path).id).exit_code == 3
        for env in client.call(m.List(all=True)).envs:
            with contextlib.suppress(Internal, NotFound):  # what could not be removed then, either, the janitor removes
                assert remove(client, env.name).leaked == {}
        until(lambda: client.call(m.List(all=True)).envs == [], "all are removed")


def test_clients_that_came_while_there_was_no_descriptor_are_served_later(daemon):
    with daemon.client() as client:
        status = client.call(m.Status())
        usual = resource.prlimit(status.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(status.pid, resource.RLIMIT_NOFILE, (0, usual[1]))
        with daemon.client() as other:
            resource.prlimit(status.pid, resource.RLIMIT_NOFILE, usual)
            assert other.call(m.Status()).pid == status.pid
        assert client.call(m.Status()).pid == status.pid
