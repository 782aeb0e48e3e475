"""A real daemon of a test's own: `python -m sandboxd` in its own directory, with the CLI, the SDK and the router at hand.

Everything runs below a keeper (see keeper.py), so that what a daemon, a killed daemon or an env leaves behind is seen.
`close()` ends it whole and raises what was left.
"""

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")


class Kept:
    """A process below the keeper."""

    def __init__(self, pid: int, result: int) -> None:
        self.pid = pid
        self.result = result
        self.returncode: int | None = None

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code (negative: the signal); raises TimeoutError."""
        if self.returncode is None:
            line = read_line(self.result, timeout)
            os.close(self.result)
            self.returncode = os.waitstatus_to_exitcode(int(line))
        return self.returncode

    @property
    def alive(self) -> bool:
        """Whether it still runs (its status has not come)."""
        return self.returncode is None and not select.select([self.result], [], [], 0)[0]

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.alive:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Forget it."""
        if self.returncode is None:
            os.close(self.result)
            self.returncode = -signal.SIGKILL


class Keeper:
    """The test's side of keeper.py."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-S", str(ROOT / "tests/keeper.py"), str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def spawn(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        stdio: Sequence[int],
        *,
        cwd: Path = ROOT,
        extra: Mapping[str, int] | None = None,
        session: bool = True,
    ) -> Kept:
        """Start argv with stdio as 0, 1, 2; `extra` descriptors are inherited, their numbers in the variables so named."""
        result, write = os.pipe()
        request = {
            "run": [str(word) for word in argv],
            "env": dict(env),
            "cwd": str(cwd),
            "extra": list(extra or {}),
            "session": session,
        }
        try:
            socket.send_fds(self.channel, [json.dumps(request).encode()], [*stdio, *(extra or {}).values(), write])
        finally:
            os.close(write)
        line = read_line(result, PATIENCE)
        if line.startswith("!"):
            os.close(result)
            raise OSError(line[2:])
        return Kept(int(line), result)

    def run(
        self, argv: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path = ROOT, stdin: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run argv to its end with its output caught."""
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            given.write(stdin)
            given.seek(0)
            kept = self.spawn(argv, env, [given.fileno(), out.fileno(), err.fileno()], cwd=cwd)
            try:
                kept.wait(timeout)
            except TimeoutError:
                kept.send_signal(signal.SIGKILL)
                kept.wait()
                raise AssertionError(f"{argv} took over {timeout} s; so far:\n{text_of(out)}\n{text_of(err)}") from None
            finally:
                kept.close()
            assert kept.returncode is not None
            return subprocess.CompletedProcess([str(word) for word in argv], kept.returncode, text_of(out), text_of(err))

    def settle(self, timeout: float) -> list[list[Any]]:
        """Wait until no descendant is left; those that are after `timeout` seconds as [pid, state, name]."""
        self.channel.send(json.dumps({"settle": timeout}).encode())
        left: list[list[Any]] = json.loads(self.channel.recv(1 << 20))
        return left

    def close(self) -> None:
        """Kill what is left, and the keeper."""
        self.channel.close()
        self.process.wait()


