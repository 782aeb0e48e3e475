"""Commands executed in an env and readers joined to its services, through a real pid 1."""

import asyncio
import errno
import fcntl
import os
import signal
import struct
import termios
from pathlib import Path
from typing import Any

import pytest

from sandboxd.errors import CommandNotExecutable, CommandNotFound, InvalidState, LaunchFailed, NotFound, QueueFull
from sandboxd.kernel.fds import close_all
from sandboxd.launch.initlink import ServiceExited, SessionExited
from sandboxd.launch.pids import host_pids
from sandboxd.launch.pump import DROP_LIMIT
from sandboxd.launch.sessions import SESSIONS_LIMIT
from tests.kernel.inits import BOUND, Env, connected, hear, no_descriptors, program, read, run, shell, start, until


def code(event: SessionExited) -> int:
    assert event.wait_status is not None
    return os.waitstatus_to_exitcode(event.wait_status)


class Screen:
    """The outer end of a terminal: what it shows, and keys."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.shown = b""

    def look(self) -> None:
        while True:
            try:
                data = os.read(self.fd, 4096)
            except (BlockingIOError, OSError):
                return
            self.shown += data

    async def shows(self, words: bytes) -> None:
        """Wait until it does; then start looking anew."""
        try:
            async with asyncio.timeout(BOUND / 2):
                while words not in self.shown:
                    self.look()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{words!r} does not come, after {self.shown!r}") from None
        self.shown = self.shown.partition(words)[2]

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)


def in_front(env: Env, name: str) -> bool:
    """Whether a program of that name is the foreground group of its terminal: a key pressed earlier would hit the shell."""
    for pid in host_pids(env.pid).values():
        try:
            words, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _, group, _, _, foreground = rest.split()[:6]
        if words.endswith(f"({name}") and state != "T" and group == foreground:
            return True
    return False


# -- exec with pipes ---------------------------------------------------------------------------------------------------------


def test_exec_gives_the_three_streams_and_the_status(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(shell("cat; echo err >&2; exit 9", stdin=True))
            assert opened.fds.keys() == {"stdin", "stdout", "stderr"}
            assert not any(os.get_inheritable(fd) for fd in opened.fds.values())
            os.write(opened.fds["stdin"], b"hello\n")
            os.close(opened.fds["stdin"])
            assert await read(opened.fds["stdout"]) == b"hello\n"
            assert await read(opened.fds["stderr"]) == b"err\n"
            exited = await heard.wait(SessionExited)
            assert (exited.session, code(exited)) == (opened.session, 9)
            assert (await link.status()).sessions == []

    run(main())


@pytest.mark.parametrize("tty", [False, True])
def test_a_session_that_cannot_be_held_is_refused_and_ended(init_env, tty: bool) -> None:
    """Its descriptors are cut off where the daemon has no room; the link and its other calls go on."""
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            with no_descriptors(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                await link.exec(program("sleep", "1000", stdin=True, tty=tty))
            await heard.wait(SessionExited)
            assert (await link.status()).sessions == []
            opened = await link.exec(shell("echo on"))
            assert await read(opened.fds["stdout"]) == b"on\n"
            await heard.wait(SessionExited, lambda event: event.session == opened.session)
            os.close(opened.fds["stderr"])

    run(main())


def test_exec_without_stdin_reads_nothing(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(program("cat"))
            assert opened.fds.keys() == {"stdout", "stderr"}
            assert code(await heard.wait(SessionExited)) == 0
            close_all(list(opened.fds.values()))

    run(main())


def test_all_output_is_there_when_the_session_has_exited(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(shell("seq 1 5000; seq 1 2000 >&2"))
            await heard.wait(SessionExited)  # nobody has read a byte, and it all lies in the pipes
            assert len((await read(opened.fds["stdout"])).splitlines()) == 5000
            assert len((await read(opened.fds["stderr"])).splitlines()) == 2000
            opened = await link.exec(shell("seq 1 500", tty=True))
            await heard.wait(SessionExited, lambda event: event.session == opened.session)
            assert len((await read(opened.fds["pty"])).splitlines()) == 500

    run(main())


@pytest.mark.parametrize("tty", [False, True])
def test_exec_of_what_does_not_execute(init_env, tmp_path: Path, tty: bool) -> None:
    (tmp_path / "script").write_text("#!/nope\n")
    (tmp_path / "script").chmod(0o755)
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            with pytest.raises(CommandNotFound, match="no such command"):
                await link.exec(program("no-such-command", tty=tty))
            with pytest.raises(CommandNotFound, match="interpreter /nope"):
                await link.exec(program(str(tmp_path / "script"), tty=tty))
            with pytest.raises(CommandNotExecutable):
                await link.exec(program("/etc/passwd", tty=tty))
            with pytest.raises(LaunchFailed, match="working directory"):
                await link.exec(program("true", tty=tty, workdir="/none"))
            await until(lambda: env.children() == [])
            assert (await link.status()).sessions == []
            assert heard.events == []

    run(main())


def test_close_session_hangs_up_and_then_kills_the_group(init_env) -> None:
    env = init_env()
    alive = "sleep 1000 & echo up; wait"

    async def main() -> None:
        async with connected(env) as (link, heard):
            polite = await link.exec(shell(f"trap 'echo bye; kill %1; exit 3' HUP; {alive}"))
            deaf = await link.exec(shell(f"trap '' HUP; {alive}"))
            stopped = await link.exec(shell(f"kill -STOP $$; {alive}"))
            leaves = await link.exec(shell("trap 'exit 0' HUP; (trap '' HUP; echo up; sleep 1000) & wait"))
            for opened in (polite, deaf, leaves):
                assert await hear(opened.fds["stdout"]) == b"up\n"
            await until(lambda: "T" in Path(f"/proc/{host_pids(env.pid)[stopped.pid]}/stat").read_text().split()[2])
            for opened in (polite, deaf, stopped, leaves):
                await link.close_session(opened.session, grace=0.3)
                await link.close_session(opened.session, grace=0.3)  # once more is fine
            ended = {}
            for opened in (polite, deaf, stopped, leaves):
                exited = await heard.wait(SessionExited, lambda event, opened=opened: event.session == opened.session)
                ended[opened.session] = code(exited)
            assert list(ended.values()) == [3, -signal.SIGKILL, -signal.SIGHUP, 0]
            await until(lambda: set(host_pids(env.pid)) == {1})  # whole groups went
            assert await read(polite.fds["stdout"]) == b"bye\n"
            close_all([polite.fds["stderr"], *[fd for opened in (deaf, stopped, leaves) for fd in opened.fds.values()]])
            await link.close_session("s999")

    run(main())


def test_signal_and_unknown_sessions(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(shell("trap 'echo int' INT; sleep 1000 & echo up; while :; do wait; done"))
            assert await hear(opened.fds["stdout"]) == b"up\n"
            await until(lambda: len(host_pids(env.pid)) == 3)
            await link.signal(f"session:{opened.session}", signal.SIGINT, group=True)
            assert await hear(opened.fds["stdout"]) == b"int\n"
            await link.signal(f"session:{opened.session}", signal.SIGTERM)
            assert code(await heard.wait(SessionExited)) == -signal.SIGTERM
            for act in (link.signal("session:none", 15), link.resize("session:none", 1, 1), link.resize("service:none", 1, 1)):
                with pytest.raises(NotFound):
                    await act
            close_all(list(opened.fds.values()))

    run(main())


def test_sessions_are_capped(init_env) -> None:
    env = init_env({"web": program("sleep", "1000")}, rlimits={"NPROC": [1000, 1000]})

    async def main() -> None:
        async with connected(env) as (link, _):
            fds: list[int] = []
            for _ in range(SESSIONS_LIMIT):
                fds += (await link.attach("web", stdin=False, slow="drop")).fds.values()
            with pytest.raises(QueueFull, match="sessions"):
                await link.attach("web", stdin=False, slow="drop")
            with pytest.raises(QueueFull, match="sessions"):
                await link.exec(program("true"))
            close_all(fds)
            while (await link.status()).sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            close_all(list((await link.exec(program("true"))).fds.values()))

    run(main())


# -- exec with a terminal ----------------------------------------------------------------------------------------------------


def test_a_terminal_is_one(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(shell("tty; stty size; ps -o tty= -p $$", tty=True, rows=40, cols=132))
            assert opened.fds.keys() == {"pty"}
            assert code(await heard.wait(SessionExited)) == 0
            assert await read(opened.fds["pty"]) == b"/dev/pts/0\r\n40 132\r\npts/0\r\n"

    run(main())


def bash(**more: Any) -> dict[str, Any]:
    plan = program("bash", "--norc", "--noprofile", "-i", tty=True, stdin=True, **more)
    plan["env"]["PS1"] = "ready> "
    return plan


def test_bash_has_job_control(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(bash(rows=24, cols=80))
            screen = Screen(opened.fds["pty"])
            await screen.shows(b"ready> ")
            assert b"job control" not in screen.shown
            screen.type(b"sleep 1000\n")
            await until(lambda: in_front(env, "sleep"))
            screen.type(b"\x1a")  # ctrl-Z
            await screen.shows(b"Stopped")
            await screen.shows(b"ready> ")
            screen.type(b"fg\n")
            await until(lambda: in_front(env, "sleep"))
            screen.type(b"\x03")  # ctrl-C ends sleep, not bash
            await screen.shows(b"ready> ")
            screen.type(b"echo $?; stty size\n")
            await screen.shows(b"130\r\n24 80\r\nready> ")
            await link.resize(f"session:{opened.session}", 50, 150)
            screen.type(b"stty size\n")
            await screen.shows(b"50 150\r\nready> ")
            fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 160, 0, 0))  # or by whoever holds the master
            screen.type(b"stty size\n")
            await screen.shows(b"60 160\r\nready> ")
            screen.type(b"sleep 1001\n")
            await until(lambda: in_front(env, "sleep"))
            await link.signal(f"session:{opened.session}", signal.SIGINT, group=True)  # as ctrl-C would
            await screen.shows(b"ready> ")
            screen.type(b"\x04")
            exited = await heard.wait(SessionExited)
            assert code(exited) == 130
            os.close(screen.fd)

    run(main())


def test_a_terminal_whose_holder_is_gone_hangs_up(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            opened = await link.exec(bash())
            screen = Screen(opened.fds["pty"])
            await screen.shows(b"ready> ")
            screen.type(b"sleep 1000\n")
            await until(lambda: in_front(env, "sleep"))
            os.close(screen.fd)
            assert code(await heard.wait(SessionExited)) == -signal.SIGHUP
            await until(lambda: set(host_pids(env.pid)) == {1})

    run(main())


def test_the_daemon_may_go_while_a_session_runs(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, _):
            opened = await link.exec(shell("read line; echo got $line", stdin=True))
        os.write(opened.fds["stdin"], b"it\n")
        assert await read(opened.fds["stdout"]) == b"got it\n"
        close_all([opened.fds["stdin"], opened.fds["stderr"]])

    run(main())


# -- attach ------------------------------------------------------------------------------------------------------------------

TALK = 'echo err >&2; while read line; do echo "<$line>"; done; echo end; exit 6'


def test_several_are_attached_to_one_service(init_env) -> None:
    env = init_env({"web": shell(TALK, stdin=True)})

    async def main() -> None:
        async with connected(env) as (link, heard):
            one = await link.attach("web", stdin=True, slow="drop")
            two = await link.attach("web", stdin=True, slow="wait")
            three = await link.attach("web", stdin=False, slow="drop")
            assert "stdin" not in three.fds
            assert len((await link.status()).sessions) == 3
            os.write(one.fds["stdin"], b"from one\n")
            for opened in (one, two, three):
                assert await hear(opened.fds["stdout"]) == b"<from one>\n"
            close_all(list(one.fds.values()))  # leaves by itself
            left = await heard.wait(SessionExited)
            assert (left.session, left.wait_status, left.reason) == (one.session, None, "gone")
            await link.close_session(three.session)
            left = await heard.wait(SessionExited, lambda event: event.session == three.session)
            assert (left.wait_status, left.reason) == (None, "closed")
            assert await read(three.fds["stdout"]) == b""
            os.write(two.fds["stdin"], b"from two\n")
            assert await hear(two.fds["stdout"]) == b"<from two>\n"
            os.close(two.fds["stdin"])  # a later visitor's end of input is not the service's
            await link.signal("service:web", signal.SIGTERM)
            exited = await heard.wait(SessionExited, lambda event: event.session == two.session)
            assert (code(exited), exited.reason) == (-signal.SIGTERM, "ended")
            assert await read(two.fds["stdout"]) == b""
            close_all([two.fds["stderr"], three.fds["stderr"]])
            with pytest.raises(InvalidState):
                await link.attach("web", stdin=False, slow="drop")
            with pytest.raises(NotFound):
                await link.attach("none", stdin=False, slow="drop")

    run(main())
    assert env.text("web") == b"<from one>\n<from two>\n"


def pipes(*streams: str) -> tuple[dict[str, int], dict[str, int]]:
    """(init's ends, ours) of the stdio of a session opened with its service."""
    theirs, ours = {}, {}
    for stream in streams:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        theirs[stream], ours[stream] = (reading, writing) if stream == "stdin" else (writing, reading)
    return theirs, ours


def test_attached_from_the_start(init_env) -> None:
    theirs, ours = pipes("stdin", "stdout", "stderr")
    env = init_env({"web": shell(TALK, stdin=True)}, attach={"web": theirs}, slow={"web": "wait"})

    async def main() -> None:
        async with connected(env) as (_, heard):
            os.write(ours["stdin"], b"a\nb\n")
            os.close(ours["stdin"])  # the end of the service's stdin
            assert await read(ours["stdout"]) == b"<a>\n<b>\nend\n"
            assert await read(ours["stderr"]) == b"err\n"
            assert code(await heard.wait(SessionExited, lambda event: event.session == "attach:web")) == 6
            await heard.wait(ServiceExited)

    run(main())
    assert env.text("web") == b"<a>\n<b>\nend\n"


def test_attached_by_start_and_to_what_fails(init_env) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, heard):
            theirs, ours = pipes("stdin", "stdout", "stderr")
            await start(env, link, "web", shell(TALK, stdin=True), attach=theirs, slow="wait")
            close_all(list(theirs.values()))
            os.close(ours["stdin"])
            assert await read(ours["stdout"]) == b"end\n"
            assert await read(ours["stderr"]) == b"err\n"
            exited = await heard.wait(SessionExited)
            assert (exited.session, code(exited)) == ("attach:web", 6)
            theirs, ours = pipes("stdin", "stdout", "stderr")
            with pytest.raises(CommandNotFound):
                await start(env, link, "bad", program("none", stdin=True), attach=theirs)
            close_all(list(theirs.values()))
            assert await read(ours["stdout"]) == b""
            exited = await heard.wait(SessionExited, lambda event: event.session == "attach:bad")
            assert exited.wait_status is None
            close_all([ours["stdin"], ours["stderr"]])

    run(main())


