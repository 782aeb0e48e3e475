"""What users of one daemon of root's could do to each other: see, meet, or keep each other out. Runs as root only.

So of sandboxd.lifecycle.sharing, sandboxd.daemon.forwarding and sandboxd.daemon.admission, where a daemon serves every user.
"""

import os
import socket
from typing import Any

import pytest

import sandboxd.protocol.messages as m
from sandboxd.errors import NotFound, PermissionDenied, SandboxdError
from sandboxd.spec import EnvSpec, Limits, Network, Publish, Service
from tests.daemon.asking import SERVER
from tests.daemon.box import ALICE, BOB, Shared, names, reload, run
from tests.daemons import PATIENCE
from tests.router.test_tunnels import free_port

pytestmark = pytest.mark.root


# What a method needs besides the env it is about.
NEEDED: dict[str, dict[str, Any]] = {
    "Exec": {"argv": ["true"]},
    "Update": {"limits": {"pids": 9}},
    "Forward": {"port": 3000},
    "Net": {"allow": ["example.com"]},
}
# About no env, or about envs in other words: each is in a test of its own here.
OTHERS = {
    *("Run", "List", "Events", "Prune", "Status", "Metrics", "Config", "Audit", "Shutdown"),
    *("SessionInput", "SessionResize", "SessionSignal", "Register", "Templates", "Unregister", "Ensure"),
}


def test_no_method_is_about_anothers_env(shared: Shared) -> None:
    """Neither by its id, nor by the beginning of it, nor by its name, with its user's or without."""
    mine = shared.by(ALICE, run("web", shared.home(ALICE)))
    about = {
        name: method.params for name, method in m.METHODS.items() if {"target", "targets"} & {*method.params.__struct_fields__}
    }
    assert about.keys() | OTHERS == m.METHODS.keys()

    def ask_all(client: Any) -> list[list[str]]:
        found = []
        for name, params in about.items():
            for target in (mine, mine[:12], "web", f"web.u{ALICE}"):
                meant = {"targets": [target]} if "targets" in params.__struct_fields__ else {"target": target}
                try:
                    for _ in client.stream(params(**meant, **NEEDED.get(name, {}))):
                        break
                    found.append([name, target, "an answer"])
                except SandboxdError as error:
                    if error.code != NotFound.__name__ or mine in error.message.replace(target, ""):
                        found.append([name, target, error.code])
        return found

    assert shared.by(BOB, ask_all) == []
    assert shared.by(ALICE, names) == [f"web of {ALICE}"]


def test_what_all_have_together_shows_each_his_own(shared: Shared) -> None:
    mine = shared.by(ALICE, run("web"))
    theirs = shared.by(BOB, run("db"))
    shared.by(ALICE, lambda client: client.call(m.Kill(target=mine)).env.id)
    shared.by(ALICE, lambda client: client.call(m.Wait(target=mine, until="stopped")).exit_code)

    def seen(client: Any) -> dict[str, Any]:
        return {
            "list": [env.id for env in client.call(m.List(all=True)).envs],
            "events": sorted({event.id for event in client.call(m.Events(since="10m")).events}),
            "stats": [row.id for row in client.call(m.Stats()).stats],
            "status": client.call(m.Status()).envs,
            "prune": client.call(m.Prune()).removed,
        }

    at_bob = shared.by(BOB, seen)
    assert theirs in at_bob.pop("events")
    assert at_bob == {"list": [theirs], "stats": [theirs], "status": {"ready": 1}, "prune": []}
    at_alice = shared.by(ALICE, seen)
    assert not {theirs} & {*at_alice["events"]}
    assert (at_alice["list"], at_alice["stats"], at_alice["prune"]) == ([mine], [], [mine])
    # The daemon's own files, and what it keeps of each env, are nobody's to look at.
    for uid in (ALICE, BOB):
        assert shared.by(uid, lambda _: os.access(shared.dir, os.X_OK)) is False
    with shared.client() as root:
        home = f"/proc/{root.call(m.Inspect(target=theirs)).env.services[0].pid}/root"
    assert shared.by(ALICE, lambda _: os.access(home, os.R_OK)) is False


def test_nobody_writes_to_anothers_session(shared: Shared) -> None:
    shared.by(ALICE, run("web"))
    kept = []

    def hold(client: Any) -> str:
        kept.append(client.stream(m.Exec(target="web", argv=["cat"], stdin=True)))
        return str(next(kept[0]).session)

    with shared.held(ALICE, hold) as session:
        for ask in (
            m.SessionInput(session=session, data="eA=="),
            m.SessionSignal(session=session, signal="KILL"),
            m.SessionResize(session=session, rows=9, cols=9),
        ):
            assert shared.by(BOB, lambda client, ask=ask: client.call(ask))[0] == NotFound.__name__
        assert shared.by(ALICE, lambda client: client.call(m.SessionInput(session=session, data="eA==")) is None) is False


