"""Why an env is as it is, in words for somebody who has never read this code: its state explained, and the rules it is under.

Pure: a record and the last answers of its readiness checks in, sentences out. Every answer is about what a person asks (why did
it end, why does it not start, why is it not ready, why has it no URL), and says what to do where there is something to do.
"""

from collections.abc import Mapping, Sequence

from sandboxd.lifecycle.order import is_satisfied
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord, Wall
from sandboxd.lifecycle.restart import delay
from sandboxd.lifecycle.states import ENDED, ServiceState, State, Wanted
from sandboxd.lifecycle.view import command_of, main_service, url_of
from sandboxd.protocol.messages import Answer
from sandboxd.units import format_duration, format_size

BASE = "localhost"  # any: only whether there is a URL is asked
SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV",
    13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 31: "SIGSYS",
}  # fmt: skip
# What each wall keeps from happening, said of an env for which it holds.
WALLS = {
    "pid": "it sees and signals its own processes only",
    "mount": "the system is read-only, home and /tmp are its own; `-v SRC:DST[:ro]` shows more of this machine",
    "landlock": "Landlock, a second wall, opens no other files, and binds and connects no other ports",
    "seccomp": "a filter refuses system calls that programs do not need (mount, bpf, keyrings, packet sockets, …)",
    "capabilities": "it has no capabilities, and no set-user-id program gives it any",
    "cgroup": "it sees its own control group only",
}

NO_WALL = Wall(offered=False, demanded=False, enforced=False)


def answers(
    record: EnvRecord, unready: Mapping[str, str], unguarded: Sequence[str] = (), traffic: Mapping[str, int] = {}
) -> list[Answer]:
    """What there is to say, the weightiest first. unready: the last answer of each readiness check that does not hold;
    unguarded: paths that somebody outside obeys and that can be written from inside; traffic: the router's counts of it."""
    found: list[Answer] = []
    if record.state in ENDED:
        found.append(why_ended(record))
        if record.wanted is Wanted.RUNNING and record.error is None and record.cause not in ("", "ttl"):
            found += [policy(record)]
    elif record.state is State.QUEUED:
        found.append(Answer(topic="queued", text="it waits for its turn", hint="`sandbox ps` shows what runs meanwhile"))
    elif record.state is State.STOPPING:
        found.append(Answer(topic="ended", text=stopping(record), hint=f"`sandbox kill {record.name}` waits for nothing"))
    else:
        found += [why_not(record, service, unready) for service in record.services.values() if is_wanting(record, service)]
    if record.state not in ENDED and url_of(record, BASE) is None:
        found.append(no_url(record))
    found += crowded(record, traffic)
    for name, wall in record.walls.items():
        if wall.demanded and not wall.enforced:
            found.append(Answer(topic="wall", text=f"the {name} wall does not hold: {wall.reason}", hint="sandbox doctor"))
    text = "{} can be written from inside: it was made or replaced since the env began"
    hint = "read it before a program of yours obeys it (git, direnv, sandbox); a restart of the env guards it again"
    return found + [Answer(topic="guard", text=text.format(path), hint=hint) for path in unguarded]


def crowded(record: EnvRecord, traffic: Mapping[str, int]) -> list[Answer]:
    """Whom its bound on connections keeps waiting, or sent away since the router began."""
    most, queued, refused = record.limits.max_connections, traffic.get("queued", 0), traffic.get("refused", 0)
    if most is None or not (queued or refused):
        return []
    text = f"its connections are bounded (max_connections = {most}): {queued} wait for one, {refused} were answered 503 instead"
    hint = f"`sandbox update --max-connections {2 * most} {record.name}` allows more"
    return [Answer(topic="connections", text=text, hint=hint)]


# -- it has ended ----------------------------------------------------------------------------------------------------------


