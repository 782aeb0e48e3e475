"""A daemon makes way for the next one in its own process: the program is executed anew, with the listeners that clients know.

The pid stays, so a service manager sees no end; who connects meanwhile waits in the listener's queue. The listeners go by the
protocol of socket activation (sd_listen_fds(3)), which a start reads anyway. Before anything is let go, the program that is to
follow is run once to say whether it works and reads this state: an upgrade that cannot start costs nothing. Imports handed,
notify and errors.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from sandboxd.daemon.handed import FIRST
from sandboxd.errors import Internal, SandboxdError, by_code

CHECK = "--check"
CHECK_SECONDS = 120.0  # it imports all of itself: a second, and a hundred times that where the machine is overrun
HIGH = 256  # above the numbers that the listeners are to have
HINT = "the daemon that runs goes on; see what is installed: python -m sandboxd --check"


def command() -> list[str]:
    """What started us, as the interpreter had it."""
    return [sys.executable, *sys.orig_argv[1:]]


async def check() -> None:
    """Have the program that is installed now look at the state; raises what it says, or that it does not even start."""
    process = await asyncio.create_subprocess_exec(
        *command(), CHECK, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            said, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Internal(f"the next daemon did not check the state within {CHECK_SECONDS:.0f} s", hint=HINT) from None
    if process.returncode == 0:
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(said)
        kind = by_code().get(str(found["error"]), SandboxdError)
        raise kind(f"the next daemon cannot take over: {found['message']}", hint=str(found["hint"]))
    last = complaint.decode(errors="replace").strip().splitlines()[-1:]
    raise Internal(f"the next daemon cannot start: {''.join(last) or process.returncode}", hint=HINT)


def become(listeners: Sequence[tuple[str, socket.socket]], environ: dict[str, str]) -> NoReturn:
    """Execute the program anew with these listeners, by name. environ: what our start took out of the environment."""
    high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH) for _, sock in listeners]
    for number, fd in enumerate(high):
        os.dup2(fd, FIRST + number, inheritable=True)
    given = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(high)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in listeners),
    }
    program = command()
    os.execve(program[0], program, {**os.environ, **environ, **given})
