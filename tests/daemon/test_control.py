"""The control server on real sockets under uvloop: what it answers, in which order, and that no client disturbs another."""

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.daemon.connection import Peer
from sandboxd.daemon.control import Bounds, ControlServer, refuse_descriptors
from sandboxd.daemon.departures import Departures
from sandboxd.errors import QueueFull
from sandboxd.protocol.framing import FRAME_CAP
from tests.daemon.toy import Raw, Toy, serving, settle, under_uvloop

OURS = "io.sandboxd.Control."
VARLINK = "org.varlink.service."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def own_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- answers ---------------------------------------------------------------------------------------------------------------


def test_a_call_is_answered(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            reply = await client.ask("List", {"filters": ["a"]})
            assert reply["parameters"]["envs"][0]["name"] == f"a{os.getuid()}"
            assert "continues" not in reply

    under_uvloop(main())


def test_calls_sent_together_are_answered_in_order(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), Raw(path) as client:
            for target in ("slow", "a", "b", "missing", "c"):
                await client.call("Inspect", {"target": target})
            await toy.began.wait()
            assert toy.calls == ["slow"]  # the next one waits for this one's answer
            toy.go.set()
            answers = [await client.answer() for _ in range(5)]
            names = [answer["parameters"].get("env", {}).get("name") for answer in answers]
            assert names == ["slow", "a", "b", None, "c"]
            assert answers[3]["error"] == f"{OURS}NotFound"

    under_uvloop(main())


def test_frames_may_come_in_pieces(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            for byte in b'{"method":"io.sandboxd.Control.List"}\0{"method":"org.varl':
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert "parameters" in await client.answer()
            await client.send(b'ink.service.GetInfo"}\0')
            assert (await client.answer())["parameters"]["interfaces"] == ["io.sandboxd.Control", "org.varlink.service"]

    under_uvloop(main())


def test_more_streams_and_oneway_is_silent(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), Raw(path) as client:
            await client.call("Events", more=True)
            answers = [await client.answer() for _ in range(3)]
            assert [answer.get("continues", False) for answer in answers] == [True, True, False]
            await client.call("List", oneway=True)
            await client.call("Inspect", {"target": "missing"}, oneway=True)
            assert (await client.ask("Inspect", {"target": "next"}))["parameters"]["env"]["name"] == "next"
            assert toy.calls == ["List", "missing", "next"]

    under_uvloop(main())


def test_replies_from_two_tasks_do_not_mix(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            await client.call("Prune", more=True)
            bodies = [(await client.answer())["parameters"]["removed"] for _ in range(5)]
            assert [body[0][0] for body in bodies[:4]] == list("abcd")
            assert all(len(set(word)) == 1 for body in bodies for word in body)

    under_uvloop(main())


@pytest.mark.parametrize(
    ("message", "error", "parameters"),
    [
        ({"method": f"{OURS}Fly"}, f"{VARLINK}MethodNotFound", {"method": f"{OURS}Fly"}),
        ({"method": "org.varlink.service.Fly"}, f"{VARLINK}MethodNotFound", {"method": "org.varlink.service.Fly"}),
        ({"method": f"{OURS}Status"}, f"{VARLINK}MethodNotImplemented", {"method": f"{OURS}Status"}),
        ({"method": "io.example.Other.List"}, f"{VARLINK}InterfaceNotFound", {"interface": "io.example.Other"}),
        ({"method": "List"}, f"{VARLINK}InterfaceNotFound", {"interface": ""}),
        ({"method": f"{OURS}List", "parameters": {"all": 3}}, f"{VARLINK}InvalidParameter", {"parameter": "all"}),
        ({"method": f"{OURS}List", "parameters": {"al": True}}, f"{VARLINK}InvalidParameter", {"parameter": "al"}),
        ({"method": f"{OURS}Stop"}, f"{VARLINK}InvalidParameter", {"parameter": "target"}),
        ({"method": f"{OURS}List", "parameters": [1]}, f"{VARLINK}InvalidParameter", {"parameter": "parameters"}),
        ({"method": f"{OURS}List", "upgrade": True}, f"{VARLINK}InvalidParameter", {"parameter": "upgrade"}),
        ({"method": f"{OURS}Events"}, f"{VARLINK}ExpectedMore", {}),
        (
            {"method": f"{VARLINK}GetInterfaceDescription", "parameters": {"interface": "a.b"}},
            f"{VARLINK}InterfaceNotFound",
            {"interface": "a.b"},
        ),
    ],
)
def test_what_cannot_be_meant(path: Path, message: object, error: str, parameters: object) -> None:
    """Varlink's own errors, with exactly the parameters they declare; the connection serves on."""

    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            await client.send(json.dumps(message).encode() + b"\0")
            assert await client.answer() == {"error": error, "parameters": parameters}
            assert "error" not in await client.ask("List", None)

    under_uvloop(main())


@pytest.mark.parametrize("target", ["odd", "cancelled"])
def test_a_fault_of_ours_is_internal(path: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            answer = await client.ask("Inspect", {"target": target})
            assert answer["error"] == f"{OURS}Internal"
            assert answer["parameters"].keys() == {"message", "hint", "details"}
            assert "error" not in await client.ask("List")

    under_uvloop(main())
    assert "a fault of ours" in caplog.text or target != "odd"


def test_a_handler_without_an_answer_is_a_fault(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            assert (await client.ask("Kill", {"target": "nothing"}))["error"] == f"{OURS}Internal"
            # A second answer cannot be sent: the client would take it for the answer to its next call.
            assert (await client.ask("Kill", {"target": "two"}))["parameters"]["env"]["name"] == "once"
            assert await client.ended()

    under_uvloop(main())


def test_only_declared_methods_have_handlers(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="Fly"):
        ControlServer(sock, {"Fly": Toy().list})


# -- hostile input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0", "no varlink call"),
        (b"\0", "no varlink call"),
        (b"\xff\xfe\xfd\0", "no varlink call"),
        (b'{"method": "a.B"\0', "no varlink call"),
        (b"[" * 100_000 + b"\0", "nests deeper"),
        (b'{"method":"a.B","parameters":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}\0", "nests deeper"),
        (b" " * (FRAME_CAP + 1), "longer than 1048576"),
        (b'{"method":"a.B","parameters":{"a":"' + b"x" * FRAME_CAP + b'"}}\0', "longer than 1048576"),
    ],
    ids=["http", "empty", "binary", "broken", "brackets", "deep", "endless", "over-cap"],
)
def test_garbage_is_answered_in_its_turn_and_ends_the_connection(path: Path, data: bytes, words: str) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server, Raw(path) as client, Raw(path) as other:
            await client.call("Inspect", {"target": "slow"})
            await toy.began.wait()
            sending = asyncio.create_task(client.send(data + b'{"method":"io.sandboxd.Control.List"}\0'))
            assert "error" not in await other.ask("List")
            toy.go.set()
            assert (await client.answer())["parameters"]["env"]["name"] == "slow"
            answer = await client.answer()
            assert answer["error"] == f"{OURS}ProtocolViolation"
            assert words in answer["parameters"]["message"]
            assert await client.ended()
            await asyncio.wait([sending])
            assert sending.exception() is None or isinstance(sending.exception(), OSError)
            assert "error" not in await other.ask("List")
            await settle(lambda: len(server) == 1)
        assert toy.calls.count("List") == 2

    under_uvloop(main())


def test_half_a_frame_costs_nobody_anything(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()) as server:
            lame = [Raw(path) for _ in range(40)]
            for client in lame:
                await client.send(b'{"method":"io.sandboxd.Control.Li')
            async with Raw(path) as other:
                assert "error" not in await other.ask("List")
            for client in lame:
                client.close()
            await settle(lambda: len(server) == 0)

    under_uvloop(main())


def test_descriptors_that_clients_send_are_not_taken(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()) as server, Raw(path) as client, Raw(path) as other:
            await settle(lambda: len(server) == 2)
            before = own_descriptors()
            refused = 0
            for _ in range(200):
                try:
                    socket.send_fds(client.sock, [b" "], [0] * 100)
                except PermissionError:  # Linux 6.16 and later: SO_PASSRIGHTS
                    refused += 1
            await client.call("List")
            assert "error" not in await client.answer()
            assert "error" not in await other.ask("List")
            assert own_descriptors() == before
            assert refused in (0, 200)

    under_uvloop(main())


def test_descriptors_are_dropped_where_the_kernel_cannot_refuse_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel before 6.16: the option is taken back."""

    async def main() -> None:
        async with serving(path, Toy()) as server, Raw(path) as client:
            await settle(lambda: len(server) == 1)
            before = own_descriptors()
            read, write = os.pipe()
            for _ in range(50):
                socket.send_fds(client.sock, [b" "], [write] * 100)
                await asyncio.sleep(0)  # or too many are in flight: the kernel allows as many as RLIMIT_NOFILE
            os.close(write)
            await client.call("List")
            assert "error" not in await client.answer()
            assert os.read(read, 1) == b""  # no copy of it is open anywhere
            os.close(read)
            assert own_descriptors() == before

    monkeypatch.setattr("sandboxd.daemon.control.refuse_descriptors", lambda listener: False)
    under_uvloop(main())


def test_a_kernel_without_the_option_is_no_error() -> None:
    class Older(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(92, "ENOPROTOOPT")

    with Older(socket.AF_UNIX) as sock:
        assert refuse_descriptors(sock) is False


@settings(max_examples=40)
@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([b"\0", b'{"method":"io.sandboxd.Control.List"}\0', b'{"method":']), max_size=8
    )
)
def test_any_bytes_leave_the_server_serving(pieces: list[bytes]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "s"
            async with serving(path, Toy()) as server:
                async with Raw(path) as client:
                    with contextlib.suppress(OSError):
                        for piece in pieces:
                            await client.send(piece)
                            await asyncio.sleep(0)
                        client.sock.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(EOFError, ConnectionResetError):
                        while True:
                            assert (await client.answer()).keys() <= {"parameters", "error"}
                async with Raw(path) as other:
                    assert "error" not in await other.ask("List")
                await settle(lambda: len(server) == 0)

    under_uvloop(main())


# -- slow and departed clients -----------------------------------------------------------------------------------------------


def test_a_slow_reader_makes_its_own_handler_wait(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server, Raw(path) as slow, Raw(path) as other:
            await slow.call("Events", {"follow": True}, more=True)
            await toy.began.wait()
            last = -1
            while toy.sent != last:  # until it stands
                last = toy.sent
                for _ in range(50):
                    assert "error" not in await other.ask("List")
            # What is out is what the socket's buffer took: 500 events of some 120 bytes make a reply.
            assert 0 < toy.sent < 40
            for _ in range(toy.sent + 5):
                assert len((await slow.answer())["parameters"]["events"]) == 500
            assert toy.sent > last
            slow.close()
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 1)

    under_uvloop(main())


def test_a_big_reply_to_a_slow_reader_arrives_whole(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client, Raw(path) as other:
            await client.call("Inspect", {"target": "big"})
            assert "error" not in await other.ask("List")
            assert len((await client.answer())["parameters"]["env"]["name"]) == 8 << 20

    under_uvloop(main())


def test_a_client_that_goes_cancels_its_call(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            client = Raw(path)
            await client.call("Stop", {"target": "a"})
            await toy.began.wait()
            client.close()
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)
        assert toy.calls == []

    under_uvloop(main())


def test_a_client_that_goes_mid_stream_with_unread_replies(path: Path) -> None:
    """Closing with unread data resets the other end (ECONNRESET, EPOLLERR), which libuv reports once."""

    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            before = own_descriptors()
            for _ in range(20):
                toy.began.clear()
                toy.cancelled.clear()
                client = Raw(path)
                await client.call("Events", {"follow": True}, more=True)
                await toy.began.wait()
                client.close()
                await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)
            assert own_descriptors() == before

    under_uvloop(main())


def test_a_client_that_only_shuts_down_its_writing_gets_its_answers(path: Path) -> None:
    """`printf … | nc -U` and the like."""

    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server, Raw(path) as client:
            await client.call("Inspect", {"target": "slow"})
            await client.call("Inspect", {"target": "b"})
            await client.send(b'{"method": "half')
            client.sock.shutdown(socket.SHUT_WR)
            await toy.began.wait()
            toy.go.set()
            assert [(await client.answer())["parameters"]["env"]["name"] for _ in range(2)] == ["slow", "b"]
            assert await client.ended()
            await settle(lambda: len(server) == 0)

    under_uvloop(main())


def test_a_client_that_shut_down_and_then_goes_is_noticed(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            client = Raw(path)
            await client.call("Stop", {"target": "a"})
            client.sock.shutdown(socket.SHUT_WR)
            await toy.began.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not toy.cancelled.is_set()
            client.close()
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)

    under_uvloop(main())


def test_a_oneway_call_outlives_its_client(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            client = Raw(path)
            await client.call("Stop", {"target": "a"}, oneway=True)
            await client.call("List", oneway=True)
            await client.call("Inspect", {"target": "unasked"})
            await toy.began.wait()
            client.close()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not toy.cancelled.is_set()
            toy.go.set()
            await settle(lambda: len(server) == 0)
        assert toy.calls == ["Stop", "List"]

    under_uvloop(main())


def test_a_oneway_call_of_a_client_that_left_at_once_is_done(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            for _ in range(20):
                client = Raw(path)
                await client.call("List", oneway=True)
                client.close()
            await settle(lambda: len(toy.calls) == 20)
            await settle(lambda: len(server) == 0)

    under_uvloop(main())


def test_calls_behind_a_long_one_wait_in_the_kernel(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            client = Raw(path)
            await client.call("Stop", {"target": "a"})
            await toy.began.wait()
            call = b'{"method":"io.sandboxd.Control.Inspect","parameters":{"target":"x"}}\0'
            sent = 0
            try:
                while sent < 4 << 20:
                    sent += client.sock.send(call * 100)
                    await asyncio.sleep(0)
            except BlockingIOError:
                pass
            assert sent < 4 << 20
            async with Raw(path) as other:
                assert "error" not in await other.ask("List")
            # Not being read, it is still seen to go.
            client.close()
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)
            assert toy.calls == ["List"]

    under_uvloop(main())


def test_calls_that_waited_in_the_kernel_are_answered(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), Raw(path) as client:
            await client.call("Inspect", {"target": "slow"})
            await toy.began.wait()
            call = b'{"method":"io.sandboxd.Control.Logs","parameters":{"target":"x"}}\0'
            sending = asyncio.create_task(client.send(call * 20_000))
            await asyncio.sleep(0.05)
            assert not sending.done()
            toy.go.set()
            await client.answer()
            for _ in range(20_000):
                assert (await client.answer())["parameters"]["lines"][0]["text"] == "x"
            await sending

    under_uvloop(main())


# -- who comes in --------------------------------------------------------------------------------------------------------------


def test_only_those_who_are_allowed(path: Path) -> None:
    async def main() -> None:
        seen: list[Peer] = []

        def allowed(peer: Peer) -> bool:
            seen.append(peer)
            return False

        async with serving(path, Toy(), allowed=allowed) as server, Raw(path) as client:
            answer = await client.answer()
            assert answer["error"] == f"{OURS}PermissionDenied"
            assert await client.ended()
            assert len(server) == 0
        assert seen == [Peer(os.getuid(), os.getgid(), os.getpid())]

    under_uvloop(main())


def test_idle_clients_make_room(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy, Bounds(connections=5, per_process=100)) as server:
            before = own_descriptors()
            clients = [Raw(path) for _ in range(5)]
            for client in reversed(clients):
                await client.ask("List")
            async with Raw(path) as another:
                assert "error" not in await another.ask("List")
                assert await clients[4].ended()  # the one that was idle longest
                assert "error" not in await clients[0].ask("List")
                assert len(server) == 5
            for client in clients:
                client.close()
            await settle(lambda: len(server) == 0)
            assert own_descriptors() == before

    under_uvloop(main())


@pytest.mark.parametrize("bounds", [Bounds(connections=3), Bounds(per_process=3)], ids=["of all", "of one process"])
def test_busy_clients_make_no_room(path: Path, bounds: Bounds) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy, bounds) as server:
            busy = [Raw(path) for _ in range(3)]
            for client in busy:
                await client.call("Stop", {"target": "a"})
            await settle(lambda: len(server) == 3)
            async with Raw(path) as another:
                answer = await another.answer()
                assert answer["error"] == f"{OURS}{QueueFull.__name__}"
                assert answer["parameters"]["details"]["limit"] == 3
                assert await another.ended()
            toy.go.set()
            for client in busy:
                assert "error" not in await client.answer()
                client.close()

    under_uvloop(main())


def test_who_has_asked_makes_no_room_before_he_was_heard(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy, Bounds(connections=3)):
            asking = [Raw(path) for _ in range(3)]
            for client in asking:  # all in one turn of the loop, in which the server does not get to read
                client.sock.send(b'{"method":"io.sandboxd.Control.Stop","parameters":{"target":"a"}}\0')
            async with Raw(path) as another:
                assert (await another.answer())["error"] == f"{OURS}{QueueFull.__name__}"
            toy.go.set()
            for client in asking:
                assert "error" not in await client.answer()
                client.close()

    under_uvloop(main())


def test_who_has_left_makes_room_before_that_was_heard(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy, Bounds(connections=2)):
            asking, leaving = Raw(path), Raw(path)
            asking.sock.send(b'{"method":"io.sandboxd.Control.Stop","parameters":{"target":"a"}}\0')
            leaving.close()
            async with Raw(path) as another:
                assert "error" not in await another.ask("List")
            toy.go.set()
            assert "error" not in await asking.answer()
            asking.close()

    under_uvloop(main())


def test_hundreds_of_clients(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy, Bounds(connections=400, per_process=400)) as server:
            clients = [Raw(path) for _ in range(300)]
            answers = await asyncio.gather(*(client.ask("Logs", {"target": str(i)}) for i, client in enumerate(clients)))
            assert [answer["parameters"]["lines"][0]["text"] for answer in answers] == [str(i) for i in range(300)]
            for client in clients:
                client.close()
            await settle(lambda: len(server) == 0)

    under_uvloop(main())


def test_without_descriptors_it_rests_instead_of_spinning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    async def main() -> None:
        async with serving(path, Toy(), Bounds(rest=0.2)) as server:
            first = Raw(path)
            await first.ask("List")
            waiting = Raw(path)
            held = [os.dup(0) for _ in range(3)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
            try:
                late = Raw.__new__(Raw)
                os.close(held.pop())
                late.__init__(path)  # type: ignore[misc]  # takes the last descriptor
                await late.call("List")
                await settle(lambda: "no new clients" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in held:
                    os.close(fd)
            assert "error" not in await late.answer()
            assert "error" not in await waiting.ask("List")
            assert await first.ended()  # it was idle, and made room
            for client in (first, waiting, late):
                client.close()
            await settle(lambda: len(server) == 0)

    under_uvloop(main())
    assert caplog.text.count("no new clients") < 20


# -- descriptors out -----------------------------------------------------------------------------------------------------------


def test_descriptors_go_along_with_their_reply(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            await client.call("Exec", {"target": "a", "argv": ["hello", "there"]}, more=True)
            await client.readable()
            data, fds, _, _ = socket.recv_fds(client.sock, 1 << 16, 4)
            assert json.loads(data.split(b"\0")[0])["parameters"]["fds"] == ["stdout"]
            assert os.read(fds[0], 100) == b"hello there"
            os.close(fds[0])
            client.left = data.partition(b"\0")[2]
            assert (await client.answer())["parameters"]["exit_code"] == 7

    under_uvloop(main())


def test_a_descriptor_that_cannot_be_passed_is_an_error(path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), Raw(path) as client:
            answer = await client.ask("Exec", {"target": "a", "argv": ["bad"]}, more=True)
            assert answer["error"] == f"{OURS}KernelError"
            assert "EBADF" in answer["parameters"]["message"]
            assert "error" not in await client.ask("List")

    under_uvloop(main())


# -- the end -------------------------------------------------------------------------------------------------------------------


def test_stop_cancels_and_waits(path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        client, lazy = None, None
        async with serving(path, toy) as server:
            client, lazy = Raw(path), Raw(path)
            await client.call("Stop", {"target": "a"})
            await lazy.call("Stop", {"target": "b"}, oneway=True)
            await settle(lambda: len(server) == 2)
            await toy.began.wait()
            await server.stop()
            assert toy.cancelled.is_set()
            assert len(server) == 0
            assert len(asyncio.all_tasks()) <= 2  # this one, and the one that bounds it
            await server.stop()
        assert await client.ended()
        client.close()
        lazy.close()

    under_uvloop(main())


def test_who_waits_at_a_listener_that_is_given_up_is_answered(path: Path) -> None:
    """They connected, and asked, before anybody saw that its name leads nowhere: closing it would reset them."""

    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            waiting = [Raw(path) for _ in range(40)]  # more than are accepted in one turn
            for client in waiting:  # no turn of the loop in between: nobody is accepted yet
                client.sock.send(b'{"method": "io.sandboxd.Control.List"}\0')
            assert len(server) == 0
            os.unlink(path)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
                other.listen()
                old = server._sock  # the window that `renew` leaves
                server.move(other)
                old.close()
                for client in waiting:
                    assert "error" not in await client.answer()
                    client.close()
                late = Raw(path)
                await late.ask("List")
                late.close()
                await server.stop()

    under_uvloop(main())


def test_who_asked_nothing_yet_is_told_that_the_daemon_leaves(path: Path) -> None:
    """Also who was not even accepted; a call that is cut short just ends, since nobody knows how far it came."""

    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server:
            idle, busy = Raw(path), Raw(path)
            await idle.ask("List")
            await busy.call("Stop", {"target": "a"})
            await toy.began.wait()
            waiting = Raw(path)
            await waiting.call("List")
            await server.stop()
            for client in (idle, waiting):
                answer = await client.answer()
                assert answer["error"] == f"{OURS}DaemonUnreachable"
                assert answer["parameters"]["details"] == {"leaving": True}
                assert await client.ended()
            assert await busy.ended()
            with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
                late.connect(str(path))
            for client in (idle, busy, waiting):
                client.close()
        assert toy.calls == ["List"]

    under_uvloop(main())


def test_departures_are_forgotten() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        departures = Departures(loop)
        gone: list[str] = []
        pairs = [socket.socketpair() for _ in range(2)]
        for name, (ours, _) in zip("ab", pairs, strict=True):
            departures.watch(ours.fileno(), lambda name=name: gone.append(name))  # type: ignore[misc]
            departures.watch(ours.fileno(), lambda: gone.append("twice"))
        departures.forget(pairs[0][0].fileno())
        departures.forget(pairs[0][0].fileno())
        for _, theirs in pairs:
            theirs.close()
        await settle(lambda: bool(gone))
        departures.forget(pairs[1][0].fileno())
        assert set(gone) == {"b"}
        departures.close()
        for ours, _ in pairs:
            ours.close()

    under_uvloop(main())