def why_ended(record: EnvRecord) -> Answer:
    """How an env came to its end, or never began."""
    logs = f"`sandbox logs {record.name}` shows what it said"
    if record.error is not None:
        code, message, hint = record.error
        topic = "start" if record.started is None else "ended"
        return Answer(topic=topic, text=message, hint=hint or ("sandbox doctor" if code == "WallUnavailable" else logs))
    if record.cause:
        what = f"its {record.cause} limit ended it" if record.cause in LIMITS else record.cause
        return Answer(topic="ended", text=f"{what}: {record.reason}".rstrip(": "), hint=LIMITS.get(record.cause, logs))
    if record.wanted is not Wanted.RUNNING:
        return Answer(topic="ended", text="it was stopped, as asked", hint=f"`sandbox start {record.name}` starts it again")
    if record.reason:
        return Answer(topic="ended", text=record.reason, hint=logs)
    bad = next((service for service in record.services.values() if service.exit_code), None)
    if bad is None:
        return Answer(topic="ended", text="its command ended by itself, and well (exit code 0)")
    return Answer(topic="ended", text=f"{bad.name} ended with {exit_words(bad.exit_code or 0)}", hint=logs)


LIMITS = {
    "memory": "raise it: -m SIZE, or limits.memory in sandbox.toml",
    "oom": "raise it: -m SIZE, or limits.memory in sandbox.toml",
    "pids": "raise it: --pids-limit N, or limits.pids in sandbox.toml",
    "disk": "raise it: limits.disk in sandbox.toml",
    "ttl": "raise it: --ttl 2h, or lifecycle.ttl in sandbox.toml",
}


def exit_words(code: int) -> str:
    """An exit code as people should read it (bash(1), "EXIT STATUS")."""
    if code == 126:
        return "exit code 126: something it ran is no program that can be executed"
    if code == 127:
        return (
            "exit code 127: a command that it ran was not found; inside, only the system and the toolchains on PATH are there"
        )
    if code > 128:
        name = SIGNALS.get(code - 128, f"signal {code - 128}")
        return f"exit code {code}: {name} killed it"
    return f"exit code {code}"


def policy(record: EnvRecord) -> Answer:
    """Whether it will come back."""
    said = record.spec.lifecycle.restart
    if said in ("", "no"):
        return Answer(topic="restart", text="nothing starts it again", hint="--restart on-failure would")
    return Answer(topic="restart", text=f"restart = {said!r}: it was started again {record.restarts} times")


def stopping(record: EnvRecord) -> str:
    """What a stop waits for."""
    up = [service.name for service in record.services.values() if service.pid is not None]
    if not up:
        return "it is ending: no service runs any more"
    grace = max(spec.stop_timeout for spec in record.spec.services.values())
    return f"it is stopping: {', '.join(up)} was told to end, and is killed after {format_duration(grace)}"


# -- it is not ready -------------------------------------------------------------------------------------------------------


def is_wanting(record: EnvRecord, service: ServiceRecord) -> bool:
    """Whether this service keeps the env from being ready, or is why it is unhealthy."""
    if service.state is ServiceState.EXITED:
        return bool(service.exit_code)
    return service.state is not ServiceState.READY


def why_not(record: EnvRecord, service: ServiceRecord, unready: Mapping[str, str]) -> Answer:
    """Why one service is not ready."""
    name, logs = service.name, f"`sandbox logs {record.name}/{service.name}` shows what it says"
    if service.state is ServiceState.WAITING and service.failures:
        pause = format_duration(delay(service.failures - 1))
        code = exit_words(service.exit_code or 0)
        return Answer(topic="restart", text=f"{name} ended with {code}; it is started again {pause} after its end", hint=logs)
    if service.state is ServiceState.WAITING:
        return Answer(topic="ready", text=f"{name} waits for {waits_for(record, name, unready)}")
    if service.state is ServiceState.STARTING:
        return Answer(topic="ready", text=f"{name} is being started")
    if service.state is ServiceState.RUNNING:
        said = unready.get(name) or service.unready or "its readiness check has not answered yet"
        return Answer(topic="ready", text=f"{name} runs but is not ready: {said}", hint=f"{logs}; {checked_by(record, name)}")
    return Answer(topic="ready", text=f"{name} ended with {exit_words(service.exit_code or 0)}", hint=logs)


def waits_for(record: EnvRecord, name: str, unready: Mapping[str, str]) -> str:
    """The dependencies that do not hold, each with what is wrong with it."""
    told = []
    for needed in record.spec.services[name].depends_on:
        service = record.services[needed]
        if not is_satisfied(service):
            said = unready.get(needed, "")
            told.append(f"{needed}, which is {service.state.value}" + (f" ({said})" if said else ""))
    return " and ".join(told) or "its turn"


