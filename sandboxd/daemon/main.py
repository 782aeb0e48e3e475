"""The daemon's process in named phases: build, adopt, serve, leave.

It can be killed at any moment: envs and the router live on, the launcher ends by itself, and the next daemon adopts them.
Whoever started it learns how the start went through SANDBOXD_READY_FD (or sd_notify): `ok`, or the error as JSON.
"""

import asyncio
import gc
import grp
import json
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from sandboxd import __version__
from sandboxd.config import Config, written
from sandboxd.daemon import farewell, succession
from sandboxd.daemon.adopt import adopt_all, check_records
from sandboxd.daemon.auditing import Auditing
from sandboxd.daemon.configuring import Configuring, with_handed
from sandboxd.daemon.control import Bounds, ControlServer, Handler, for_admins
from sandboxd.daemon.doorstep import Doorstep
from sandboxd.daemon.envs import EnvRequests
from sandboxd.daemon.forwarding import ForwardRequests
from sandboxd.daemon.handed import CONTROL, ROUTER
from sandboxd.daemon.handed import take as take_handed
from sandboxd.daemon.janitor import Janitor
from sandboxd.daemon.metering import scrape
from sandboxd.daemon.notify import Notifier
from sandboxd.daemon.passing import NetRequests
from sandboxd.daemon.queries import Queries
from sandboxd.daemon.scales import ScaleRequests
from sandboxd.daemon.sessions import SessionRequests
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.daemon.templates import TemplateRequests
from sandboxd.daemon.updates import UpdateRequests
from sandboxd.daemon.watch import Watch
from sandboxd.daemon.web import Web
from sandboxd.errors import Internal, SandboxdError, UsageError
from sandboxd.kernel.fds import raise_limit
from sandboxd.kernel.identity import forget_groups
from sandboxd.kernel.titles import set_title
from sandboxd.launch.probes import probe_host
from sandboxd.lifecycle.states import ENDED
from sandboxd.observe import journal
from sandboxd.settings import LOG_HINT, START_FIFO, Settings
from sandboxd.store.config import load
from sandboxd.store.copies import open_or_rebuild
from sandboxd.store.rundir import RunDir, prepare

log = logging.getLogger("sandboxd")
OF_ALL = frozenset({"Metrics", "Shutdown", "Config", "Audit"})  # what concerns every user
SHARE = 64  # connections of one user of many
PATIENCE = 2.0  # seconds for calls that are being answered, when another daemon takes over
USAGE = """usage: sandboxd [--version | --check-config]

The daemon of sandboxd; `sandbox` starts it by itself. Settings come from the environment (SANDBOXD_DIR, SANDBOXD_LISTEN, …)
and, where it says nothing, from a config file. --check-config reads both and says what a daemon would run with."""


def main() -> None:
    """The entry point: run until told to leave; exits 0, or with the error's own code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"sandboxd {__version__}")
        return
    if sys.argv[1:] == ["--check-config"]:
        raise SystemExit(check_config())
    if sys.argv[1:] == [succession.CHECK]:
        raise SystemExit(check_state())
    if sys.argv[1:]:
        print(USAGE, file=sys.stderr)
        raise SystemExit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    journal.set_up(os.environ)
    raise_limit()  # the launcher's and each init's, too
    gc.disable()  # what is made until it serves stays: to look through it again and again took a fifth of finding 500 envs
    ready = take_ready_fd()
    try:
        config = load(os.environ, os.geteuid())
        ready = ready if ready >= 0 else open_fifo(config.settings.state_dir)
        handed = take_handed(os.environ)
        routed = handed.get(ROUTER, [])
        settings = with_handed(config, routed)
        check_shared(settings)
        manager = Notifier.from_environ(os.environ)
        rundir = prepare(settings, handed.get(CONTROL, []))
        kept: list[tuple[str, socket.socket]] = []
        try:
            if uvloop.run(live(settings, rundir, Surroundings(ready, manager, routed, config))) and rundir.socket is not None:
                kept = [(CONTROL, rundir.socket.dup()), *((ROUTER, sock) for sock in routed)]
        finally:
            # A manager that keeps the listener hands it to the next daemon: the name must go on leading to it.
            rundir.close(unlink=not manager.path and not kept)
        if kept:
            succession.become(kept, manager.environ)
    except SandboxdError as error:
        log.error("%s", error)
        tell(ready, json.dumps({"error": error.code, "message": error.message, "hint": error.hint}))
        if ready < 0:
            print(f"sandboxd: {error}\nhint: {error.hint}" if error.hint else f"sandboxd: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        log.exception("the daemon failed")
        tell(
            ready,
            json.dumps({"error": Internal.__name__, "message": f"the daemon failed: {error!r}", "hint": LOG_HINT}),
        )
        raise SystemExit(Internal.exit_code) from None


def check_state() -> int:
    """Whether this program could take over the state that there is: 0, or the error as JSON and its code."""
    import sandboxd.router.master  # noqa: F401, PLC0415 - a router becomes that in its own process: it must be whole, too

    try:
        check_records(load(os.environ, os.geteuid()).settings.state_dir / "state.db")
    except SandboxdError as error:
        print(json.dumps({"error": error.code, "message": error.message, "hint": error.hint}))
        return error.exit_code
    print(f"sandboxd {__version__}")
    return 0


def check_config() -> int:
    """What a daemon would run with: 0, or the error's own code."""
    try:
        config = load(os.environ, os.geteuid())
    except SandboxdError as error:
        print(f"sandboxd: {error}\nhint: {error.hint}" if error.hint else f"sandboxd: {error}", file=sys.stderr)
        return error.exit_code
    for name, value in written(config.settings).items():
        print(f"{name:<22}{value or '-':<30} {config.sources.get(name.partition('.')[0], 'usual')}")
    return 0


