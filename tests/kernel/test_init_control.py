"""The link between daemon and pid 1: several clients, clients that break every rule, and an init that breaks them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sandboxd.errors import (
    CommandNotFound,
    KernelError,
    NotFound,
    ProtocolViolation,
    SandboxdError,
    SpecInvalid,
    TimedOut,
    by_code,
)
from sandboxd.kernel.fds import close_all, send
from sandboxd.launch import clients, initevents, initlink
from sandboxd.launch.doorway import bind_sockets
from sandboxd.launch.exits import read_exits
from sandboxd.launch.frames import FDS_LIMIT, FRAME_LIMIT, VERSION, Inbox, Outbox, decode, encode, error_from, error_to
from sandboxd.launch.initlink import Closed, InitLink, ServiceExited, SessionExited, Started
from sandboxd.launch.loop import READ, Loop
from sandboxd.launch.pids import host_pids
from tests.kernel.inits import Env, Recorder, connected, no_descriptors, program, run, shell, start, until

# -- frames -------------------------------------------------------------------------------------------------------------

MESSAGES = [{}, {"id": 1, "op": "status"}, {"text": "ü\udcff \0", "list": [1, None, True]}, {"long": "x" * 100_000}]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_frames_however_they_are_cut(pair, step: int) -> None:
    ours, theirs = pair
    stream = b"".join(encode(message) for message in MESSAGES[:3]) + encode(MESSAGES[3])[:50]
    inbox, found = Inbox(theirs), []
    for at in range(0, len(stream), step):
        ours.send(stream[at : at + step])
        assert inbox.pull()
        found += [message for message, _ in inbox.frames()]
    assert found == MESSAGES[:3]
    assert len(inbox.buffer) == 50
    ours.close()
    assert not inbox.pull()
    inbox.close()


def test_a_frame_whose_descriptors_were_cut_off_is_taken_without_them(pair) -> None:
    ours, theirs = pair
    inbox = Inbox(theirs)

    def sent(*numbers: int) -> list[tuple[int, int]]:
        for number in numbers:
            send(ours, encode({"id": number, "fds": ["a", "b"] if number % 2 else []}), [0, 1] if number % 2 else [])
        found = []
        for _ in numbers:
            with contextlib.suppress(BlockingIOError):
                inbox.pull()
            for message, fds in inbox.frames():
                found.append((message["id"], len(fds)))
                close_all(list(fds.values()))
        return found

    with no_descriptors():
        assert sent(1, 2, 3) == [(1, 0), (2, 0), (3, 0)]
        assert sent(4, 5) == [(4, 0), (5, 0)]
    assert sent(6, 7, 8) == [(6, 0), (7, 2), (8, 0)]
    with no_descriptors():
        send(ours, encode({"id": 9}), [0])
        inbox.pull()
        with pytest.raises(ProtocolViolation):
            list(inbox.frames())
    inbox.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{", b"\xff", b'"x"', b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda body: body[:6].decode("latin-1"),
)
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(body)


def test_frames_over_the_cap(pair) -> None:
    ours, theirs = pair
    with pytest.raises(ProtocolViolation, match="over the cap"):
        encode({"x": "y" * FRAME_LIMIT})
    ours.send((FRAME_LIMIT + 1).to_bytes(4, "little"))
    inbox = Inbox(theirs)
    inbox.pull()
    with pytest.raises(ProtocolViolation, match="over the cap"):
        list(inbox.frames())


def pipe_ends(count: int) -> list[int]:
    return [fd for _ in range(count // 2) for fd in os.pipe2(os.O_CLOEXEC)]


def test_descriptors_belong_to_the_frame_that_names_them(pair) -> None:
    ours, theirs = pair
    ends = pipe_ends(6)
    outbox = Outbox(ours)
    outbox.put(encode({"n": 1, "fds": ["a", "b"]}), ends[:2])
    outbox.put(encode({"n": 2}))
    outbox.put(encode({"n": 3, "fds": ["c", "d", "e", "f"]}), ends[2:])
    inodes = [os.fstat(fd).st_ino for fd in ends]
    assert outbox.flush()
    assert outbox.size == 0
    inbox = Inbox(theirs)
    found = []
    while len(found) < 3:
        inbox.pull()
        found += inbox.frames()
    assert [list(fds) for _, fds in found] == [["a", "b"], [], ["c", "d", "e", "f"]]
    got = [fd for _, fds in found for fd in fds.values()]
    assert [os.fstat(fd).st_ino for fd in got] == inodes
    assert not any(os.get_inheritable(fd) for fd in got)
    close_all(got)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ({}, 2),
        ({"fds": ["a"]}, 0),
        ({"fds": ["a", "b", "c"]}, 2),
        ({"fds": ["a", "a"]}, 2),
        ({"fds": [1, 2]}, 2),
        ({"fds": "ab"}, 2),
        ({"fds": {"a": 1, "b": 2}}, 2),
        ({"fds": ["a"]}, FDS_LIMIT + 2),
        ({"fds": ["a"]}, FDS_LIMIT * 2),
    ],
)
def test_descriptors_that_are_not_as_named_are_closed(pair, message: dict[str, Any], count: int) -> None:
    ours, theirs = pair
    ends = pipe_ends(count)
    send(ours, encode(message), ends)
    close_all(ends)
    inbox = Inbox(theirs)
    with pytest.raises(ProtocolViolation):  # noqa: PT012 - either of them
        inbox.pull()
        list(inbox.frames())
    inbox.close()  # that nothing stays open is the leak fixture's to see


def test_what_is_never_sent_is_closed_and_told_lost(pair) -> None:
    ours, theirs = pair
    lost: list[int] = []
    outbox = Outbox(ours)
    ends = pipe_ends(4)
    filler = encode({"x": "y" * 1_000_000})
    outbox.put(filler, ends[:2], lambda: lost.append(1))
    outbox.put(filler, ends[2:], lambda: lost.append(2))
    assert not outbox.flush()
    outbox.close()
    assert lost == [1, 2]
    theirs.close()


@pytest.mark.parametrize("name", sorted(by_code()))
def test_errors_cross_as_what_they_are(name: str) -> None:
    kind = by_code()[name]
    error = (
        KernelError(13, "mount", "/x", hint="h") if issubclass(kind, KernelError) else kind("words", hint="h", a=[1], errno=2)
    )
    back = error_from(json.loads(json.dumps(error_to(error))))
    assert type(back) is kind
    assert (back.message, back.hint, back.details) == (error.message, error.hint, error.details)
    if isinstance(back, OSError):
        assert (back.errno, back.strerror) == (13, "Permission denied")


def test_errors_of_another_version() -> None:
    back = error_from({"code": "Newer", "message": "m", "hint": "", "details": {"message": 1, "self": 2}})
    assert (type(back), back.message, back.details) == (SandboxdError, "m", {})
    for broken in ({}, {"code": "NotFound", "message": "m", "hint": "", "details": 5}):
        with pytest.raises(ProtocolViolation):
            error_from(broken)


# -- the loop -----------------------------------------------------------------------------------------------------------


def test_a_faulty_action_ends_itself_only(pair, capfd) -> None:
    ours, theirs = pair
    loop, calls = Loop(), []

    def fail(_events: int) -> None:
        calls.append("fault")
        raise RuntimeError("broken")

    loop.watch(theirs.fileno(), READ, fail)
    loop.after(0, lambda: calls.append("timer"))
    loop.after(0, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    loop.after(0, lambda: calls.append("cancelled")).cancel()
    ours.send(b"x")
    for _ in range(3):
        loop.turn(0.01)
    loop.close()
    assert sorted(calls) == ["fault", "timer"]
    words = capfd.readouterr().err
    assert "RuntimeError('broken')" in words
    assert "ZeroDivisionError" in words


def test_forgotten_within_a_batch_is_not_called(pair) -> None:
    ours, theirs = pair
    loop, calls = Loop(), []

    def forget_both(fd: int) -> Callable[[int], None]:
        def act(_events: int) -> None:
            calls.append(fd)
            loop.forget(ours.fileno())
            loop.forget(theirs.fileno())

        return act

    for sock in pair:
        loop.watch(sock.fileno(), READ, forget_both(sock.fileno()))
    ours.send(b"x")
    theirs.send(b"x")
    loop.turn(1)
    loop.turn(0)
    loop.close()
    assert len(calls) == 1


# -- a real init and good clients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_several_clients_on_either_loop(init_env, runner) -> None:
    env: Env = init_env()

    async def main() -> None:
        async with connected(env) as (one, heard_one), connected(env) as (two, heard_two):
            assert one.peer_pid == two.peer_pid == env.pid
            await start(env, one, "web", shell("exit 1"))
            exited = await heard_two.wait(ServiceExited)
            assert await heard_one.wait(ServiceExited) == exited
            assert [type(event) for event in heard_two.events] == [Started, ServiceExited]
            answers = await asyncio.gather(*(link.status() for link in (one, two) for _ in range(50)))
            assert all(answer.services["web"].wait_status == exited.wait_status for answer in answers)
            two.close()
            two.close()
            assert heard_two.events[-1] == Closed("closed by us", ours=True)
            with pytest.raises(NotFound):
                await two.status()
            assert (await one.status()).sessions == []

    run(main(), runner)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_init_gone(init_env, runner) -> None:
    env: Env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            waiting = asyncio.create_task(link.exec(shell("kill -STOP $$", tty=True)))
            os.kill(env.pid, signal.SIGKILL)
            with contextlib.suppress(NotFound):
                close_all(list((await waiting).fds.values()))
            assert (await heard.wait(Closed)).reason
            with pytest.raises(NotFound):
                await link.status()
            env.harness.wait()
            with pytest.raises(NotFound, match="does not answer"):
                await InitLink.connect(env.dir, heard)
        with pytest.raises(NotFound):
            await InitLink.connect(env.dir / "none", heard)
        assert len([event for event in heard.events if isinstance(event, Closed)]) == 1

    run(main(), runner)


def test_a_long_path(tmp_path: Path, init_env) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    sockets = bind_sockets(deep)
    assert len(str(deep / "init.sock")) > 108
    again = bind_sockets(deep)  # over what an earlier init left
    sockets.close()
    again.close()


def test_a_cancelled_caller_leaves_nothing_open(init_env) -> None:
    env: Env = init_env()

    async def main() -> None:
        async with connected(env) as (link, _):
            for turns in range(12):
                task = asyncio.create_task(link.exec(program("true")))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    close_all(list((await task).fds.values()))
            tasks = [asyncio.create_task(link.attach("none", stdin=True, slow="drop")) for _ in range(5)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while (await link.status()).sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(main())


# -- a real init and bad clients ----------------------------------------------------------------------------------------


def raw(env: Env) -> socket.socket:
    """A connection that speaks for itself; it has read the greeting."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    folder = os.open(env.dir, os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{folder}/init.sock")
    finally:
        os.close(folder)
    hello = read_frame(sock)
    assert set(hello.pop("status")) == {"services", "failed", "sessions"}
    assert hello.items() >= {"event": "hello", "version": VERSION, "id": "ab" * 16, "name": "test"}.items()
    return sock


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def read_frame(sock: socket.socket) -> dict[str, Any] | None:
    head = read_exactly(sock, 4)
    return json.loads(read_exactly(sock, int.from_bytes(head, "little"))) if head else None


