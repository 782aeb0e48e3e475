"""Envs as objects, for programs: `client.run("python3 -m http.server 8000", port=8000)`, then `env.url`, `env.exec([...])`.

Two colours of the same thing, Env and AsyncEnv; what they ask for is made once, in Requests. An env object holds what was
last seen of its env (`info`); `refresh` looks again. As a context manager it removes the env at the end.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from sandboxd.errors import NotFound, UsageError
from sandboxd.protocol.messages import (
    EnvInfo,
    Exec,
    Inspect,
    Kill,
    LogLine,
    Logs,
    Remove,
    RemoveReply,
    Restart,
    Resume,
    Run,
    Scale,
    Start,
    Stop,
    Suspend,
    Update,
    Wait,
)
from sandboxd.spec import EnvSpec, Isolation, Lifecycle, Limits, Mount, Network, Ready, Service, Workspace

if TYPE_CHECKING:
    from typing import Unpack

    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.blocking import Client

Command = str | Sequence[str]
# Of the caller's environment; the daemon has its own list of what it hands on.
HANDED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ")


class RunOptions(TypedDict, total=False):
    """What `run` takes besides the command. Sizes are bytes, durations seconds.

    spec: the whole env instead of a command. workspace: a directory, writable inside at its own path. wait: "created",
    "started" or "ready"; timeout: of that wait. exists: "error", "reuse" or "replace". restart: as `--restart`.
    """

    spec: EnvSpec
    name: str
    port: int
    env: dict[str, str]
    workspace: str | Path
    workdir: str
    labels: dict[str, str]
    limits: Limits
    isolation: Isolation
    network: Network
    mounts: list[Mount]
    ready: Ready
    ttl: float
    restart: str
    wait: Literal["created", "started", "ready"]
    timeout: float
    exists: Literal["error", "reuse", "replace"]


class ExecOptions(TypedDict, total=False):
    """What `exec` takes besides the command. check: raise CommandFailed for any exit code but 0; timeout: seconds."""

    input: bytes
    env: dict[str, str]
    workdir: str
    service: str
    check: bool
    timeout: float


class LogOptions(TypedDict, total=False):
    """Which output: of one service, only the last lines, since a time (RFC 3339, or an age as "5m"), and what is to come."""

    service: str
    tail: int
    since: str
    follow: bool


class Completed(NamedTuple):
    """A command that has ended. exit_code: 128+n for a signal; reason: the limit that ended it, if one did."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    reason: str = ""

    @property
    def text(self) -> str:
        """What it wrote to stdout."""
        return self.stdout.decode(errors="replace")

    def checked(self, argv: Sequence[str]) -> "Completed":
        """Itself, or CommandFailed."""
        if self.exit_code:
            raise CommandFailed(argv, self)
        return self


class CommandFailed(Exception):
    """A command left with another exit code than 0; raised by `exec` with `check`, and only there."""

    def __init__(self, argv: Sequence[str], completed: Completed) -> None:
        said = completed.stderr.decode(errors="replace").strip()
        super().__init__(f"{' '.join(argv)} left with {completed.exit_code}" + (f": {said}" if said else ""))
        self.argv = list(argv)
        self.completed = completed


def run_params(command: Command | None, options: RunOptions, environ: Mapping[str, str], directory: str) -> Run:
    """The request for an env of one service, `main`, or of a spec."""
    given: dict[str, Any] = dict(options)
    about = {key: given.pop(key) for key in ("wait", "timeout", "exists") if key in given}
    handed = {key: environ[key] for key in HANDED_ON if key in environ}
    spec = given.pop("spec", None)
    if spec is not None and (command is not None or given):
        raise UsageError("a spec has it all: give either `spec` or a command and options", hint="drop one")
    if spec is None:
        if not command:
            raise UsageError("no command to run", hint='client.run(["python3", "app.py"])')
        spec = _spec(command, given)
    return Run(spec=spec, environ=handed, directory=directory, **about)