class Daemon:
    """One daemon's directory and every way to reach it. `environ` is what it and the CLI run with."""

    def __init__(self, **environ: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sandboxd-test-"))
        self.keeper = Keeper()
        self.process: Kept | None = None
        self.python = sys.executable
        self.module = "sandboxd"  # what runs as the daemon
        self.environ = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.environ |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SANDBOXD_DIR": str(self.dir),
            "SANDBOXD_LISTEN": "127.0.0.1:0",
        }
        self.environ |= environ
        self.port = 0

    # -- the daemon itself

    def start(self) -> "Daemon":
        """Start a daemon here and wait until it says that it is ready; raises AssertionError with its log."""
        if self.process is not None:
            self.process.close()
        ready, write = os.pipe()
        with open(self.dir / "daemon.log", "ab") as log, open(os.devnull, "rb") as nothing:
            stdio = [nothing.fileno(), log.fileno(), log.fileno()]
            argv = [self.python, "-m", self.module]
            self.process = self.keeper.spawn(argv, self.environ, stdio, extra={"SANDBOXD_READY_FD": write})
        os.close(write)
        try:
            said = read_line(ready, 4 * PATIENCE)  # a start loads all of it: 30 s were too few beside a load of 20
        except (TimeoutError, EOFError) as error:
            raise AssertionError(f"the daemon did not become ready: {error!r}\n{self.log()}") from None
        finally:
            os.close(ready)
        assert said == "ok", f"the daemon refused to start: {said}\n{self.log()}"
        self.find_port()
        return self

    def find_port(self) -> None:
        """Ask the daemon where its router listens."""
        from sandboxd.protocol.messages import Status

        with self.client() as client:
            self.port = int(client.call(Status()).listen[0].rpartition(":")[2])

    def kill(self) -> None:
        """End the daemon as a crash does: SIGKILL, envs and router stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        """What daemon, launcher and router wrote."""
        return "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-8000:]}\n" for path in sorted(self.dir.glob("*.log"))
        )

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A connected SDK client, closed at the end."""
        from sandboxd.client import Client

        client = Client(self.dir / "control.sock", autostart=False)
        try:
            yield client
        finally:
            client.close()

    # -- the CLI

    def sandbox(
        self, *args: str | Path, cwd: Path | None = None, stdin: str = "", timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `sandbox ARGS` to its end; with check, any exit code but 0 is an AssertionError that shows its output."""
        done = self.keeper.run([cli(), *args], self.environ, cwd=cwd or self.dir, stdin=stdin, timeout=timeout)
        if check:
            assert done.returncode == 0, f"{done.args} left with {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done

    def json(self, *args: str | Path, cwd: Path | None = None) -> list[Any]:
        """The objects that `sandbox ARGS --format json` prints, one a line."""
        return [json.loads(line) for line in self.sandbox(*args, "--format", "json", cwd=cwd).stdout.splitlines()]

    # -- the router

    def request(
        self, name: str, path: str = "/", *, method: str = "GET", body: bytes | None = None, timeout: float = PATIENCE
    ) -> tuple[int, bytes]:
        """Status and body of one HTTP request to NAME.localhost through the router."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Host": f"{name}.localhost:{self.port}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    # -- the end

    def close(self) -> None:
        """End daemon, router and every env; raises AssertionError naming what outlived that."""
        try:
            ended = self.end()
            left = self.keeper.settle(10 if ended else 0)
            log = self.log()
        finally:
            self.abandon()
        assert ended, f"the daemon did not end by itself when asked to:\n{log}"
        assert not left, f"left behind after `daemon stop --all`: {left}\n{log}"

    def abandon(self) -> None:
        """Kill whatever is there, and remove the directory."""
        if self.process is not None:
            self.process.close()
        self.keeper.close()
        shutil.rmtree(self.dir, onerror=make_writable)

    def end(self) -> bool:
        """Ask for the end of everything; a daemon that was killed is started again for it. False: it had to be killed."""
        from sandboxd.errors import SandboxdError
        from sandboxd.protocol.messages import Shutdown

        if self.process is None and not (self.dir / "state.db").exists():
            return True
        try:
            for attempt in (1, 2):
                try:
                    with self.client() as client:
                        client.call(Shutdown(all=True))
                    break
                except (SandboxdError, OSError):
                    if attempt == 2 or (self.process is not None and self.process.alive):
                        raise
                    self.start()
            if self.process is not None and self.process.alive:
                self.process.wait()
        except (SandboxdError, OSError, AssertionError):
            return False
        return True


def cli() -> Path:
    """The installed `sandbox` command."""
    return Path(sys.executable).parent / "sandbox"


def text_of(file: Any) -> str:
    """All of a file that another process wrote to."""
    file.seek(0)
    text: str = file.read()
    return text


def read_line(fd: int, timeout: float) -> str:
    """One line, without its end; raises TimeoutError, EOFError."""
    deadline = time.monotonic() + timeout
    data = b""
    while not data.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"no line within {timeout} s")
        byte = os.read(fd, 1)
        if not byte:
            raise EOFError("the other end closed")
        data += byte
    return data[:-1].decode()


def make_writable(function: Any, path: str, _: object) -> None:
    """Second try of rmtree, for directories that a program inside an env made read-only."""
    os.chmod(Path(path).parent, 0o700)
    if Path(path).is_dir():
        os.chmod(path, 0o700)
        shutil.rmtree(path, onerror=make_writable)
    else:
        function(path)