def test_a_status_over_the_cap_costs_nobody_the_listener(init_env) -> None:
    """Many failures told in letters that JSON writes as six bytes each."""
    word = "\u00fc" * 100 + "/"
    env: Env = init_env({f"s{n}": program("/" + word * 9 + "x") for n in range(126)})

    def is_over() -> bool:
        sock = raw(env)
        sock.sendall(encode({"id": 1, "op": "diag"}))
        answer = read_frame(sock)
        while answer is not None and "event" in answer:  # more failures
            answer = read_frame(sock)
        assert answer is not None
        assert "ok" in answer
        sock.close()
        return env.stderr.read_text().count("greeting a client") == 2

    run(until(is_over))
    env.stderr.write_text("")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        (2).to_bytes(4, "little") + b"[]",
        (3).to_bytes(4, "little") + b"\xff\xff\xff",
        (100_000).to_bytes(4, "little") + b"[" * 100_000,
        encode({"id": 1, "op": "status", "fds": ["a"]}),
        (0).to_bytes(4, "little"),
    ],
    ids=["length", "http", "list", "bytes", "nesting", "no descriptor", "empty"],
)
def test_garbage_is_told_and_closed_and_harms_nobody(init_env, garbage: bytes) -> None:
    env: Env = init_env()
    sock = raw(env)
    sock.sendall(garbage)
    answer = read_frame(sock)
    assert answer is not None
    assert answer["id"] is None
    assert answer["error"]["code"] == "ProtocolViolation"
    with contextlib.suppress(ConnectionResetError):  # when it had not read all of it
        assert sock.recv(1) == b""
    sock.close()

    async def main() -> None:
        async with connected(env) as (link, _):
            assert (await link.status()).services == {}

    run(main())