def take_ready_fd() -> int:
    """The descriptor to report on, or -1; no child inherits it."""
    text = os.environ.pop("SANDBOXD_READY_FD", "")
    if not text:
        return -1
    if not text.isdigit():
        raise SystemExit(f"sandboxd: {UsageError(f'SANDBOXD_READY_FD={text!r} is no descriptor')}")
    os.set_inheritable(int(text), False)
    return int(text)


def open_fifo(state_dir: Path) -> int:
    """The descriptor of the FIFO on which a client waits to hear of our start, or -1."""
    try:
        fifo = os.open(state_dir / START_FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # none is there, or nobody reads it
        return -1
    if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
        os.close(fifo)
        return -1
    return fifo


def tell(fd: int, text: str) -> None:
    """Say how the start went, once."""
    if fd >= 0:
        try:
            os.write(fd, f"{text}\n".encode())
            os.close(fd)
        except OSError:
            log.debug("whoever started the daemon did not wait for it")


class Surroundings(NamedTuple):
    """What a daemon is started with. ready: where it tells how that went. routed: listeners for its router."""

    ready: int
    manager: Notifier
    routed: Sequence[socket.socket]
    config: Config


async def live(settings: Settings, rundir: RunDir, around: Surroundings) -> bool:
    """Build, adopt, serve, leave; whether another is to take over here."""
    set_title("sandboxd")
    manager = around.manager
    manager.starting()
    supervisor = await build(settings, rundir, around.routed)
    configuring, auditing = Configuring(supervisor, around.config, manager), Auditing(supervisor)
    watch = Watch(supervisor)
    web = Web(lambda: scrape(supervisor, watch))
    try:
        if settings.metrics:
            supervisor.web = await web.start()
        await adopt_all(supervisor)
        await supervisor.end_forwards()
        supervisor.adopted = True
        supervisor.push_routes()
        supervisor.admission.changed()
        assert rundir.socket is not None
        table = {**handlers(supervisor, watch), "Config": configuring.show, "Audit": auditing.show}
        server = control_server(settings, rundir.socket, auditing.of(guarded(table)))
        await server.start()

        def move(sock: socket.socket) -> None:
            server.move(sock)
            manager.store(CONTROL, sock)

        doorstep = Doorstep(rundir, move)
        begin(supervisor, watch)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: supervisor.own(farewell.leave(supervisor, manager), name="farewell"))
        loop.add_signal_handler(signal.SIGHUP, lambda: supervisor.own(configuring.hang_up(), name="config"))
        log.info("sandboxd %s serves %s, routes %s", __version__, settings.socket, ", ".join(supervisor.router.listen))
        let_garbage_be()
        tell(around.ready, "ok")
        manager.ready()
        manager.store(CONTROL, rundir.socket)
        supervisor.own(manager.keep(supervisor), name="notify")
        await supervisor.leaving.wait()
        if supervisor.again:
            log.info("making way for the next daemon")
        else:
            manager.send("STOPPING=1")
        doorstep.close()
        await server.stop(is_kept=bool(manager.path) or supervisor.again, patience=PATIENCE if supervisor.again else 0.0)
    finally:
        await web.stop()
        await leave(supervisor)
    return supervisor.again


