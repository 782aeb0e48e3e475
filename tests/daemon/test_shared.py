"""One daemon of root's for two users, each by his own uid on the control socket. Runs as root only.

So of sandboxd.lifecycle.sharing, and of who may see what.
"""

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
from sandboxd.daemon.main import SHARE
from sandboxd.errors import Ambiguous, NotFound, PermissionDenied, SandboxdError
from sandboxd.kernel import cgroups
from sandboxd.limits.hierarchy import mounted
from sandboxd.spec import EnvSpec, Isolation, Network, Service, Workspace
from tests.daemon.asking import SERVER
from tests.daemon.test_suspend import until
from tests.daemons import PATIENCE, Daemon
from tests.require import require

pytestmark = pytest.mark.root
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
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups(groups)
                os.setgid(uid)
                os.setuid(uid)
                with self.client() as client:
                    try:
                        found = work(client)
                    except SandboxdError as error:
                        found = [error.code, error.message]
                os.write(writing, json.dumps(found).encode())
            except BaseException:
                os.write(writing, json.dumps(["failed", traceback.format_exc()[-2000:]]).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            found = json.loads(said.read())
        os.waitpid(child, 0)
        return found


class Made(NamedTuple):
    """A user and a group that this host knows while the tests last."""

    name: str
    uid: int
    group: str
    gid: int


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def box(groups: str, made: Made) -> Iterator[Shared]:
    """One daemon for all of this file: to start one takes seconds."""
    require("userns")
    daemon = Shared(SANDBOXD_ADMIN_GROUP=made.group, **({"SANDBOXD_CGROUP": groups} if groups else {}))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.open)


@pytest.fixture
def shared(box: Shared) -> Iterator[Shared]:
    """It, without envs."""
    yield box
    with box.client() as root:
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


def test_each_user_has_his_own(shared: Shared) -> None:
    mine = shared.by(ALICE, run("web", shared.home(ALICE)))
    assert len(mine) == 32, mine
    theirs = shared.by(BOB, run("web", shared.home(BOB)))
    assert len(theirs) == 32, theirs
    assert shared.by(ALICE, names) == [f"web of {ALICE}"]
    assert shared.by(BOB, names) == [f"web of {BOB}"]
    for ask in (m.Inspect(target=mine), m.Stop(target=mine), m.Remove(target=mine[:12], force=True), m.Why(target=mine)):
        assert shared.by(BOB, lambda client, ask=ask: client.call(ask))[0] == NotFound.__name__
    events = shared.by(BOB, lambda client: sorted({event.owner for event in client.call(m.Events()).events}))
    assert events == [BOB]
    ids = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.stat('.').st_uid)"
    inside = shared.by(ALICE, lambda client: client.get("web").exec(["python3", "-c", ids]).text)
    assert inside.strip() == f"{ALICE} {ALICE} [] {ALICE}", inside
    with shared.client() as root:
        for env_id, uid in ((mine, ALICE), (theirs, BOB)):
            path = root.call(m.Inspect(target=env_id)).env.cgroup
            assert path is None or path.split("/")[-2] == f"user-{uid}"
        assert names(root) == [f"web of {ALICE}", f"web of {BOB}"]
        with pytest.raises(Ambiguous, match=rf"web\.u{ALICE}, web\.u{BOB}"):
            root.call(m.Inspect(target="web"))
        assert root.call(m.Inspect(target=f"web.u{BOB}")).env.id == theirs
    assert shared.by(BOB, lambda client: client.call(m.Remove(target="web", force=True)).receipt.leaked) == {}
    assert shared.by(ALICE, names) == [f"web of {ALICE}"]


def test_what_one_cannot_reach_the_daemon_does_not_reach_for_him(shared: Shared) -> None:
    private = shared.home(ALICE) / "private"
    private.mkdir()
    os.chown(private, ALICE, ALICE)
    refused = shared.by(BOB, run("thief", private))
    assert refused[0] == "WorkspaceInvalid", refused
    missing = shared.by(BOB, run("thief", shared.home(ALICE) / "missing"))
    assert missing[0] == "WorkspaceInvalid"
    assert refused[1].rpartition(":")[2] == missing[1].rpartition(":")[2]  # nor does it tell what is there
    assert len(shared.by(ALICE, run("own", private))) == 32


def test_what_concerns_all_is_roots(shared: Shared) -> None:
    for ask in (m.Shutdown(all=True), m.Metrics(), m.Config(reload=True)):
        assert shared.by(BOB, lambda client, ask=ask: client.call(ask))[0] == PermissionDenied.__name__
    assert shared.by(BOB, run("x", forward=[22]))[0] == "NotOffered"
    as_root = EnvSpec(name="r", services={"main": Service(command=["sleep", "1000"])}, isolation=Isolation(user="root"))
    looks = m.Run(spec=as_root, environ={"PATH": os.environ["PATH"]})
    assert len(shared.by(BOB, lambda client: client.call(looks).env.id)) == 32
    assert shared.by(BOB, lambda client: client.get("r").exec(["id", "-u"]).text).strip() == "0"
    with shared.client() as root:  # it looks like root inside, and is its user
        pid = root.call(m.Inspect(target="r")).env.services[0].pid
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(BOB), "1"]
    with shared.client() as root:
        assert root.call(m.Status()).pid


def reach(shared: Shared, uid: int, host: str, path: str = "/") -> int:
    """The status that this user's own request gets."""

    def work(_: Any) -> int:
        with socket.create_connection(("127.0.0.1", shared.port), PATIENCE) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return int(sock.makefile("rb").readline().split()[1])

    return int(shared.by(uid, work))


