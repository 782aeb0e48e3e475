"""Services under a real pid 1: how they start, what they see, how their end is told and kept."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sandboxd.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidState,
    LaunchFailed,
    NotFound,
    SandboxdError,
    SpecInvalid,
)
from sandboxd.kernel.fds import close_all
from sandboxd.launch.exits import read_exits
from sandboxd.launch.initlink import ExecFailed, ServiceExited, Started
from sandboxd.launch.pids import host_pids
from tests.kernel.inits import connected, program, run, shell, start, until


def test_start_output_exit(init_env) -> None:
    env = init_env({"web": shell("echo out; echo err >&2; exit 3")})

    async def main() -> None:
        async with connected(env) as (link, _):
            await until(lambda: bool(read_exits(env.dir / "exits")))
            status = await link.status()
            web = status.services["web"]
            assert os.waitstatus_to_exitcode(web.wait_status) == 3
            assert web.started <= web.ended
            (exit,) = read_exits(env.dir / "exits")
            assert (exit.service, exit.pid, exit.wait_status, exit.n) == ("web", web.pid, web.wait_status, 1)

    run(main())
    assert env.text("web") == b"out\n"
    assert env.text("web", "stderr") == b"err\n"


def write_files(path: Path) -> None:
    """Things that do not execute."""
    (path / "nope").write_text("#!/nope -x\n")
    (path / "interpreter").write_text("#!" + str(path / "plain") + "\n")
    (path / "data").write_text("no program\n")
    (path / "plain").write_text("echo\n")
    (path / "directory").mkdir()
    for name in ("nope", "interpreter", "data"):
        (path / name).chmod(0o755)
    (path / "plain").chmod(0o644)


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        (["no-such-command"], CommandNotFound, "no-such-command: no such command"),
        (["{}/none"], CommandNotFound, "none: no such file"),
        (["plain/none"], CommandNotFound, "no such file"),
        (["{}/nope"], CommandNotFound, "its interpreter /nope is not there"),
        (["nope"], CommandNotFound, "/nope"),
        (["{}/plain"], CommandNotExecutable, "Permission denied"),
        (["plain"], CommandNotExecutable, "Permission denied"),
        (["{}/interpreter"], CommandNotExecutable, "Permission denied"),
        (["{}/data"], CommandNotExecutable, "no format"),
        (["{}/directory"], CommandNotExecutable, "it is a directory"),
        (["x" * 300], LaunchFailed, "File name too long"),
        (["/bin/true", "x" * 200_000], LaunchFailed, "Argument list too long"),
    ],
)
def test_what_does_not_execute(init_env, tmp_path: Path, argv: list[str], error: type[SandboxdError], words: str) -> None:
    write_files(tmp_path)
    plan = program(*[word.format(tmp_path) for word in argv], workdir=str(tmp_path))
    plan["env"]["PATH"] = f"/usr/bin:/none:{tmp_path}"
    env = init_env({"web": plan})

    async def main() -> None:
        async with connected(env) as (link, heard):
            failed: dict[str, SandboxdError] = {}
            while not failed:
                failed = (await link.status()).failed
            with pytest.raises(error, match=words) as caught:  # the same once more, now with somebody who waits
                await start(env, link, "web", plan)
            assert type(failed["web"]) is error
            assert failed["web"].message == caught.value.message
            assert failed["web"].details["service"] == "web"
            told = await heard.wait(ExecFailed)
            assert (told.service, type(told.error)) == ("web", error)
            assert not [event for event in heard.events if isinstance(event, Started | ServiceExited)]

    run(main())
    assert read_exits(env.dir / "exits") == []


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"workdir": "/none"}, LaunchFailed, "cannot enter the working directory /none: No such file"),
        ({"workdir": "/etc/passwd"}, LaunchFailed, "Not a directory"),
        ({"workdir": "/root"}, LaunchFailed, "Permission denied"),
        ({"rlimits": {"NOFILE": [1, 1 << 40]}}, LaunchFailed, "rlimit NOFILE: Operation not permitted"),
        ({"rlimits": {"NONE": [1, 1]}}, SpecInvalid, "rlimit NONE"),
        ({"argv": []}, SpecInvalid, "empty"),
        ({"argv": ["a\0b"]}, SpecInvalid, "NUL"),
        ({"argv": "true"}, SpecInvalid, "a list"),
        ({"env": {"A": 1}}, SpecInvalid, "strings"),
        ({"umask": "022"}, SpecInvalid, "umask"),
    ],
)
def test_what_cannot_be_started(init_env, more: dict, error: type[SandboxdError], words: str) -> None:
    env = init_env()

    async def main() -> None:
        async with connected(env) as (link, _):
            with pytest.raises(error, match=words):
                await start(env, link, "web", program("/bin/true", **more))
            with pytest.raises(error, match=words):
                await link.exec(program("/bin/true", **more))
            assert (await link.status()).sessions == []

    run(main())


def test_a_service_gets_a_clean_process(init_env) -> None:
    script = """
        ls /proc/self/fd | tr '\\n' ' '; echo; umask; pwd; echo "$A"; ulimit -n; stat -c %u /proc/self/environ
        ps -o pid=,pgid=,sid= -p $$; exec cat /proc/self/status
    """
    plan = shell(script, umask=0o027, workdir="/usr", rlimits={"NOFILE": [99, 100]})
    plan["env"]["A"] = "b c\udcff"
    env = init_env({"web": plan})
    run(until(lambda: bool(read_exits(env.dir / "exits"))))
    lines = env.text("web").splitlines()
    assert lines[:5] == [b"0 1 2 3 ", b"0027", b"/usr", b"b c\xff", b"99"]  # 3 is ls's own
    assert lines[5] == str(os.getuid()).encode(), "a service is dumpable"
    assert len(set(lines[6].split())) == 1, "a service leads its own session and group"
    status = dict(line.split(b":", 1) for line in lines[7:])
    wanted = {b"SigBlk": 0, b"SigIgn": 0, b"SigCgt": 0, b"NoNewPrivs": 1, b"CapEff": 0}
    assert {name: int(status[name], 16) for name in wanted} == wanted


def test_init_is_out_of_reach_from_inside(init_env) -> None:
    script = """
        for signal in HUP INT QUIT KILL TERM USR1 USR2 PIPE STOP TSTP XFSZ CHLD ALRM 34 64; do kill -$signal 1; done
        grep -E '^Sig(Blk|Ign|Cgt)' /proc/1/status
        cat /proc/1/environ && echo READ; ls /proc/1/fd && echo LISTED; cat /proc/1/maps && echo MAPPED
        cat /proc/self/environ > /dev/null && echo CONTROL
    """
    env = init_env({"web": shell(script)})

    async def main() -> None:
        async with connected(env) as (link, _):
            await until(lambda: bool(read_exits(env.dir / "exits")))
            assert (await link.status()).services["web"].wait_status == 0

    run(main())
    lines = env.text("web").splitlines()
    masks = {line[3:6].decode(): int(line[7:], 16) for line in lines[:3]}
    assert masks == {"Blk": 1 << (signal.SIGCHLD - 1), "Ign": 0, "Cgt": 0}
    assert lines[3:] == [b"CONTROL"]


def test_orphans_are_reaped(init_env) -> None:
    env = init_env({"web": shell("i=0; while [ $i -lt 600 ]; do (true & true & exec true) & i=$((i+1)); done; exit 0")})

    async def main() -> None:
        async with connected(env) as (link, _):
            await until(lambda: bool(read_exits(env.dir / "exits")))
            await until(lambda: env.children() == [])
            assert len((await link.status()).services) == 1

    run(main())


def test_signals_reach_whom_they_are_for(init_env) -> None:
    waits = shell("trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    env = init_env({"a": waits, "b": waits, "c": shell("sleep 1000 & wait"), "d": shell("echo up; sleep 1000")})

    async def main() -> None:
        async with connected(env) as (link, heard):
            await until(lambda: env.text("a") == env.text("b") == env.text("d") == b"up\n")
            await link.signal("service:a", signal.SIGTERM)
            assert os.waitstatus_to_exitcode((await heard.wait(ServiceExited)).wait_status) == 7
            with pytest.raises(NotFound):
                await link.signal("service:a", signal.SIGTERM)
            with pytest.raises(NotFound):
                await link.signal("service:none", signal.SIGTERM)
            with pytest.raises(NotFound):
                await link.signal("other:c", signal.SIGTERM)
            with pytest.raises(SpecInvalid):
                await link.signal("service:b", 1000)
            await link.signal("service:c", signal.SIGTERM, group=True)
            await heard.wait(ServiceExited, lambda event: event.service == "c")
            inside = set(host_pids(env.pid)) - {1}
            assert {(await link.status()).services[name].pid for name in ("b", "d")} <= inside
            await link.signal("all", signal.SIGKILL)
            for name in ("b", "d"):
                exit = await heard.wait(ServiceExited, lambda event, name=name: event.service == name)
                assert os.waitstatus_to_exitcode(exit.wait_status) == -signal.SIGKILL
            await until(lambda: env.children() == [])
            assert set(host_pids(env.pid)) == {1}
            await link.signal("all", signal.SIGKILL)  # nobody left: fine

    run(main())
    assert env.text("a") == b"up\ngot\n"


def test_the_log_is_whole_when_the_exit_is_told(init_env) -> None:
    env = init_env({"web": shell("sleep 0.2; seq 1 20000; printf end")}, log_limit=1 << 22)

    async def main() -> None:
        async with connected(env) as (_, heard):
            await heard.wait(ServiceExited)
            text = env.text("web")
            assert text == b"".join(b"%d\n" % n for n in range(1, 20001)) + b"end\n"

    run(main())


def test_nobody_listens_for_long_and_nothing_is_lost(init_env) -> None:
    env = init_env({"web": shell("seq 1 5000; exit 5"), "db": program("sleep", "1000")}, log_limit=1 << 22)
    run(until(lambda: bool(read_exits(env.dir / "exits"))))

    async def main() -> None:
        for run_number in (1, 2):
            async with connected(env) as (link, heard):
                status = await link.status()
                assert all(isinstance(event, Started) for event in heard.events), "db's exec may only be known by now"
                assert os.waitstatus_to_exitcode(status.services["web"].wait_status) == 5
                assert status.services["db"].wait_status is None
                pid = await start(env, link, "web", shell("echo again; exit 5"))
                assert pid != status.services["web"].pid
                await until(lambda n=run_number: len(read_exits(env.dir / "exits")) == n + 1)

    run(main())
    assert [(exit.service, exit.n) for exit in read_exits(env.dir / "exits")] == [("web", n) for n in (1, 2, 3)]
    assert env.text("web").endswith(b"5000\nagain\nagain\n")


def test_start_again_while_its_children_still_write(init_env) -> None:
    env = init_env({"web": shell("(while :; do echo old; sleep 0.02; done) & echo first")})

    async def main() -> None:
        async with connected(env) as (link, heard):
            await until(lambda: bool(read_exits(env.dir / "exits")))
            await start(env, link, "web", shell("echo second; sleep 1000"))
            with pytest.raises(InvalidState):
                await start(env, link, "web", program("true"))
            await until(lambda: b"second" in env.text("web"))
            seen = env.text("web").count(b"old")
            await until(lambda: env.text("web").count(b"old") > seen)
            assert (await link.status()).services["web"].wait_status is None
            assert not [event for event in heard.events if isinstance(event, ServiceExited) and event.pid != 2]

    run(main())
    assert all(record.count(b" ") >= 3 for record in env.log("web").splitlines())


def test_a_service_with_a_terminal(init_env) -> None:
    script = "trap 'stty size' WINCH; tty; stty size; read line; echo \"<$line>\"; while :; do sleep 0.05; done"
    env = init_env({"web": shell(script, tty=True, stdin=True, rows=33, cols=99)})

    async def main() -> None:
        async with connected(env) as (link, heard):
            await until(lambda: b"33 99" in env.text("web"))
            status = (await link.status()).services["web"]
            assert status.tty
            assert status.stdin
            opened = await link.attach("web", stdin=True, slow="drop")
            os.write(opened.fds["stdin"], b"hello\n")
            await until(lambda: b"<hello>" in env.text("web"))
            await link.resize("service:web", 44, 111)
            await until(lambda: b"44 111" in env.text("web"))
            os.write(opened.fds["stdin"], b"\x03")  # the terminal makes a SIGINT of it
            exit = await heard.wait(ServiceExited)
            assert os.waitstatus_to_exitcode(exit.wait_status) == -signal.SIGINT
            for fd in opened.fds.values():
                os.close(fd)

    run(main())
    assert env.text("web").startswith(b"/dev/pts/0\r\n33 99\r\n")


def test_who_stops_everything_inside_does_not_stop_init(init_env) -> None:
    """SIGSTOP cannot be blocked, so a child may be held between fork and exec; init must not be waiting for it."""
    env = init_env({"bad": shell("while :; do kill -STOP -1; done")})

    async def main() -> None:
        async with connected(env) as (link, heard):
            await heard.wait(Started) if not (await link.status()).services["bad"].pid else None
            execs = [asyncio.create_task(link.exec(program("true"))) for _ in range(30)]
            for _ in range(30):
                assert (await link.status()).services["bad"].wait_status is None
            await link.signal("service:bad", signal.SIGKILL)
            await heard.wait(ServiceExited)
            await link.signal("all", signal.SIGCONT)
            for opened in await asyncio.gather(*execs):
                close_all(list(opened.fds.values()))
            await until(lambda: env.children() == [])

    run(main())


def test_fork_refused_by_a_limit_is_told(init_env) -> None:
    env = init_env({"web": program("sleep", "1000")}, rlimits={"NPROC": [3, 3]})  # the harness, init, and this one

    async def main() -> None:
        async with connected(env) as (link, _):
            with pytest.raises(LaunchFailed, match="fork: Resource temporarily unavailable") as caught:
                await link.exec(program("true"))
            assert "limit of processes" in caught.value.hint

    run(main())


def test_host_pids_of_nothing() -> None:
    assert host_pids(2**22 + 1) == {}
