"""Asks others for the doctor: the daemon, if one answers; the router's addresses; the resolvers of this host.

Every question has a bound, and no answer is an answer. Nothing is started but throwaway children, and no daemon ever.
"""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandboxd.client.dial import connect
from sandboxd.client.session import Exchange
from sandboxd.doctor.facts import Address, DaemonFacts, Lookup, NameFacts
from sandboxd.errors import SandboxdError
from sandboxd.kernel import pidfd
from sandboxd.network.ports import who_holds
from sandboxd.protocol.messages import Status, StatusReply
from sandboxd.settings import Settings

PATIENCE = 5.0  # seconds
NAME = "sandboxd-doctor.localhost"
LOOK_UP = f"import socket; print(socket.getaddrinfo({NAME!r}, 80, type=socket.SOCK_STREAM)[0][4][0])"
NODE = f"require('dns').lookup({NAME!r}, (e, a) => console.log(e ? e.code : a))"
UNRESOLVED = 6  # curl(1), EXIT CODES; 7 is "could not connect": it knew where to
ENV_ID = re.compile(r"[0-9a-f]{32}")
LIBRARIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


def run_quietly(argv: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a program that has a few seconds; -1 and why where it cannot be run."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


# -- names -----------------------------------------------------------------------------------------------------------------


def look_at_names() -> NameFacts:
    """A real look-up of a name below .localhost by each resolver that is here."""
    lookups = [system_lookup()]
    if (curl := shutil.which("curl")) is not None:
        # Nothing listens on port 1: what is asked is only whether it gets as far as to be refused.
        code, said = run_quietly([curl, "-sS", "--noproxy", "*", "--max-time", "4", "-o", os.devnull, f"http://{NAME}:1/"])
        version = first_word(run_quietly([curl, "--version"])[1], 1)
        lookups.append(Lookup(program="curl", version=version, resolved=code != UNRESOLVED, answer=last_line(said)))
    if (node := shutil.which("node")) is not None:
        code, said = run_quietly([node, "-e", NODE])
        version = first_word(run_quietly([node, "--version"])[1], 0)
        lookups.append(Lookup(program="node", version=version, resolved=is_loopback(said), answer=last_line(said)))
    return NameFacts(lookups=lookups, nsswitch=hosts_line(), myhostname=has_myhostname())


def system_lookup() -> Lookup:
    """getaddrinfo(3), in a child: a resolver that hangs must not hang us."""
    code, said = run_quietly([sys.executable, "-I", "-S", "-c", LOOK_UP])
    return Lookup(program="getaddrinfo", version="libc", resolved=code == 0 and is_loopback(said), answer=last_line(said))


def is_loopback(said: str) -> bool:
    """Whether an answer is an address of this machine's loopback."""
    word = said.strip()
    return word == "::1" or word.startswith("127.")


def last_line(said: str) -> str:
    """The last line of what a program said, cut."""
    lines = said.strip().splitlines()
    return lines[-1][:200] if lines else ""


def first_word(said: str, which: int) -> str:
    """A word of the first line."""
    words = said.split("\n", 1)[0].split()
    return words[which][:40] if len(words) > which else ""


def hosts_line() -> list[str]:
    """The words of nsswitch.conf's hosts line (nsswitch.conf(5)); empty where there is none, as with musl."""
    try:
        for line in Path("/etc/nsswitch.conf").read_text(errors="replace").splitlines():
            database, colon, words = line.partition("#")[0].partition(":")
            if colon and database.strip() == "hosts":
                return words.split()
    except OSError:
        pass
    return []


def has_myhostname() -> bool:
    """Whether the plug-in nss-myhostname is installed, in the library directories of one architecture or of several."""
    places = [Path(place) for place in LIBRARIES]
    return any(
        True for place in places for _ in [*place.glob("libnss_myhostname.so.2"), *place.glob("*/libnss_myhostname.so.2")]
    )


# -- addresses ---------------------------------------------------------------------------------------------------------------


def look_at_ports(listen: list[str]) -> list[Address]:
    """Whether each of the router's addresses is free, and who has it if not."""
    return [look_at_port(address) for address in listen if not address.startswith("unix:")]


def look_at_port(address: str) -> Address:
    """Bind it, for a moment, as the router would."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, int(port)))
            trial.listen(1)  # only this refuses an address that somebody listens on, once SO_REUSEADDR is set
        except OSError as error:
            holder = who_holds(host, int(port))
            return Address(
                address=address,
                error=error.strerror or str(error),
                holder=f"{holder[1]} (pid {holder[0]})" if holder else "",
                ours=holder is not None and holder[1].startswith("sandboxd"),
            )
    return Address(address=address)


# -- the daemon --------------------------------------------------------------------------------------------------------------


def look_at_daemon(settings: Settings, uid: int) -> DaemonFacts:
    """The daemon of these settings, other ones of this user, and what a daemon that starts would sweep."""
    path = settings.socket
    status, state, said = ask_daemon(path)
    known = recorded(settings.state_dir / "state.db")
    alive = [] if status or known is None else [record for record in known.values() if lives(record)]
    directories = listed(settings.state_dir / "envs")
    return DaemonFacts(
        state=state,
        socket=str(path),
        said=said,
        pid=status.pid if status else None,
        version=status.version if status else "",
        listen=status.listen if status else [],
        envs=status.envs if status else {},
        controllers=status.controllers if status else [],
        uncontrolled=status.uncontrolled if status else "",
        control=status.control if status else "",
        others=[f"pid {pid}{where}" for pid, where in daemons(uid) if status is None or pid != status.pid],
        strays=[] if known is None else sorted(directories - known.keys()),
        orphans=sorted(str(record.get("name")) for record in alive),
    )


def ask_daemon(path: Path) -> tuple[StatusReply | None, str, str]:
    """Its status, in which state its socket is, and what went wrong."""
    try:
        sock = connect(str(path), wait=2)
    except SandboxdError as error:
        return None, "foreign" if error.code == "PermissionDenied" else "stuck", error.message
    if sock is None:
        return None, "stale" if os.path.lexists(path) else "none", ""
    with sock:
        sock.settimeout(PATIENCE)
        exchange = Exchange(Status())
        try:
            sock.sendall(exchange.request)
            while (reply := exchange.next_reply()) is None:
                exchange.feed(sock.recv(1 << 16))
        except (SandboxdError, OSError) as error:
            return None, "stuck", str(error)
    return (reply, "alive", "") if isinstance(reply, StatusReply) else (None, "stuck", "it answered something else")


def daemons(uid: int) -> list[tuple[int, str]]:
    """This user's daemons: pid, and " in DIR" where its environment tells."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            name = Path(entry.path, "comm").read_text(errors="replace").strip()
            if name == "sandboxd" and real_uid(entry.path) == uid:
                found.append((int(entry.name), directory_of(entry.path)))
        except OSError:
            continue  # gone meanwhile
    return found


def real_uid(process: str) -> int:
    """Whose a process is."""
    for line in Path(process, "status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return -1


def directory_of(process: str) -> str:
    """The SANDBOXD_DIR that a process was started with."""
    try:
        words = Path(process, "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((f" in {word[13:].decode(errors='replace')}" for word in words if word.startswith(b"SANDBOXD_DIR=")), "")


def recorded(path: Path) -> dict[str, dict[str, Any]] | None:
    """The daemon's records by id, read beside it; None where they cannot be read."""
    if not path.exists():
        return {}
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)
        try:
            return {str(env_id): json.loads(record) for env_id, record in database.execute("SELECT id, record FROM envs")}
        finally:
            database.close()
    except (sqlite3.Error, ValueError):
        return None


def lives(record: dict[str, Any]) -> bool:
    """Whether that very init of a record runs."""
    init = record.get("init")
    if not isinstance(init, dict) or init.get("boot_id") != pidfd.boot_id():
        return False
    return pidfd.start_time(int(init.get("pid", 0))) == init.get("start_time")


def listed(envs: Path) -> set[str]:
    """Ids that have a directory."""
    try:
        return {name for name in os.listdir(envs) if ENV_ID.fullmatch(name)}
    except OSError:
        return set()