def test_a_big_stdin_reaches_a_slow_service(init_env) -> None:
    theirs, ours = pipes("stdin", "stdout")
    init_env({"web": shell("sleep 0.2; wc -c", stdin=True)}, attach={"web": theirs})

    async def main() -> None:
        await asyncio.to_thread(os.writev, ours["stdin"], [b"x" * 50_000] * 20)
        os.close(ours["stdin"])
        assert await read(ours["stdout"]) == b"1000000\n"

    run(main())


def test_a_service_that_closes_its_stdin(init_env) -> None:
    theirs, ours = pipes("stdin", "stdout")
    env = init_env({"web": shell("exec <&-; echo closed; sleep 1000", stdin=True)}, attach={"web": theirs})

    async def main() -> None:
        async with connected(env) as (link, _):
            assert await hear(ours["stdout"]) == b"closed\n"
            with pytest.raises(BrokenPipeError):  # noqa: PT012 - the pipe is closed a moment later
                while True:
                    os.write(ours["stdin"], b"x")
                    await asyncio.sleep(0.01)
            assert not (await link.status()).services["web"].stdin
            assert "stdin" not in await attach_and_leave(link)

    async def attach_and_leave(link: Any) -> set[str]:
        opened = await link.attach("web", stdin=True, slow="drop")
        close_all(list(opened.fds.values()))
        return set(opened.fds)

    run(main())
    close_all(list(ours.values()))