def let_garbage_be() -> None:
    """What was made so far lives for ever. What a request makes goes by reference count: to look for more every 700 objects, as
    is usual, takes a twentieth of it (measured of `run`)."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def begin(supervisor: Supervisor, watch: Watch) -> None:
    """What goes on by itself until the daemon leaves."""
    supervisor.own(watch.run(), name="watch")
    supervisor.own(supervisor.idling.run(), name="idling")
    supervisor.own(supervisor.demand.run(), name="demand")
    supervisor.own(supervisor.scaling.run(), name="scaling")
    supervisor.own(supervisor.admission.guard(watch), name="memory")
    supervisor.own(Janitor(supervisor).run(), name="janitor")


def guarded(table: dict[str, Handler]) -> dict[str, Handler]:
    """The handlers, with those of what concerns every user for admins only."""
    return {name: for_admins(handler) if name in OF_ALL else handler for name, handler in table.items()}


def control_server(settings: Settings, listener: socket.socket, table: dict[str, Handler]) -> ControlServer:
    """The control socket as the settings have it: for us and root, or for every user of the box."""
    if not settings.shared:
        return ControlServer(listener, table)
    try:
        admins = grp.getgrnam(settings.admin_group).gr_gid if settings.admin_group else None
    except KeyError:
        admins = None
        log.warning("there is no group %s, so only root sees the envs of all users", settings.admin_group)
    return ControlServer(listener, table, allowed=lambda peer: True, admins=admins, bounds=Bounds(per_user=SHARE))


def check_shared(settings: Settings) -> None:
    """Raise what stands against serving every user."""
    if not settings.shared:
        return
    if os.geteuid() != 0:
        raise UsageError("shared: only root's daemon can serve every user", hint="sudo sandbox daemon install --system")
    if settings.socket.parent == settings.state_dir:
        raise UsageError(
            "shared: the control socket lies in the state directory, which nobody else may enter",
            hint="name another place for it: SANDBOXD_SOCKET",
        )
    forget_groups()


async def build(settings: Settings, rundir: RunDir, routed: Sequence[socket.socket]) -> Supervisor:
    """Open the journal, look at the host, start the launcher, find or start the router."""
    journal = open_or_rebuild(settings.state_dir / "state.db", rundir)
    supervisor = Supervisor(settings, rundir, journal, probe_host(), routed)
    await supervisor.start_launcher()
    try:
        await supervisor.start_router()
    except BaseException:
        supervisor.launcher.close()
        raise
    return supervisor


def handlers(supervisor: Supervisor, watch: Watch) -> dict[str, Handler]:
    """Every method of the protocol."""
    envs = EnvRequests(supervisor)
    queries = Queries(supervisor, watch)
    sessions = SessionRequests(supervisor)
    templates = TemplateRequests(supervisor, envs)
    return {
        "Run": envs.run,
        "List": queries.list,
        "Inspect": queries.inspect,
        "Logs": queries.logs,
        "Exec": sessions.exec,
        "Attach": sessions.attach,
        "SessionInput": sessions.input,
        "SessionResize": sessions.resize,
        "SessionSignal": sessions.signal,
        "Stop": envs.stop,
        "Start": envs.start,
        "Restart": envs.restart,
        "Suspend": envs.suspend,
        "Resume": envs.resume,
        "Kill": envs.kill,
        "Scale": ScaleRequests(supervisor).scale,
        "Update": UpdateRequests(supervisor, watch).update,
        "Remove": envs.remove,
        "Wait": envs.wait,
        "Events": queries.events,
        "Why": queries.why,
        "Net": NetRequests(supervisor).net,
        "Forward": ForwardRequests(supervisor).forward,
        "Stats": queries.stats,
        "Prune": envs.prune,
        "Register": templates.register,
        "Templates": templates.templates,
        "Unregister": templates.unregister,
        "Ensure": templates.ensure,
        "Status": queries.status,
        "Metrics": queries.metrics,
        "Shutdown": queries.shutdown,
    }


async def leave(supervisor: Supervisor) -> None:
    """Let go of everything; envs run on, and the router with them, unless nothing is left to route."""
    idle = all(actor.record.state in ENDED for actor in supervisor.actors.values())
    over = supervisor.end_all or (idle and not supervisor.again)
    if over:
        supervisor.router.dismiss()
    await supervisor.close()
    if over:
        await supervisor.router.stop(supervisor.settings.drain_timeout)
    else:
        supervisor.router.close()
    supervisor.launcher.close()
    await supervisor.control.settled()
    supervisor.journal.close()