def test_calls_that_are_wrong_are_answered(init_env) -> None:
    env: Env = init_env()
    sock = raw(env)
    calls: list[tuple[dict[str, Any], str]] = [
        ({"op": "none"}, "NotFound"),
        ({"op": ["status"]}, "NotFound"),
        ({}, "NotFound"),
        ({"op": "start"}, "SpecInvalid"),
        ({"op": "start", "service": 5}, "SpecInvalid"),
        ({"op": "start", "service": {"name": "x", "argv": [[]]}}, "SpecInvalid"),
        ({"op": "signal", "target": "all"}, "SpecInvalid"),
        ({"op": "signal", "target": "all", "signum": "x"}, "SpecInvalid"),
        ({"op": "signal", "target": "all", "signum": -1}, "SpecInvalid"),
        ({"op": "exec", "request": [1]}, "SpecInvalid"),
        ({"op": "exec", "request": {"argv": ["true"], "rows": -1}}, "SpecInvalid"),
        ({"op": "resize", "target": "x"}, "SpecInvalid"),
        ({"op": "close_session"}, "SpecInvalid"),
    ]
    for number, (call, code) in enumerate(calls):
        sock.sendall(encode({"id": number, **call}))
        answer = read_frame(sock)
        while answer is not None and "event" in answer:
            answer = read_frame(sock)
        assert answer is not None
        assert (answer["id"], answer["error"]["code"]) == (number, code)
    sock.close()


