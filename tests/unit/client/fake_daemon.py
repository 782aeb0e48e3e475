"""Stands in for `python -m sandboxd`: takes the lock, binds, says how it went, and serves toy answers until told to stop.

FAKE: what to do instead: `die` at once, `refuse` with an error, `mumble`, be `slow`, or `hang` without a word.
"""

import asyncio
import fcntl
import json
import os
import select
import socket
import sys
from pathlib import Path

from sandboxd.daemon.control import Call, ControlServer
from sandboxd.protocol import messages as m
from sandboxd.settings import START_FIFO, Settings

settings = Settings.from_environ(os.environ, os.geteuid())
if "SANDBOXD_READY_FD" in os.environ:
    ready = int(os.environ["SANDBOXD_READY_FD"])
else:
    ready = os.open(settings.state_dir / START_FIFO, os.O_WRONLY | os.O_NONBLOCK)


def tell(text: str) -> None:
    os.write(ready, text.encode())
    os.close(ready)


async def serve(listener: socket.socket) -> None:
    stop = asyncio.Event()

    async def shutdown(call: Call) -> m.Reply:
        asyncio.get_running_loop().call_soon(stop.set)
        return m.Empty()

    async def status(call: Call) -> m.Reply:
        about = {"ppid": os.getppid(), "sid": os.getsid(0), "pgid": os.getpgid(0)}
        return m.StatusReply(
            pid=os.getpid(), version="fake", socket=str(settings.socket), listen=[], dir=os.getcwd(), uptime=0, envs=about
        )

    server = ControlServer(listener, {"Shutdown": shutdown, "Status": status})
    await server.start()
    tell("ok\n")
    await stop.wait()
    await server.stop()


def main() -> None:
    what = os.environ.get("FAKE") or os.environ.get("SANDBOXD_FAKE", "")
    with open(settings.state_dir / "starts", "a") as starts:
        starts.write(f"{os.getpid()}\n")
    if what == "die":
        sys.exit("Traceback: it broke")
    if what == "mumble":
        tell("hmm\n")
        return
    if what == "refuse":
        tell(json.dumps({"error": "PortTaken", "message": "127.0.0.1:7070 is taken", "hint": "by haproxy"}) + "\n")
        return
    if what == "hang":
        select.poll().poll(30_000)
        return
    lock = os.open(settings.state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(json.dumps({"error": "DaemonRunning", "message": "another daemon"}) + "\n")
        return
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    if what == "slow":
        select.poll().poll(300)
    path = Path(settings.socket)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    asyncio.run(serve(listener))
    path.unlink(missing_ok=True)


main()
