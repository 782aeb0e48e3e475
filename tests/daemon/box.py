"""One daemon of root's for several users, each by his own uid on its control socket. Runs as root only."""

import grp
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sandboxd.client.pump
import sandboxd.protocol.messages as m
from sandboxd.client import Client
from sandboxd.client.env import Env
from sandboxd.errors import SandboxdError
from sandboxd.kernel import cgroups
from sandboxd.limits.hierarchy import mounted
from sandboxd.spec import EnvSpec, Network, Service, Workspace
from tests.daemon.asking import until
from tests.daemons import PATIENCE, Daemon
from tests.require import require

BASE = "box.example"
ALICE, BOB = 61001, 61002  # they need no name: then their number stands in their URLs
assert Env is not None
assert sandboxd.client.pump is not None  # imported here: a user may not be able to read the checkout


class Shared(Daemon):
    """A daemon whose control socket everybody can reach."""

    def __init__(self, **environ: str) -> None:
        self.open = Path(tempfile.mkdtemp(prefix="sandboxd-shared-", dir="/var/tmp"))
        self.open.chmod(0o755)
        super().__init__(
            SANDBOXD_SOCKET=str(self.open / "control.sock"),
            SANDBOXD_SHARED="1",
            SANDBOXD_BASE_DOMAIN=BASE,
            **environ,
        )

    @contextmanager
    def client(self) -> Iterator[Any]:
        client = Client(self.open / "control.sock", autostart=False)
        try:
            yield client
        finally:
            client.close()

    def home(self, uid: int, mode: int = 0o700) -> Path:
        """A directory of a user's own."""
        place = self.open / str(uid)
        if not place.exists():
            place.mkdir(mode=mode)
            os.chown(place, uid, uid)
        return place

    def by(self, uid: int, work: Callable[[Any], Any], groups: Sequence[int] = ()) -> Any:
        """What `work` gives a user with a client of his own, as JSON has it; an error of ours by its name."""
        with self.held(uid, work, groups) as found:
            return found

    @contextmanager
    def held(self, uid: int, work: Callable[[Any], Any], groups: Sequence[int] = ()) -> Iterator[Any]:
        """The same, while his client, and what `work` keeps open, stay until the end."""
        reading, writing = os.pipe()
        staying, leaving = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(leaving)
                os.setgroups(groups)
                os.setgid(primary(uid))
                os.setuid(uid)
                with self.client() as client:
                    try:
                        found = work(client)
                    except SandboxdError as error:
                        found = [error.code, error.message]
                    os.write(writing, json.dumps(found).encode())
                    os.close(writing)
                    os.read(staying, 1)
            except BaseException:
                os.write(writing, json.dumps(["failed", traceback.format_exc()[-2000:]]).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.close(staying)
        try:
            with os.fdopen(reading, "rb") as said:
                found = json.loads(said.read())
            yield found
        finally:
            os.close(leaving)
            os.waitpid(child, 0)


def primary(uid: int) -> int:
    """The group of a user; of one without a name the one that is numbered like him."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


class Made(NamedTuple):
    """A user and a group that this host knows while the tests last."""

    name: str
    uid: int
    group: str
    gid: int


@pytest.fixture(scope="session")
def made() -> Iterator[Made]:
    name = f"sbx{secrets.token_hex(3)}"
    group = f"{name}-admin"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for argv in (["groupadd", group], ["useradd", "--no-create-home", "--no-user-group", name]):
        subprocess.run(argv, check=True, env={"PATH": path})
    try:
        yield Made(name, pwd.getpwnam(name).pw_uid, group, grp.getgrnam(group).gr_gid)
    finally:
        for argv in (["userdel", name], ["groupdel", group]):
            subprocess.run(argv, check=True, env={"PATH": path})


@pytest.fixture(scope="session")
def groups() -> Iterator[str]:
    """A control group to divide; "" where there are none."""
    mount, _ = mounted()
    path = f"{mount}/sandboxd-test-{secrets.token_hex(4)}" if mount else ""
    if path:
        os.mkdir(path)
    yield path
    if path:
        until(lambda: not cgroups.is_populated(path), "nobody lives in it")
        assert [entry.name for entry in Path(path).iterdir() if entry.is_dir()] == ["launcher"]
        os.rmdir(f"{path}/launcher")
        os.rmdir(path)


@pytest.fixture(scope="session")
def box(groups: str, made: Made) -> Iterator[Shared]:
    """One daemon for all of this file: to start one takes seconds."""
    require("userns")
    given = {"SANDBOXD_CGROUP": groups} if groups else {}
    daemon = Shared(SANDBOXD_ADMIN_GROUP=made.group, SANDBOXD_JANITOR="1", **given)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.open)


@pytest.fixture
def shared(box: Shared) -> Iterator[Shared]:
    """It, without envs and templates."""
    yield box
    with box.client() as root:
        for one in root.call(m.Templates()).templates:
            box.by(one.owner, lambda client, name=one.name: client.call(m.Unregister(name=name, force=True)).removed)
        for env in root.call(m.List(all=True)).envs:
            root.call(m.Remove(target=env.id, force=True))


def run(name: str, directory: Path | None = None, **network: Any) -> Callable[[Any], Any]:
    spec = EnvSpec(
        name=name,
        services={"main": Service(command=["sleep", "1000"])},
        workspace=Workspace(path=str(directory) if directory else None),
        network=Network(**network),
    )
    return lambda client: client.call(m.Run(spec=spec, environ={"PATH": os.environ["PATH"]})).env.id


def names(client: Any) -> list[str]:
    return sorted(f"{env.name} of {env.owner}" for env in client.call(m.List(all=True)).envs)


def reach(shared: Shared, uid: int, host: str, path: str = "/") -> int:
    """The status that this user's own request gets."""

    def work(_: Any) -> int:
        with socket.create_connection(("127.0.0.1", shared.port), PATIENCE) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return int(sock.makefile("rb").readline().split()[1])

    return int(shared.by(uid, work))


def reload(shared: Shared, text: str) -> None:
    (shared.dir / "config.toml").write_text(text)
    with shared.client() as root:
        root.call(m.Config(reload=True))
