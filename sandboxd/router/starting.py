"""What it takes to bring a router up: addresses bound, router.sock bound, the process spawned; and who holds a taken port.

For `handle` only. Blocking calls, all of them short. Nothing half-made stays: what was bound is closed when a later step fails.
"""

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sandboxd import __version__
from sandboxd.errors import KernelError, PortTaken, UsageError
from sandboxd.router.listener import address_of, bind, split_address
from sandboxd.router.unixes import PREFIX
from sandboxd.routing.framing import Bounds

SOCKET = "router.sock"
LOG = "router.log"
MOST_LOG = 4 << 20
LEAVING = 40  # looks at whether the workers of a killed master are gone
WORKERS = (None, "sandboxd-router", "sandboxd-router: worker")


def spawn(
    directory: Path,
    listeners: list[socket.socket],
    control: socket.socket,
    bounds: Bounds,
    *,
    workers: int = 1,
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """A router in a session of its own, its output in router.log, holding these sockets. prefix: a command that becomes it."""
    fds = [sock.fileno() for sock in listeners]
    command = [*prefix, *program(bounds, workers), "--control", str(control.fileno()), "--listen", *map(str, fds)]
    path = directory / LOG
    if path.exists() and path.stat().st_size > MOST_LOG:
        path.replace(directory / f"{LOG}.1")
    with path.open("ab") as output:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[*fds, control.fileno()],
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": module_path()},
            )
        except OSError as error:
            raise KernelError(error.errno or 0, "execve", sys.executable) from error


def program(bounds: Bounds, workers: int) -> list[str]:
    """The command that becomes a router of this version, but for the descriptors that it is to have."""
    command = [sys.executable, "-m", "sandboxd.router", "--build", __version__]
    return [*command, "--bounds", msgspec.json.encode(bounds).decode(), "--workers", str(workers)]


def module_path() -> str:
    """Where it finds its modules: where we have ours."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    return ":".join([root, *filter(None, os.environ.get("PYTHONPATH", "").split(":"))])


def connect(directory: Path) -> socket.socket | None:
    """A connection to the router of that directory; None: none runs. sun_path holds 108 bytes, hence the way by descriptor."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{SOCKET}")
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise KernelError(error.errno or 0, "connect", str(directory / SOCKET)) from error
    finally:
        os.close(fd)
    sock.setblocking(False)
    return sock


def bind_control(directory: Path) -> socket.socket:
    """router.sock, bound anew (a stale one was probed before), for our own uid only."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        (directory / SOCKET).unlink(missing_ok=True)
        sock.bind(f"/proc/self/fd/{fd}/{SOCKET}")
        (directory / SOCKET).chmod(0o600)
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise KernelError(error.errno or 0, "bind", str(directory / SOCKET)) from error
    finally:
        os.close(fd)
    return sock


def check_address(address: str) -> None:
    """Raise UsageError unless it is HOST:PORT."""
    try:
        split_address(address)
    except ValueError as error:
        raise UsageError(f"{error}: it is no address to listen on", hint="for example 127.0.0.1:7070 or [::1]:7070") from error


def handed_or_bound(address: str, handed: Sequence[socket.socket]) -> socket.socket:
    """A listening socket: a copy of the one we were given for it, or bound here; raises PortTaken with who holds it."""
    for sock in handed:
        if address_of(sock) == address:
            return sock.dup()
    try:
        return bind(address)
    except OSError as error:
        raise taken(address, error.errno or 0) from error


async def bound_after(directory: Path, address: str, handed: Sequence[socket.socket]) -> socket.socket:
    """A listening socket for the address, also where the workers of a master that was killed are still on their way out.

    The kernel kills them with it (PR_SET_PDEATHSIG), and tells only their parent; a router.sock that nobody serves is the sign.
    """
    for _ in range(LEAVING if (directory / SOCKET).exists() else 0):
        try:
            return handed_or_bound(address, handed)
        except PortTaken as error:
            if error.details.get("process") not in WORKERS:  # None: it has let go of its files, and not yet of its sockets
                raise
            await asyncio.sleep(0.05)
    return handed_or_bound(address, handed)


def taken(address: str, number: int) -> PortTaken:
    """Why a host address cannot be listened on, and who is in the way."""
    host, port = split_address(address)
    if host.startswith(PREFIX):
        why = "it is being served" if number == errno.EADDRINUSE else os.strerror(number)
        hint = (
            "another path, in a directory of yours"
            if number != errno.EADDRINUSE
            else "end who serves it, or choose another path"
        )
        return PortTaken(f"cannot listen on {address}: {why}", hint=hint, address=address, errno=number)
    if number != errno.EADDRINUSE:
        hint = "ports below 1024 need privileges, or socket activation" if number == errno.EACCES else ""
        return PortTaken(f"cannot listen on {address}: {os.strerror(number)}", hint=hint, address=address, errno=number)
    from sandboxd.network.ports import who_holds  # noqa: PLC0415 - it looks at every process: only for this message

    holder = who_holds(host, port)
    whom = f"{holder[1]} (pid {holder[0]})" if holder is not None else "another process"
    details: dict[str, object] = {"pid": holder[0], "process": holder[1]} if holder is not None else {}
    return PortTaken(
        f"cannot listen on {address}: {whom} holds it",
        hint="end that process, or choose another address",
        address=address,
        **details,
    )


def matches(wanted: str, held: str) -> bool:
    """Whether a held address serves a wanted one."""
    (wanted_host, wanted_port), (held_host, held_port) = split_address(wanted), split_address(held)
    return wanted_host == held_host and wanted_port in (0, held_port)


def reap(pid: int) -> None:
    """Wait for a router that has ended, if it is a child of this process: the daemon before us may have been in it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tail(path: Path) -> str:
    """The last line of a log, or nothing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