def test_a_host_address_is_whose_it_was_first(shared: Shared) -> None:
    port = free_port()
    mine = shared.by(ALICE, run("web", publish=[Publish(host_port=port, port=3000)]))
    assert len(mine) == 32, mine
    code, message = shared.by(BOB, run("web", publish=[Publish(host_port=port, port=3000)]))
    assert (code, f"127.0.0.1:{port}" in message, mine[:12] in message) == ("PortTaken", True, False)
    assert shared.by(BOB, names) == []  # nothing half-made stays
    assert shared.by(BOB, run("web", publish=[Publish(host_port=80, port=3000)]))[0] == PermissionDenied.__name__
    shared.by(ALICE, lambda client: client.call(m.Remove(target="web", force=True)).name)
    assert len(shared.by(BOB, run("web", publish=[Publish(host_port=port, port=3000)]))) == 32


def test_what_is_forwarded_is_for_who_may_reach_it(shared: Shared) -> None:
    for name, share in (("own", None), ("box", "box")):
        spec = EnvSpec(
            name=name,
            services={"main": Service(command=[*SERVER, "3000"], port=3000)},
            network=Network(share=share),
        )
        ask = m.Run(spec=spec, environ={"PATH": os.environ["PATH"]}, wait="ready")
        assert shared.by(ALICE, lambda client, ask=ask: client.call(ask).env.state) == "ready"
    shared.by(BOB, run("bobs"))
    low = m.Forward(target="own", port=3000, host_port=81)
    assert shared.by(ALICE, lambda client: [str(one) for one in client.stream(low)])[0] == PermissionDenied.__name__

    kept = []

    def forwarded(client: Any) -> list[int]:
        kept.extend(client.stream(m.Forward(target=name, port=3000)) for name in ("own", "box"))
        return [int(next(replies).env.ports[0].address.rpartition(":")[2]) for replies in kept]

    with shared.held(ALICE, forwarded) as ports:
        answers = {uid: [gets(shared, uid, port) for port in ports] for uid in (ALICE, BOB, 0)}
    assert answers == {ALICE: [200, 200], BOB: [0, 200], 0: [200, 200]}


def gets(shared: Shared, uid: int, port: int) -> int:
    """The status that this user gets at a port of this host; 0: it is reset."""

    def work(_: Any) -> list[str]:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with sock.makefile("rb") as file:
                    return [*file.readline().decode().split()[1:2]]
        except ConnectionError:
            return []

    return int("".join(shared.by(uid, work)) or 0)


def test_a_burst_of_one_user_keeps_nobody_else_waiting(shared: Shared) -> None:
    """Turns go round the users, one has at most half of the places to wait, and what does not fit waits alone."""
    reload(shared, 'max_envs = 2\nqueue = 8\nmax_memory = "2g"\n')
    try:
        assert [len(shared.by(ALICE, run(name))) for name in "ab"] == [32, 32]

        def burst(client: Any) -> list[str]:
            found = []
            for number in range(9):
                spec = EnvSpec(
                    name=f"q{number}",
                    services={"main": Service(command=["sleep", "1000"])},
                    limits=Limits(memory=(3 << 30) if number == 0 else None),
                )
                try:
                    found.append(client.call(m.Run(spec=spec, environ={"PATH": os.environ["PATH"]}, wait="created")).env.state)
                except SandboxdError as error:
                    found.append(error.code)
            return found

        assert shared.by(ALICE, burst) == ["queued"] * 4 + ["QueueFull"] * 5
        spec = EnvSpec(name="late", services={"main": Service(command=["sleep", "1000"])})
        ask = m.Run(spec=spec, environ={"PATH": os.environ["PATH"]}, wait="created")
        assert shared.by(BOB, lambda client: client.call(ask).env.state) == "queued"
        shared.by(ALICE, lambda client: client.call(m.Remove(target="a", force=True)).name)
        assert (
            shared.by(BOB, lambda client: client.call(m.Wait(target="late", until="ready", timeout=PATIENCE)).env.state)
            == "ready"
        )
        # Whose first one does not fit keeps himself waiting, as nobody else of his is before it.
        states = shared.by(ALICE, lambda client: sorted(env.state for env in client.call(m.List(all=True)).envs))
        assert states == ["queued"] * 4 + ["ready"]
    finally:
        reload(shared, "")