def test_who_reaches_what_by_name(shared: Shared) -> None:
    serve = [*SERVER, "3000"]

    def make(name: str, **network: Any) -> str:
        spec = EnvSpec(name=name, services={"main": Service(command=serve, port=3000)}, network=Network(**network))
        ask = m.Run(spec=spec, environ={"PATH": os.environ["PATH"]}, wait="ready")
        return str(shared.by(ALICE, lambda client: client.call(ask).env.url))

    own, link = make("own"), make("link", share="link")
    make("box", share="box")
    assert own.startswith(f"http://own.u{ALICE}.{BASE}:"), own
    assert reach(shared, ALICE, own.removeprefix("http://")) == 200
    for name, others in (("own", 403), ("box", 200), ("link", 403)):
        host = f"{name}.u{ALICE}.localhost"
        assert [reach(shared, uid, host) for uid in (ALICE, BOB, 0)] == [200, others, 200], name
    host, _, token = link.removeprefix("http://").partition("/")
    assert reach(shared, BOB, host, f"/{token}") == 200
    assert reach(shared, BOB, host, f"/{token}x") == 403
    assert reach(shared, BOB, f"own.u{BOB}.localhost") == 404


def whodunit(shared: Shared) -> list[tuple[int, str, str, str]]:
    with shared.client() as root:
        return [(one.uid, one.method, one.name, one.outcome) for one in root.call(m.Audit(tail=5000)).entries]


def test_what_is_done_is_written_down(shared: Shared) -> None:
    before = len(whodunit(shared))
    mine = shared.by(ALICE, run("web"))
    assert shared.by(BOB, lambda client: client.call(m.Remove(target=mine, force=True)))[0] == NotFound.__name__
    with shared.client() as root:
        root.call(m.Logs(target=mine))  # whoever looks at another's is in it, too
    shared.by(ALICE, lambda client: len(client.call(m.Logs(target=mine)).lines))
    assert shared.by(BOB, lambda client: client.call(m.Audit()))[0] == PermissionDenied.__name__
    assert [entry for entry in whodunit(shared)[before:] if entry[3] != "begun"] == [
        (ALICE, "Run", "web", "ok"),
        (BOB, "Remove", mine, "NotFound"),
        (0, "Logs", "web", "ok"),
        (BOB, "Audit", "", "PermissionDenied"),
    ]


def reload(shared: Shared, text: str) -> None:
    (shared.dir / "config.toml").write_text(text)
    with shared.client() as root:
        root.call(m.Config(reload=True))


def test_quotas_are_each_users_own_and_starve_nobody(shared: Shared) -> None:
    reload(shared, f"[quota]\nenvs = 1\n[quota.user.{BOB}]\nrate = 2\n")
    try:
        assert len(shared.by(ALICE, run("one"))) == 32
        assert shared.by(ALICE, run("two")) == ["QuotaExceeded", f"the quota of user {ALICE} is 1 envs, and 1 are there"]
        assert [len(shared.by(BOB, run(name))) for name in ("one", "two")] == [32, 32]
        assert shared.by(BOB, run("three"))[0] == "QuotaExceeded"
        with shared.client() as root:
            spec = EnvSpec(services={"main": Service(command="sleep 9")})
            assert len({root.call(m.Run(spec=spec)).env.id for _ in "12"}) == 2
    finally:
        reload(shared, "")


def test_who_has_a_name_is_called_by_it_and_an_admin_sees_all(shared: Shared, made: Made) -> None:
    serve = EnvSpec(name="shop", services={"main": Service(command=[*SERVER, "3000"], port=3000)})
    ask = m.Run(spec=serve, environ={"PATH": os.environ["PATH"]})
    url = shared.by(made.uid, lambda client: client.call(ask).env.url)
    assert url.startswith(f"http://shop.{made.name}.{BASE}:"), url
    assert shared.by(BOB, names) == []
    assert shared.by(BOB, names, [made.gid]) == [f"shop of {made.uid}"]
    assert len(shared.by(BOB, run("own"), [made.gid])) == 32  # what an admin runs is his own
    assert shared.by(BOB, names) == [f"own of {BOB}"]
    reload(shared, f"[quota.user.{made.name}]\nenvs = 1\n[quota.group.{made.group}]\nenvs = 0\n")
    try:
        assert shared.by(made.uid, run("more"))[1] == f"the quota of user {made.name} is 1 envs, and 1 are there"
        assert len(shared.by(BOB, run("other"))) == 32  # groups are what the host says, not what a process has
    finally:
        reload(shared, "")


def test_whose_calls_are_many_keeps_nobody_else_out(shared: Shared) -> None:
    here, there = socket.socketpair()

    def hold(_: Any) -> str:
        held = []
        for _turn in range(SHARE):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(shared.open / "control.sock"))
            sock.sendall(b'{"method":"io.sandboxd.Control.Events","parameters":{"follow":true},"more":true}\0')
            held.append(sock)
        for sock in held:
            assert sock.recv(1)  # it is being answered
        socket.send_fds(there, [b"x"], [sock.fileno() for sock in held])
        return "held"

    with here, there:
        assert shared.by(ALICE, hold) == "held"
        fds = socket.recv_fds(here, 1, SHARE)[1]
        try:
            assert shared.by(ALICE, names) == ["QueueFull", f"uid {ALICE} has {SHARE} calls under way"]
            assert len(shared.by(BOB, run("web"))) == 32
        finally:
            for fd in fds:
                os.close(fd)
    until(lambda: shared.by(ALICE, names) == [], "the daemon has seen them go")