def test_who_is_let_in_as_wait_makes_the_service_wait(init_env) -> None:
    theirs, ours = pipes("stdout")
    count = 300_000
    env = init_env({"web": shell(f"seq 1 {count}")}, attach={"web": theirs}, slow={"web": "wait"}, log_limit=1 << 24)

    async def main() -> None:
        async with connected(env) as (link, heard):
            await until(lambda: len(env.log("web")) > 100_000)
            await link.status()
            assert (await link.status()).services["web"].wait_status is None, "it waits"
            text = await read(ours["stdout"])
            assert text == b"".join(b"%d\n" % n for n in range(1, count + 1))
            await heard.wait(SessionExited)

    run(main())
    assert env.text("web").splitlines()[-1] == b"%d" % count


def test_who_is_let_in_as_drop_and_lags_is_dropped(init_env) -> None:
    env = init_env({"web": shell("read go; seq 1 300000; read go", stdin=True)}, log_limit=1 << 24)

    async def main() -> None:
        async with connected(env) as (link, heard):
            slow = await link.attach("web", stdin=True, slow="drop")
            quick = await link.attach("web", stdin=False, slow="drop")
            reading = asyncio.create_task(read(quick.fds["stdout"]))
            os.write(slow.fds["stdin"], b"\n")
            left = await heard.wait(SessionExited)
            assert (left.session, left.wait_status, left.reason) == (slow.session, None, "lagging")
            await until(lambda: env.text("web").endswith(b"\n300000\n"))
            await link.signal("service:web", signal.SIGTERM)
            got = await read(slow.fds["stdout"])
            assert 0 < len(got) < 64 * 1024 + DROP_LIMIT
            assert (await reading).endswith(b"\n300000\n") or quick.session != slow.session
            close_all([slow.fds["stdin"], slow.fds["stderr"], quick.fds["stderr"]])

    run(main())