def checked_by(record: EnvRecord, name: str) -> str:
    """What would make a service count as ready."""
    spec = record.spec.services[name]
    if spec.ready is not None and spec.ready.http:
        return f"it is ready when GET {spec.ready.http} answers 2xx or 3xx"
    if spec.ready is not None and spec.ready.command is not None:
        command = spec.ready.command if isinstance(spec.ready.command, str) else " ".join(spec.ready.command)
        return f"it is ready when `{command}` leaves with 0"
    return f"it is ready when it listens on port {spec.port}" if spec.port else "it is ready when it listens on a port"


def no_url(record: EnvRecord) -> Answer:
    """Why nothing routes to an env."""
    name = main_service(record)
    if record.spec.network.mode == "none":
        return Answer(
            topic="url", text="it has no URL: --network none leaves it without any network", hint="leave --network out"
        )
    if record.spec.services[name].expose != "http":
        return Answer(
            topic="url",
            text=f"it has no URL: {name} is not HTTP (expose = {record.spec.services[name].expose!r})",
            hint='expose = "http" for the service that is, or -p HOSTPORT:PORT for raw TCP',
        )
    if record.given_port is not None:
        return Answer(
            topic="url",
            text=f"it has no URL yet: {name} does not listen on port {record.given_port}, the one it was given on this network",
            hint="it must listen on $PORT, or say its own with -p PORT",
        )
    return Answer(
        topic="url",
        text=f"it has no URL yet: `{command_of(record.spec.services[name])}` listens on no port",
        hint="the first TCP port that it listens on is found by itself",
    )


# -- what holds for it -----------------------------------------------------------------------------------------------------


def rules(record: EnvRecord) -> list[str]:
    """The rules in force, one a line; only what is enforced is promised."""
    spec = record.spec
    held = {name for name, wall in record.walls.items() if wall.enforced}
    found = []
    if spec.workspace.path and spec.workspace.mode == "bind":
        found.append(f"files: {spec.workspace.path} is writable, but for sandbox.toml, .envrc, .git/hooks and .git/config")
    found += [f"files: {mount.target} is {'read-only' if mount.readonly else 'writable'}" for mount in spec.mounts]
    found += [f"{name}: {text}" for name, text in WALLS.items() if name in held]
    found.append(network(record))
    of = record.limits
    limits = [f"{name} {shown(name, value)}" for name in of.__struct_fields__ if (value := getattr(of, name))]
    found += [f"limits: {', '.join(limits)}"] if limits else []
    found += [f"{name}: not asked for ({wall.reason})" for name, wall in record.walls.items() if is_left_out(wall)]
    return found


def unknowable(record: EnvRecord) -> list[str]:
    """What an env may have met and nobody here can know, so that silence is not taken for an answer."""
    found = []
    if record.walls.get("landlock", NO_WALL).enforced:
        found.append("what Landlock refused: the kernel tells it to root only, as audit records")
    if record.limits.nofile is not None:
        found.append("a nofile limit that was met for a moment (EMFILE): the kernel tells the program alone")
    if record.limits.memory is not None and record.enforced.get("memory") == "sampled":
        found.append(
            "memory between two looks, and what the kernel keeps for it, as System V message queues: no cgroup counts it"
        )
    return found


def is_left_out(wall: Wall) -> bool:
    """A wall that the spec did not ask for although this host has it."""
    return wall.offered and not wall.demanded and bool(wall.reason)


def network(record: EnvRecord) -> str:
    """What it reaches, and who reaches it."""
    mode = record.spec.network.mode
    if mode == "host":
        return "network: it shares this machine's network (--network host)"
    if mode == "none":
        return "network: none at all (--network none)"
    out = f"no way out{f', because {record.no_way}' if record.no_way else ''}"
    if record.reaches_out:
        out = "open to the internet" if record.egress == ["open"] else f"out to {', '.join(record.egress) or 'nothing'} only"
    return f"network: its own, {out}; reached from here by name through the router, and by ports published with -p"


def shown(name: str, value: object) -> str:
    """A limit's value for people."""
    sized = name.startswith(("memory", "disk", "io_")) and isinstance(value, int)
    return format_size(float(str(value))) if sized else str(value)