def _spec(command: Command, given: dict[str, Any]) -> EnvSpec:
    of_service = {key: given.pop(key) for key in ("port", "workdir", "ready") if key in given}
    of_life = {key: given.pop(key) for key in ("ttl", "restart") if key in given}
    if "workspace" in given:
        given["workspace"] = Workspace(path=str(given["workspace"]))
    unknown = given.keys() - {"name", "env", "workspace", "labels", "limits", "isolation", "network", "mounts"}
    if unknown:
        raise UsageError(f"run takes no {', '.join(sorted(unknown))}", hint="see sandboxd.client.env.RunOptions")
    service = Service(command=command if isinstance(command, str) else list(command), **of_service)
    return EnvSpec(services={"main": service}, lifecycle=Lifecycle(**of_life), **given)


class Requests:
    """What is known of an env, and what to ask for about it: the same for both colours."""

    def __init__(self, info: EnvInfo) -> None:
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}>"

    id = property(lambda self: self.info.id, doc="32 hex digits; never another env's.")
    name = property(lambda self: self.info.name, doc="A DNS label.")
    state = property(lambda self: self.info.state, doc="As last seen.")
    url = property(lambda self: self.info.url, doc="Where it is reached by HTTP, or None.")
    exit_code = property(lambda self: self.info.exit_code, doc="Of an env that ended, as last seen.")

    def _exec(self, argv: Sequence[str], options: ExecOptions) -> Exec:
        known: dict[str, Any] = {key: value for key, value in options.items() if key in ("env", "workdir", "service")}
        return Exec(target=self.info.id, argv=list(argv), stdin="input" in options, **known)

    def _logs(self, options: LogOptions) -> Logs:
        return Logs(target=self.info.id, **options)


class Env(Requests):
    """One environment."""

    def __init__(self, client: "Client", info: EnvInfo) -> None:
        super().__init__(info)
        self._client = client

    def refresh(self) -> "Env":
        """Look again."""
        self.info = self._client.call(Inspect(target=self.id)).env
        return self

    def exec(self, argv: Sequence[str], **options: "Unpack[ExecOptions]") -> Completed:
        """Run a command inside, to its end; raises CommandNotFound, TimedOut, and with `check` CommandFailed."""
        from sandboxd.client.pump import run_to_end  # noqa: PLC0415 - not every program runs commands

        with self._client.open(self._exec(argv, options)) as session:
            done = run_to_end(session, options.get("input"), options.get("timeout"))
        return done.checked(argv) if options.get("check") else done

    def logs(self, **options: "Unpack[LogOptions]") -> Iterator[LogLine]:
        """Records of its services' output, oldest first."""
        for reply in self._client.stream(self._logs(options)):
            yield from reply.lines

    def wait(self, until: Literal["ready", "healthy", "stopped", "removed"] = "stopped", timeout: float | None = None) -> "Env":
        """Until it has come that far; raises TimedOut, or NotReady when it ended instead."""
        self.info = self._client.call(Wait(target=self.id, until=until, timeout=timeout)).env
        return self

    def stop(self, timeout: float | None = None) -> "Env":
        """Stop it: the services' stop signal, `timeout` seconds, then the end of the whole tree."""
        self.info = self._client.call(Stop(target=self.id, timeout=timeout)).env
        return self

    def start(self) -> "Env":
        """Start it again."""
        self.info = self._client.call(Start(target=self.id)).env
        return self

    def restart(self, timeout: float | None = None) -> "Env":
        """Stop, then start."""
        self.info = self._client.call(Restart(target=self.id, timeout=timeout)).env
        return self

    def suspend(self) -> "Env":
        """Have nothing of it run, and keep it as it is; a request for it wakes it."""
        self.info = self._client.call(Suspend(target=self.id)).env
        return self

    def resume(self) -> "Env":
        """Have it run on."""
        self.info = self._client.call(Resume(target=self.id)).env
        return self

    def update(self, **limits: int | float | None) -> "Env":
        """Change limits, by the names of `spec.Limits`; None takes one away. Raises what cannot be enforced."""
        self.info = self._client.call(Update(target=self.id, limits=limits)).env
        return self

    def scale(self, replicas: int | None, timeout: float | None = None) -> "Env":
        """Have so many replicas, all ready on return; None: as its [scale] says."""
        self.info = self._client.call(Scale(target=self.id, replicas=replicas, timeout=timeout)).env
        return self

    def kill(self, signal: str = "KILL") -> "Env":
        """Signal every service's main process; KILL ends the whole tree."""
        self.info = self._client.call(Kill(target=self.id, signal=signal)).env
        return self

    def remove(self, *, force: bool = True) -> RemoveReply:
        """End it and remove all it left; the reply has the receipt."""
        return self._client.call(Remove(target=self.id, force=force))

    def __enter__(self) -> "Env":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.remove()
        except NotFound:
            pass


