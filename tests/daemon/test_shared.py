"""One daemon of root's for two users, each by his own uid on the control socket. Runs as root only.

So of sandboxd.lifecycle.sharing, and of who may see what.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandboxd.protocol.messages as m
from sandboxd.daemon.main import SHARE
from sandboxd.errors import Ambiguous, NotFound, PermissionDenied
from sandboxd.spec import EnvSpec, Isolation, Limits, Network, Service
from tests.daemon.asking import SERVER, until
from tests.daemon.box import ALICE, BASE, BOB, Made, Shared, names, reach, reload, run
from tests.daemons import PATIENCE

pytestmark = pytest.mark.root


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


def test_a_group_of_nobody_below_a_users_is_taken_away_with_what_lives_in_it(shared: Shared, groups: str) -> None:
    """So of sandboxd.daemon.janitor."""
    if not groups:
        pytest.skip("no cgroup v2 is mounted here")
    kept = shared.by(ALICE, run("web", shared.home(ALICE)))
    with shared.client() as root:
        group = root.call(m.Inspect(target=kept)).env.cgroup
        stray = Path(group).with_name("env-" + "f" * 16)
        for part in ("", "init", "svc"):
            (stray / part).mkdir()
        with subprocess.Popen(["sleep", "1000"]) as sleeper:
            (stray / "svc" / "cgroup.procs").write_text(str(sleeper.pid))
            assert sleeper.wait(PATIENCE) == -signal.SIGKILL
        until(lambda: not stray.exists(), "it is gone")
        until(lambda: f"cgroups {stray}: it belonged to no env, and was removed" in shared.log(), "it is told")
        assert root.call(m.Inspect(target=kept)).env.state == "ready"


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


@pytest.mark.parametrize(
    ("name", "quota", "each"), [("memory", '"96m"', 64 << 20), ("pids", 96, 64), ("disk", '"96m"', 64 << 20), ("cpus", 1, 1)]
)
def test_a_quota_is_of_all_envs_of_one_user_and_of_nobody_else(shared: Shared, name: str, quota: object, each: int) -> None:
    """What one user has in all is no less for the other; what says nothing of it fits into none."""

    def asks(env: str, **limits: int) -> Callable[[Any], Any]:
        spec = EnvSpec(name=env, services={"main": Service(command=["sleep", "1000"])}, limits=Limits(**limits))
        return lambda client: client.call(m.Run(spec=spec, environ={"PATH": os.environ["PATH"]})).env.id

    reload(shared, f"[quota]\n{name} = {quota}\n")
    try:
        assert len(shared.by(ALICE, asks("one", **{name: each}))) == 32
        code, message = shared.by(ALICE, asks("two", **{name: each}))
        assert code == "QuotaExceeded", message
        assert message.startswith(f"the quota of user {ALICE} is ")
        assert f" of {name}: its envs have " in message
        usual = shared.by(ALICE, asks("three"))  # no limit at all, or the usual 1,024 tasks
        assert usual[0] == "QuotaExceeded"
        assert ("asks for 1024" if name == "pids" else f"has no limit of {name}") in usual[1]
        assert len(shared.by(BOB, asks("one", **{name: each}))) == 32
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
