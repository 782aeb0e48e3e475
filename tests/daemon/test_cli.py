"""`sandbox` against a real daemon: every verb, what it prints where, its exit code, and what it leaves."""

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, Kept, cli, read_line

ID = re.compile(r"[0-9a-f]{32}\n")

PIPE = 4096  # bytes: the least there is, and what a uid gets anyway that has many pipes (pipe(7))
# The keeper ignores SIGINT, which its children inherit.
HEED = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
WEB = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"]
FOREVER = ["sleep", "1000"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace."""
    (tmp_path / "hello.txt").write_text("hello from the workspace\n")
    return tmp_path


@pytest.fixture(scope="module")
def sandbox(shared_daemon: Daemon):
    """`sandbox(*args, cwd=…, stdin=…)`, without the check."""

    def run(*args: str, cwd: Path | None = None, stdin: str = "", check: bool = False):
        return shared_daemon.sandbox(*args, cwd=cwd, stdin=stdin, check=check)

    return run


@pytest.fixture(scope="module")
def box(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory):
    """An env that only waits, for exec and the like."""
    place = tmp_path_factory.mktemp("box")
    shared_daemon.sandbox("run", "-d", "--name", "box", *FOREVER, cwd=place)
    yield "box"
    shared_daemon.sandbox("rm", "-f", "box")


@contextlib.contextmanager
def started(daemon: Daemon, *args: str, cwd: Path) -> Iterator[tuple[Kept, int]]:
    """`sandbox ARGS` running, and what reads its stdout."""
    out, write = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE)
    with open(os.devnull, "r+b") as nothing:
        argv: list[str | Path] = [sys.executable, "-c", HEED, cli(), *args]
        running = daemon.keeper.spawn(argv, daemon.environ, [nothing.fileno(), write, nothing.fileno()], cwd=cwd)
    os.close(write)
    try:
        yield running, out
    finally:
        running.send_signal(signal.SIGKILL)
        running.close()
        os.close(out)


@pytest.fixture
def talker(shared_daemon: Daemon, place: Path) -> Iterator[str]:
    """An env that has said something."""
    shared_daemon.sandbox("run", "-d", "--name", "talker", "--", "sh", "-c", "echo hello; exec sleep 1000", cwd=place)
    yield "talker"
    shared_daemon.sandbox("rm", "-f", "talker")


# -- run


def test_attached_run_is_the_command_itself(sandbox, place):
    done = sandbox("run", "--rm", "--name", "one", "--", "sh", "-c", "cat hello.txt; echo bad >&2; hostname; exit 3", cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello from the workspace\none\n", "bad\n")
    assert sandbox("inspect", "one").returncode == 1


def test_detached_run_prints_the_id_alone(sandbox, place):
    done = sandbox("run", "-d", "--name", "two", *FOREVER, cwd=place)
    assert ID.fullmatch(done.stdout)
    assert done.stderr == ""
    listed = sandbox("ps").stdout.splitlines()
    assert listed[0].split() == ["ID", "NAME", "COMMAND", "CREATED", "STATUS", "PORTS", "URL"]
    (row,) = [line for line in listed if " two " in line]
    assert row.startswith(done.stdout[:12])
    assert '"sleep 1000"' in row
    assert re.search(r"Up .*\(ready\)", row)
    assert sandbox("rm", "-f", done.stdout[:8]).stdout == f"{done.stdout[:8]}\n"


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["nope-such-command"], 127, "nope-such-command"),
        (["./hello.txt"], 126, "hello.txt"),
        (["sh", "-c", "kill -KILL $$"], 137, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["sh", "-c", "exit 42"], 42, ""),
    ],
)
def test_exit_codes(sandbox, place, command, code, says):
    done = sandbox("run", "--rm", "--", *command, cwd=place)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""


def test_a_limit_that_ended_it_is_named(sandbox, place):
    done = sandbox("run", "--rm", "--name", "short", "--ttl", "300ms", *FOREVER, cwd=place)
    assert done.returncode == 137
    assert "short ended: ttl" in done.stderr
    again = sandbox("run", "-d", "--name", "short", "--ttl", "300ms", *FOREVER, cwd=place)
    assert ID.fullmatch(again.stdout)
    assert sandbox("wait", "short").stdout == "137\n"
    assert re.search(r"Exited \(137\) .* ago \(ttl\)", sandbox("ps", "-a", "--filter", "name=short").stdout)
    sandbox("rm", "short", check=True)


def test_stdin_and_its_end_reach_the_command(sandbox, place):
    assert sandbox("run", "--rm", "-i", "--", "wc", "-c", cwd=place, stdin="12345").stdout.strip() == "5"
    assert sandbox("run", "--rm", "--", "wc", "-c", cwd=place, stdin="12345").stdout.strip() == "0"


def test_bytes_go_round_whole(shared_daemon, sandbox, box, place):
    """Bigger than every pipe on the way, both ways at once, and nothing that could be taken for text."""
    big = place / "big"
    big.write_bytes(os.urandom(3_000_000) + b"\x04\x10\x11\x00\xff")
    for verb in ("run --rm -i -- cat", f"exec -i {box} -- cat"):
        script = f"sandbox {verb} < big | cmp - big"
        done = shared_daemon.keeper.run(["bash", "-c", f"set -o pipefail; {script}"], shared_daemon.environ, cwd=place)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reader_that_leaves_ends_the_command(shared_daemon, sandbox, place):
    script = "sandbox run --name flood -- yes | head -n 1; echo ${PIPESTATUS[0]}; sandbox wait --timeout 20 flood"
    done = shared_daemon.keeper.run(["bash", "-c", script], shared_daemon.environ, cwd=place)
    assert done.stdout.splitlines() == ["y", "141", "141"]
    assert done.stderr == ""
    sandbox("rm", "flood", check=True)


def test_flags_arrive(shared_daemon, sandbox, place):
    (place / "vars").write_text("A=from file\n# no\nB=2\n")
    (place / "data").mkdir()
    (place / "data" / "x").write_text("mounted\n")
    args = ["-e", "C=3", "--env-file", "vars", "-v", "./data:/data:ro", "-l", "team=web", "--ulimit", "nofile=512", "-w", "."]
    script = "echo $A $B $C; cat /data/x; touch /data/y || echo refused; ulimit -n; pwd"
    done = sandbox("run", "--name", "flags", *args, "--", "sh", "-c", script, cwd=place)
    out = done.stdout.splitlines()
    assert out[:2] == ["from file 2 3", "mounted"]
    assert out[2:] == ["refused", "512", str(place)]
    assert (
        sandbox("ps", "-aq", "--no-trunc", "-l", "team=web").stdout
        == sandbox("ps", "-aq", "--no-trunc", "-f", "name=flags").stdout
    )
    (info,) = json.loads(sandbox("inspect", "flags").stdout)
    assert (info["labels"], info["exit_code"], info["workspace"]) == ({"team": "web"}, 0, str(place))
    assert {"id", "name", "state", "services", "walls", "limits", "spec"} <= info.keys()
    assert sandbox("rm", "-l", "team=web").stdout == "flags\n"


def test_run_from_home_shares_nothing(shared_daemon, place):
    environ = shared_daemon.environ | {"HOME": str(place)}
    done = shared_daemon.keeper.run([cli(), "run", "--rm", "--", "ls", "-A"], environ, cwd=place)
    assert "hello.txt" not in done.stdout
    assert "workspace is empty" in done.stderr


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGHUP, "HUP")])
def test_signals_reach_the_command(shared_daemon, place, number, name):
    """ctrl-C without a terminal, a kill, a hang-up; the exit code is the command's."""
    script = f"trap 'echo got; exit 9' {name}; echo up; while :; do sleep 0.1; done"
    with started(shared_daemon, "run", "--rm", "--", "sh", "-c", script, cwd=place) as (running, out):
        assert read_line(out, 30) == "up"
        running.send_signal(number)
        assert read_line(out, 30) == "got"
        assert running.wait() == 9


# -- refusals: what, why, what to do; nothing half-made stays


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["run", "-w", "/nonexistent/place", "--", "true"], 125, "/nonexistent/place"),
        (["run", "-w", "/", "--", "true"], 125, "/"),
        (["run", "-v", "/nonexistent/src:/data", "--", "true"], 125, "/nonexistent/src"),
        (["run", "--cpus", "1.5", "--", "true"], 125, "cpus"),
        (["run", "--isolation", "landlock", "--network", "none", "--", "true"], 125, "network namespace"),
        (["run", "--egress", "no such rule", "--", "true"], 125, "egress"),
        (["run", "-p", "70000", "--", "true"], 125, "70000"),
        (["run", "--name", "Not_A_Label", "--", "true"], 125, "not-a-label"),
        (["run", "--name", "all", "--", "true"], 125, "all"),
        (["stop", "no-such-env"], 1, "no-such-env"),
        (["exec", "no-such-env", "true"], 125, "no-such-env"),
        (["logs", "no-such-env"], 1, "no-such-env"),
        (["url", "box/nope"], 1, "nope"),
        (["exec", "box/nope", "true"], 125, "nope"),
        (["exec", "box", "nope-such-command"], 127, "nope-such-command"),
        (["kill", "-s", "NOPE", "box"], 2, "NOPE"),
        (["ps", "--filter", "colour=red"], 2, "colour"),
        (["ps", "--format", "{{.Nope}}"], 2, "Nope"),
        (["rm", "box"], 1, "box"),
        (["run", "--name", "box", "--", "true"], 125, "box"),
        (["wait", "--for", "stopped", "--timeout", "100ms", "box"], 124, ""),
        (["logs", "--since", "yesterday-ish", "box"], 2, "yesterday-ish"),
    ],
)
def test_refusals(sandbox, box, place, argv, code, says):
    before = sandbox("ps", "-aq").stdout
    done = sandbox(*argv, cwd=place)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("sandbox: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or argv[0] == "ps"
    assert sandbox("ps", "-aq").stdout == before


# -- sessions


def test_exec_is_the_command_itself(sandbox, box):
    done = sandbox("exec", "-e", "X=1", "-w", "/tmp", box, "sh", "-c", "echo $X $PWD; echo bad >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "1 /tmp\n", "bad\n")
    assert sandbox("exec", "-i", box, "--", "tr", "a-z", "A-Z", stdin="abc").stdout == "ABC"
    assert sandbox("exec", box, "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_exec_finds_the_env_of_this_directory(shared_daemon, sandbox, place):
    sandbox("run", "-d", "--name", "here", *FOREVER, cwd=place, check=True)
    (place / "below").mkdir()
    assert sandbox("exec", "--", "hostname", cwd=place / "below").stdout == "here\n"
    assert sandbox("rm", "-f", cwd=place / "below").returncode == 1  # what destroys wants the very directory
    assert sandbox("rm", "-f", cwd=place).stdout == "here\n"


def test_shell_takes_a_script(sandbox, box):
    assert sandbox("shell", box, stdin="echo $((6 * 7)); exit 5\n").stdout == "42\n"
    assert sandbox("shell", box, stdin="exit 5\n").returncode == 5


def test_it_needs_a_terminal(sandbox, box):
    done = sandbox("exec", "-it", box, "sh")
    assert (done.returncode, "not a terminal" in done.stderr) == (125, True)


def test_attach_follows_and_leaves_with_the_code(shared_daemon, sandbox, place):
    script = "until [ -e go ]; do echo tick; sleep 0.05; done; echo one; echo two >&2; exit 6"
    sandbox("run", "-d", "--name", "att", "--", "sh", "-c", script, cwd=place, check=True)
    line = "sandbox attach att > out 2> err & until grep -q tick out; do sleep 0.05; done; touch go; wait $!; echo code $?"
    done = shared_daemon.keeper.run(["bash", "-c", line], shared_daemon.environ, cwd=place)
    assert done.stdout == "code 6\n"
    assert (place / "out").read_text().replace("tick\n", "") == "one\n"
    assert (place / "err").read_text() == "two\n"
    sandbox("rm", "att", check=True)


# -- logs, events


def test_logs(sandbox, place):
    script = "echo one; echo two >&2; printf three"
    sandbox("run", "--name", "talk", "--", "sh", "-c", script, cwd=place)
    done = sandbox("logs", "talk")
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    tail = sandbox("logs", "--tail", "1", "talk")  # which of two pipes was written last is not known to whoever reads them
    assert tail.stdout + tail.stderr in ("two\n", "three\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z one\n", sandbox("logs", "-t", "talk").stdout.splitlines(keepends=True)[0])
    lines = [json.loads(line) for line in sandbox("logs", "talk", "--format", "json").stdout.splitlines()]
    assert {(line["stream"], line["text"]) for line in lines} == {("stdout", "one"), ("stderr", "two"), ("stdout", "three")}
    assert sandbox("logs", "-f", "talk").returncode == 0  # it has ended, so following ends
    assert sandbox("logs", "--since", "1h", "talk").stdout == "one\nthree\n"
    sandbox("rm", "talk", check=True)


def test_followed_logs_end_with_the_env(shared_daemon, sandbox, place):
    sandbox(
        "run",
        "-d",
        "--name",
        "tick",
        "--",
        "sh",
        "-c",
        "until [ -e go ]; do sleep 0.05; done; echo last",
        cwd=place,
        check=True,
    )
    line = "sandbox logs -f tick & sleep 0.3; touch go; wait $!; echo code $?"
    done = shared_daemon.keeper.run(["bash", "-c", line], shared_daemon.environ, cwd=place)
    assert done.stdout == "last\ncode 0\n", done.stderr
    sandbox("rm", "tick", check=True)


def test_a_reader_of_logs_that_leaves_is_quiet(shared_daemon, sandbox, place):
    sandbox("run", "--name", "much", "--", "seq", "100000", cwd=place)
    line = "sandbox logs much | head -n 1; echo ${PIPESTATUS[0]}"
    done = shared_daemon.keeper.run(["bash", "-c", line], shared_daemon.environ, cwd=place)
    assert (done.stdout, done.stderr) == ("1\n141\n", "")
    sandbox("rm", "much", check=True)


def test_events_tell_the_story(shared_daemon, sandbox, place):
    sandbox("run", "--name", "story", "--", "true", cwd=place)
    sandbox("rm", "story", check=True)
    told = [json.loads(line) for line in sandbox("events", "--since", "1m", "--format", "json", "story").stdout.splitlines()]
    assert (told[0]["event"], told[-1]["event"]) == ("created", "removed")
    assert {"time", "event", "id", "name", "detail"} <= told[0].keys()
    assert " env removed " in sandbox("events", "--since", "1m", "story").stdout.splitlines()[-1]


# -- life


def test_stop_start_restart_kill_wait(shared_daemon, sandbox, place):
    sandbox("run", "-d", "--name", "cycle", "-p", "3000", *WEB, cwd=place, check=True)
    assert sandbox("wait", "--for", "ready", "cycle").returncode == 0
    url = sandbox("url", "cycle").stdout
    assert url == f"http://cycle.localhost:{shared_daemon.port}\n"
    assert shared_daemon.request("cycle", "/hello.txt") == (200, b"hello from the workspace\n")
    assert sandbox("ports", "cycle").stdout.splitlines()[1].split()[:3] == ["main", "3000/tcp", "http"]
    assert sandbox("stop", "-t", "5", "cycle").stdout == "cycle\n"
    assert "Exited (143)" in sandbox("ps", "-a").stdout
    assert sandbox("url", "cycle").returncode in (0, 1)
    assert sandbox("start", "--wait", "cycle").stdout == "cycle\n"
    assert sandbox("restart", "cycle").stdout == "cycle\n"
    row = json.loads(sandbox("stats", "--no-stream", "--format", "json", "cycle").stdout)
    assert {
        "id",
        "name",
        "cpu_percent",
        "memory_bytes",
        "memory_limit",
        "pids",
        "io_read",
        "io_write",
        "net_connections",
    } <= row.keys()
    assert "http.server" in sandbox("top", "cycle").stdout
    assert sandbox("kill", "cycle").stdout == "cycle\n"
    assert sandbox("wait", "cycle").stdout == "137\n"
    receipt = json.loads(sandbox("rm", "--receipt", "cycle").stdout)["receipt"]
    assert receipt["leaked"] == {}


def test_several_at_once(sandbox, place):
    for name in ("m1", "m2", "m3"):
        sandbox("run", "-d", "--name", name, "-l", "many", *FOREVER, cwd=place, check=True)
    assert sandbox("stop", "m1", "m2").stdout == "m1\nm2\n"
    mixed = sandbox("rm", "-f", "m1", "gone", "m2")
    assert (mixed.returncode, mixed.stdout) == (0, "m1\nm2\n")
    assert "no env 'gone'" in mixed.stderr
    assert sandbox("rm", "-f", "-l", "many").stdout == "m3\n"
    assert sandbox("rm", "-f", "-l", "many").stdout == ""


def test_prune_removes_what_has_ended(sandbox, box, place):
    sandbox("run", "--name", "ended", "-l", "prune=me", "--", "true", cwd=place)
    done = sandbox("prune", "--filter", "label=prune=me")
    assert ID.fullmatch(done.stdout)
    assert sandbox("inspect", "ended").returncode == 1
    assert sandbox("inspect", box).returncode == 0


# -- projects


SPEC = '''
[services.web]
command = "exec python3 -m http.server --bind 127.0.0.1 3000"
port = 3000
depends_on = ["db"]
[services.db]
command = """exec python3 -c 'import socket
s = socket.create_server(("127.0.0.1", 5432))
print("db is up", flush=True)
s.accept()'"""
port = 5432
expose = "tcp"
'''


def test_up_and_down(shared_daemon, sandbox, place):
    project = place / "My Shop"
    project.mkdir()
    (project / "sandbox.toml").write_text(SPEC)
    up = sandbox("up", cwd=project)
    url = f"http://my-shop.localhost:{shared_daemon.port}"
    assert re.fullmatch(rf"my-shop   ready in \d+\.\d\d s   {re.escape(url)}\n", up.stdout), up.stderr
    assert shared_daemon.request("my-shop", "/sandbox.toml")[0] == 200
    assert sandbox("up", project).stdout == f"my-shop   ready already   {url}\n"
    assert "db  | db is up\n" in sandbox("logs", cwd=project).stdout
    assert sandbox("logs", "my-shop/db").stdout == "db is up\n"
    (project / "sandbox.toml").write_text(SPEC.replace("3000", "3001"))
    assert "ready in" in sandbox("up", cwd=project).stdout
    assert sandbox("ports", cwd=project).stdout.splitlines()[1].split()[:2] == ["web", "3001/tcp"]
    other = place / "elsewhere" / "My Shop"
    other.mkdir(parents=True)
    (other / "sandbox.toml").write_text(SPEC)
    taken = sandbox("up", cwd=other)
    assert (taken.returncode, str(project) in taken.stderr) == (125, True)
    assert sandbox("down", cwd=other).stderr == "my-shop is not up\n"
    assert sandbox("down", cwd=project).stdout == "my-shop\n"
    assert sandbox("inspect", "my-shop").returncode == 1
    assert sandbox("down", cwd=project).returncode == 0


def test_up_that_fails_shows_why(sandbox, place):
    (place / "sandbox.toml").write_text(
        'name = "sad"\n[services.web]\ncommand = "echo on my way; echo oh no >&2; exit 3"\nport = 1\n'
    )
    done = sandbox("up", cwd=place)
    assert done.returncode == 1
    assert "web | oh no" in done.stderr
    assert "sandbox: env sad exited (3)" in done.stderr
    sandbox("rm", "-f", "sad", check=True)
    (place / "sandbox.toml").write_text("[services.web]\ncomand = 'x'\n")
    wrong = sandbox("up", cwd=place)
    assert wrong.returncode == 2
    assert "sandbox.toml:2" in wrong.stderr
    assert "command" in wrong.stderr


# -- the daemon, completion


def test_daemon_status(shared_daemon, sandbox):
    (status,) = shared_daemon.json("daemon", "status")
    assert {"pid", "version", "socket", "listen", "dir", "uptime", "envs"} <= status.keys()
    assert status["listen"] == [f"127.0.0.1:{shared_daemon.port}"]


def test_a_daemon_that_stops_leaves_envs_running(daemon: Daemon, tmp_path: Path) -> None:
    env_id = daemon.sandbox("run", "-d", "--name", "kept", *FOREVER, cwd=tmp_path).stdout.strip()
    (before,) = json.loads(daemon.sandbox("inspect", "kept").stdout)
    assert "envs run on" in daemon.sandbox("daemon", "stop").stderr
    assert daemon.sandbox("daemon", "status", check=False).returncode == 125
    assert daemon.sandbox("daemon", "stop").stderr == "no daemon runs\n"
    os.kill(before["pid"], 0)
    assert daemon.sandbox("ps", "-q", "--no-trunc").stdout == f"{env_id}\n"  # and started a daemon for that
    (after,) = json.loads(daemon.sandbox("inspect", "kept").stdout)
    assert after["pid"] == before["pid"]
    daemon.sandbox("rm", "-f", "all", "--yes")


def test_the_shell_completes_names_of_envs(shared_daemon, sandbox, box):
    environ = shared_daemon.environ | {"_SANDBOX_COMPLETE": "bash_complete", "COMP_WORDS": "sandbox stop b", "COMP_CWORD": "2"}
    done = shared_daemon.keeper.run([cli()], environ)
    assert done.stdout == "plain,box\n"
    done = shared_daemon.keeper.run([cli()], environ | {"COMP_WORDS": "sandbox insp", "COMP_CWORD": "1"})
    assert done.stdout == "plain,inspect\n"


@pytest.mark.parametrize("verb", ["logs -f talker", "events -f --since 1h", "stats --format json talker"])
def test_ctrl_c_of_a_waiting_verb_is_130(shared_daemon, talker, place, verb):
    with started(shared_daemon, *verb.split(), cwd=place) as (running, out):
        assert read_line(out, 30)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130


def test_ctrl_c_while_nobody_reads(shared_daemon, place):
    """`sandbox logs | less`, with the pipe full: what is still in our buffer must not hold us."""
    shared_daemon.sandbox("run", "--name", "much", "--", "seq", "100000", cwd=place)
    with started(shared_daemon, "logs", "-f", "much", cwd=place) as (running, out):
        assert read_line(out, 30) == "1"
        seen = [0]
        while len(seen) < 10 or seen[-1] == 0 or len(set(seen[-10:])) > 1:  # until nothing more fits
            select.select([], [], [], 0.02)
            seen += struct.unpack("i", fcntl.ioctl(out, termios.FIONREAD, b"\0" * 4))
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
    shared_daemon.sandbox("rm", "much")


def test_an_ignored_ctrl_c_stays_ignored(shared_daemon, place):
    """As a script that says `sandbox run … &` expects."""
    script = "sandbox run --rm -- sh -c 'echo up; until [ -e go ]; do sleep 0.05; done; exit 4' > out & "
    script += "until grep -q up out; do sleep 0.05; done; kill -INT $!; touch go; wait $!; echo $?"
    done = shared_daemon.keeper.run(["bash", "-c", script], shared_daemon.environ, cwd=place)
    assert done.stdout == "4\n", done.stderr