class AsyncEnv(Requests):
    """One environment, awaitable."""

    def __init__(self, client: "AsyncClient", info: EnvInfo) -> None:
        super().__init__(info)
        self._client = client

    async def refresh(self) -> "AsyncEnv":
        """Look again."""
        self.info = (await self._client.call(Inspect(target=self.id))).env
        return self

    async def exec(self, argv: Sequence[str], **options: "Unpack[ExecOptions]") -> Completed:
        """Run a command inside, to its end; raises CommandNotFound, TimedOut, and with `check` CommandFailed."""
        from sandboxd.client.aio import run_to_end  # noqa: PLC0415 - `aio` imports asyncio

        async with await self._client.open(self._exec(argv, options)) as session:
            done = await run_to_end(session, options.get("input"), options.get("timeout"))
        return done.checked(argv) if options.get("check") else done

    async def logs(self, **options: "Unpack[LogOptions]") -> AsyncIterator[LogLine]:
        """Records of its services' output, oldest first."""
        async for reply in self._client.stream(self._logs(options)):
            for line in reply.lines:
                yield line

    async def wait(
        self, until: Literal["ready", "healthy", "stopped", "removed"] = "stopped", timeout: float | None = None
    ) -> "AsyncEnv":
        """Until it has come that far; raises TimedOut, or NotReady when it ended instead."""
        self.info = (await self._client.call(Wait(target=self.id, until=until, timeout=timeout))).env
        return self

    async def stop(self, timeout: float | None = None) -> "AsyncEnv":
        """Stop it: the services' stop signal, `timeout` seconds, then the end of the whole tree."""
        self.info = (await self._client.call(Stop(target=self.id, timeout=timeout))).env
        return self

    async def start(self) -> "AsyncEnv":
        """Start it again."""
        self.info = (await self._client.call(Start(target=self.id))).env
        return self

    async def restart(self, timeout: float | None = None) -> "AsyncEnv":
        """Stop, then start."""
        self.info = (await self._client.call(Restart(target=self.id, timeout=timeout))).env
        return self

    async def suspend(self) -> "AsyncEnv":
        """Have nothing of it run, and keep it as it is; a request for it wakes it."""
        self.info = (await self._client.call(Suspend(target=self.id))).env
        return self

    async def resume(self) -> "AsyncEnv":
        """Have it run on."""
        self.info = (await self._client.call(Resume(target=self.id))).env
        return self

    async def update(self, **limits: int | float | None) -> "AsyncEnv":
        """Change limits, by the names of `spec.Limits`; None takes one away. Raises what cannot be enforced."""
        self.info = (await self._client.call(Update(target=self.id, limits=limits))).env
        return self

    async def scale(self, replicas: int | None, timeout: float | None = None) -> "AsyncEnv":
        """Have so many replicas, all ready on return; None: as its [scale] says."""
        self.info = (await self._client.call(Scale(target=self.id, replicas=replicas, timeout=timeout))).env
        return self

    async def kill(self, signal: str = "KILL") -> "AsyncEnv":
        """Signal every service's main process; KILL ends the whole tree."""
        self.info = (await self._client.call(Kill(target=self.id, signal=signal))).env
        return self

    async def remove(self, *, force: bool = True) -> RemoveReply:
        """End it and remove all it left; the reply has the receipt."""
        return await self._client.call(Remove(target=self.id, force=force))

    async def __aenter__(self) -> "AsyncEnv":
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.remove()
        except NotFound:
            pass