def test_a_frame_in_pieces_and_one_that_never_ends(init_env) -> None:
    env: Env = init_env()
    slow, half = raw(env), raw(env)
    half.sendall(encode({"id": 1, "op": "signal", "target": "all", "signum": 9})[:-1])
    for byte in encode({"id": 7, "op": "status"}):
        slow.sendall(bytes([byte]))
    answer = read_frame(slow)
    assert answer is not None
    assert answer["id"] == 7
    half.close()
    slow.sendall(encode({"id": 8, "op": "status"}) * 3)
    assert [read_frame(slow)["id"] for _ in range(3)] == [8, 8, 8]  # type: ignore[index]
    slow.close()


def test_unasked_descriptors_are_closed(init_env) -> None:
    env: Env = init_env()
    sock = raw(env)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for op in ("status", "none", "exec"):
        send(sock, encode({"id": 1, "op": op, "fds": ["log.0"]}), [writing])
        assert read_frame(sock) is not None
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    sock.close()


def test_clients_are_bounded(init_env) -> None:
    env: Env = init_env()
    held = [raw(env) for _ in range(clients.CLIENTS_LIMIT)]

    async def main() -> None:
        with pytest.raises(NotFound):
            await InitLink.connect(env.dir, lambda _event: None)
        held.pop().close()

        async def try_again() -> InitLink | None:
            try:
                return await InitLink.connect(env.dir, lambda _event: None)
            except NotFound:
                return None

        while (link := await try_again()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        link.close()

    run(main())
    for sock in held:
        sock.close()


STATUS = encode({"id": 0, "op": "status"})


def long_winded() -> dict[str, dict[str, Any]]:
    """Services whose failures make a status of some 200 KiB."""
    return {f"s{number}": program("x" * 5000 + "/y") for number in range(100)}


async def all_failed(env: Env) -> None:
    async with connected(env) as (link, _):
        while len((await link.status()).failed) < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_client_that_does_not_read_is_dropped(init_env) -> None:
    env: Env = init_env(long_winded())
    stuck = raw(env)
    run(all_failed(env))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
        for _ in range(100_000):
            stuck.sendall(STATUS)
    stuck.close()

    async def main() -> None:
        async with connected(env) as (link, _):
            assert len((await link.status()).failed) == 100

    run(main())


def test_a_client_that_left_before_the_answer(init_env) -> None:
    """What nobody can hold any more is ended."""
    env: Env = init_env(long_winded())
    sock = raw(env)
    run(all_failed(env))
    sock.sendall(STATUS * 5)  # the answers fill the socket, so that the next one is still in init when its client goes
    sock.sendall(encode({"id": 1, "op": "exec", "request": program("sleep", "1000")}))
    run(until(lambda: len(host_pids(env.pid)) == 2))
    sock.close()

    async def main() -> None:
        async with connected(env) as (link, heard):
            if (await link.status()).sessions:
                await heard.wait(SessionExited)
            await until(lambda: set(host_pids(env.pid)) == {1})

    run(main())


def test_shared_memory_is_told_of_by_a_descriptor(init_env) -> None:
    env: Env = init_env()

    async def main() -> None:
        async with connected(env) as (link, _):
            fd = await link.segments()
            assert os.pread(fd, 4096, 0).split()[:2] == [b"key", b"shmid"]
            os.close(fd)

    run(main())


# -- a hostile init -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def fake_init(directory: Path, *speak: bytes, fds: list[int] | None = None) -> AsyncIterator[socket.socket]:
    """A listener that answers a connection with these bytes."""
    sockets = bind_sockets(directory)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        peer, _ = await loop.sock_accept(sockets.control)
        peers.append(peer)
        for part in speak:
            with contextlib.suppress(OSError):
                send(peer, part, fds or [])
            await asyncio.sleep(0)

    peers: list[socket.socket] = []
    task = asyncio.create_task(serve())
    try:
        yield sockets.control
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for peer in peers:
            peer.close()
        sockets.close()


HELLO = encode({"event": "hello", "version": 1, "id": "x", "name": "y"})


@pytest.mark.parametrize(
    "greeting",
    [
        b"\xff\xff\xff\xff",
        encode({"event": "hello", "version": 3}),
        encode({"event": "hello"}),
        encode({"id": 1}),
        b"\x02\0\0\0[]",
    ],
)
def test_a_greeting_that_is_none(tmp_path: Path, greeting: bytes) -> None:
    async def main() -> None:
        heard = Recorder()
        async with fake_init(tmp_path, greeting):
            with pytest.raises(SandboxdError):
                await InitLink.connect(tmp_path, heard, timeout=5)
        assert heard.events == []

    run(main())


def test_an_init_that_never_greets(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_init(tmp_path):
            with pytest.raises(TimedOut):
                await InitLink.connect(tmp_path, Recorder(), timeout=0.05)

    run(main())


def test_an_init_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initlink, "CALL_TIMEOUT", 0.05)

    async def main() -> None:
        async with fake_init(tmp_path, HELLO):
            link = await InitLink.connect(tmp_path, Recorder())
            with pytest.raises(TimedOut, match="did not answer status"):
                await link.status()
            assert link.waiting == {}
            huge = {"name": "x", "argv": ["x" * 900_000]}
            for _ in range(4):
                with pytest.raises(TimedOut, match="did not answer exec"):
                    await link.exec(huge)
            for _ in range(2):
                with contextlib.suppress(TimedOut):
                    await link.exec(huge)
            with pytest.raises(TimedOut, match="reads nothing"):
                await link.exec(huge)
            link.close()

    run(main())


@pytest.mark.parametrize(
    "frame",
    [
        {"id": 1, "ok": {}},
        {"id": 1, "ok": {"services": [], "failed": {}, "sessions": []}},
        {"id": 1, "ok": {"services": {"a": {"pid": "1"}}, "failed": {}, "sessions": []}},
        {"id": 1, "ok": {"services": {}, "failed": {"a": {}}, "sessions": []}},
        {"id": 1, "ok": 5},
        {"id": 1, "error": 5},
        {"id": 1},
        {"id": "1", "ok": {}},
        {"event": "service_exited", "service": "a"},
        {"event": "service_exited", "service": "a", "pid": 1, "wait_status": "0", "time": 0},
        {"event": "exec_failed", "service": "a", "error": None},
        {"id": None, "error": {"code": "NotFound", "message": "m", "hint": "", "details": {}}},
    ],
)
def test_answers_that_are_none(tmp_path: Path, frame: dict[str, Any]) -> None:
    async def main() -> None:
        heard = Recorder()
        async with fake_init(tmp_path, HELLO, encode(frame)):
            link = await InitLink.connect(tmp_path, heard)
            with pytest.raises(SandboxdError):
                await link.status()
            link.close()

    run(main())


def test_descriptors_nobody_waits_for_are_closed(tmp_path: Path) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def main() -> None:
        heard = Recorder()
        answers = [encode({"id": 1, "ok": {"session": "s", "pid": 5}, "fds": ["odd"]})] * 2
        async with fake_init(tmp_path, encode({"event": "later", "fds": ["a"]}), *answers, fds=[writing]):
            with pytest.raises(SandboxdError):
                await InitLink.connect(tmp_path, heard)

    run(main())
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_an_answer_with_descriptors_may_come_with_the_greeting(tmp_path: Path) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def main() -> None:
        async with fake_init(tmp_path, HELLO + encode({"id": 1, "ok": {}, "fds": ["shm"]}), fds=[writing]):
            link = await InitLink.open(tmp_path, Recorder())
            fd = await link.segments()
            assert not os.get_inheritable(fd)
            os.write(fd, b"x")
            os.close(fd)
            await link.greeted()
            link.close()

    run(main())
    os.close(writing)
    assert os.read(reading, 9) == b"x"
    os.close(reading)


def test_a_session_with_odd_descriptors(tmp_path: Path) -> None:
    for found, wanted in (({"odd": 1}, {"pty"}), ({"stdout": 1}, {"stdout", "stderr"})):
        fds = {name: os.open("/dev/null", os.O_RDONLY) for name in found}
        with pytest.raises(ProtocolViolation):
            initevents.as_opened({"session": "s", "pid": 1}, fds, wanted)
    with pytest.raises(ProtocolViolation):
        initevents.as_opened({"session": "s"}, {"pty": os.open("/dev/null", os.O_RDONLY)}, {"pty"})


def test_a_storm_of_events_leaves_room_for_others(tmp_path: Path) -> None:
    event = encode({"event": "started", "service": "web", "pid": 2, "time": 1.0})

    async def main() -> None:
        heard = Recorder()
        async with fake_init(tmp_path, HELLO, event * 2000):
            link = await InitLink.connect(tmp_path, heard)
            while len(heard.events) < 2000:  # noqa: ASYNC110
                await asyncio.sleep(0)
            link.close()
            assert heard.events[-1] == Closed("closed by us", ours=True)
            assert len(heard.events) == 2001

    run(main())


def test_failures_of_start_are_in_the_status(init_env) -> None:
    env: Env = init_env({"bad": program("none"), "worse": {"argv": []}, "good": program("true")})

    async def main() -> None:
        async with connected(env) as (link, _):
            await until(lambda: bool(read_exits(env.dir / "exits")))
            failed = (await link.status()).failed
            while len(failed) < 2:
                failed = (await link.status()).failed
            assert (type(failed["bad"]), type(failed["worse"])) == (CommandNotFound, SpecInvalid)
            assert failed["bad"].details["command"] == "none"

    run(main())
