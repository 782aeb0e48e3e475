"""docker's words for states, ages, sizes, ports and commands, so that fingers and scripts that know them read ours.

Pure: the clock (`now`, seconds since the epoch) is an argument. Imports messages only. Invariant: nothing that came from
an env reaches a terminal with its control characters: `clean` is applied to every cell.
"""

from datetime import datetime

from sandboxd.protocol.messages import EnvInfo, PortInfo

SHORT_ID = 12
COMMAND_WIDTH = 20
LEVELS = {
    "landlock": "own files and ports only; the host's processes and network are in sight, and sandbox.toml can be rewritten",
    "none": "nothing is walled off; limits hold, and it ends whole",
}
CAUSES = frozenset(("memory", "oom", "pids", "disk", "ttl", "idle", "killed", "lost"))
MEASURED = frozenset(("memory", "pids", "disk"))
"""Causes whose reason says limit and peak first."""


def clean(text: str) -> str:
    """Text with control characters escaped: a name or command must not drive the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def human_duration(seconds: float) -> str:
    """docker's units.HumanDuration: `5 seconds`, `About a minute`, `3 weeks`."""
    whole = int(seconds)
    hours = (whole + 1800) // 3600  # docker rounds hours and cuts the others
    if whole < 1:
        return "Less than a second"
    ladder = (
        (whole < 60, whole, "second", "1 second"),
        (whole < 3600, whole // 60, "minute", "About a minute"),
        (hours < 48, hours, "hour", "About an hour"),
        (hours < 24 * 14, hours // 24, "day", ""),
        (hours < 24 * 60, hours // 24 // 7, "week", ""),
        (hours < 24 * 365 * 2, hours // 24 // 30, "month", ""),
        (True, whole // 3600 // 24 // 365, "year", ""),
    )
    count, unit, one = next((count, unit, one) for fits, count, unit, one in ladder if fits)
    return one if count == 1 and one else f"{count} {unit}s"


def epoch(time: str | None) -> float | None:
    """RFC 3339 as seconds since the epoch; None for none or for what cannot be read."""
    try:
        return datetime.fromisoformat(time).timestamp() if time else None
    except ValueError:
        return None


def age(time: str | None, now: float) -> str:
    """How long ago, in docker's words, without the `ago`."""
    then = epoch(time)
    return human_duration(max(now - then, 0.0)) if then is not None else ""


def cause(info: EnvInfo) -> str:
    """What ended an env from outside: `memory` of `memory: 530 MiB …`; empty where it ended by itself."""
    word = info.reason.partition(":")[0]
    return word if word in CAUSES else ""


def ending(info: EnvInfo) -> str:
    """The cause with what was met, without what to do: `memory: 512MiB limit, peak 530MiB`."""
    return info.reason.partition(";")[0] if cause(info) in MEASURED else cause(info)


def status(info: EnvInfo, now: float) -> str:
    """The STATUS column: `Up 2 minutes (ready)`, `Exited (137) 5 minutes ago (memory: 512MiB limit, peak 530MiB)`."""
    why = f" ({clean(ending(info))})" if cause(info) else ""
    if info.state in {"stopped", "failed"}:
        word = "Failed" if info.exit_code is None and info.state == "failed" else "Exited"
        code = "" if info.exit_code is None else f" ({info.exit_code})"
        since = age(info.finished, now)
        return f"{word}{code}{f' {since} ago' if since else ''}{why}"
    if info.state == "suspended":
        return f"Up {age(info.started, now)} (Paused)"
    since = age(info.started, now)
    if info.state in {"starting", "ready", "stopping"} and since:
        word = "unhealthy" if info.health == "unhealthy" else info.state
        many = f", {info.scale.ready}/{info.scale.wanted} replicas" if info.scale and info.scale.wanted > 1 else ""
        return f"Up {since} ({word}{many})"
    return info.state.capitalize() or "Unknown"


def created(info: EnvInfo, now: float) -> str:
    """The CREATED column: `2 minutes ago`."""
    since = age(info.created, now)
    return f"{since} ago" if since else ""


def command(info: EnvInfo, *, whole: bool = False) -> str:
    """The COMMAND column: quoted, cut to docker's 20 characters unless whole."""
    text = clean(info.command)
    if not whole and len(text) > COMMAND_WIDTH:
        text = text[: COMMAND_WIDTH - 1] + "…"
    return f'"{text}"' if text else ""


def port(info: PortInfo) -> str:
    """One port as docker writes it: `127.0.0.1:8080->3000/tcp`, or `3000/tcp` where the host has none."""
    return f"{clean(info.address)}->{info.port}/tcp" if info.address else f"{info.port}/tcp"


def ports(info: EnvInfo) -> str:
    """The PORTS column."""
    return ", ".join(dict.fromkeys(port(one) for one in info.ports))


def short_id(text: str, *, whole: bool = False) -> str:
    """An id's first 12 characters, as docker shows ids."""
    return text if whole else text[:SHORT_ID]


def no_way(info: EnvInfo) -> str:
    """One line where nothing can go out although nobody asked for that; else ""."""
    return f"sandbox: egress: {clean(info.egress)} (`sandbox doctor`)" if info.egress.startswith("none, because ") else ""


def weaker(level: str) -> str:
    """One line where less than full isolation was asked for: nobody is to run behind less without seeing it; else ""."""
    return f"sandbox: isolation {level}: {LEVELS[level]}" if level in LEVELS else ""