def test_the_end_waits_for_who_must_not_miss_anything(init_env) -> None:
    theirs, ours = pipes("stdout")
    env = init_env({"web": shell("seq 1 20000")}, attach={"web": theirs}, slow={"web": "wait"}, log_limit=1 << 22)

    async def main() -> None:
        async with connected(env) as (link, heard):
            while (await link.status()).services["web"].wait_status is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert [session["session"] for session in (await link.status()).sessions] == ["attach:web"]
            assert not [event for event in heard.events if isinstance(event, SessionExited)]
            assert (await read(ours["stdout"])).endswith(b"\n20000\n")
            assert code(await heard.wait(SessionExited)) == 0

    run(main())
    assert env.text("web").endswith(b"\n20000\n")


def test_attached_to_a_terminal_service(init_env) -> None:
    theirs, ours = pipes("stdin", "stdout")
    env = init_env({"web": bash(rows=30, cols=90)}, attach={"web": theirs}, slow={"web": "wait"})

    async def main() -> None:
        async with connected(env) as (link, heard):
            os.set_blocking(ours["stdout"], False)
            screen = Screen(ours["stdout"])
            await screen.shows(b"ready> ")
            os.write(ours["stdin"], b"stty size\n")
            await screen.shows(b"30 90\r\nready> ")
            await link.resize("session:attach:web", 31, 91)
            os.write(ours["stdin"], b"stty size\n")
            await screen.shows(b"31 91\r\nready> ")
            other = await link.attach("web", stdin=True, slow="drop")
            assert await read(other.fds["stderr"]) == b"", "a terminal has one stream"
            os.write(other.fds["stdin"], b"sleep 1000\n")
            await until(lambda: in_front(env, "sleep"))
            await link.signal(f"session:{other.session}", signal.SIGINT, group=True)
            await screen.shows(b"ready> ")
            os.close(ours["stdin"])  # whoever leaves a terminal leaves it to the others: no ctrl-D
            os.write(other.fds["stdin"], b"exit 9\n")
            assert code(await heard.wait(SessionExited, lambda event: event.session == "attach:web")) == 9
            close_all([other.fds["stdin"], other.fds["stdout"], ours["stdout"]])

    run(main())
