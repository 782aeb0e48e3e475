"""Watching one env's services until they are ready, and finding the port of one that declared none.

The kernel tells nobody that a socket began to listen, so this asks: a sock_diag socket born in the env's netns answers, at
first every ms, then ever less often (network.listening). No connection is made, so a service never sees a probe unless an http
check was asked for.
"""

import asyncio
import logging
import math
import os
import socket
from typing import TYPE_CHECKING

from sandboxd.daemon import building
from sandboxd.daemon.reach import born_inside
from sandboxd.egress import PROXY, PROXY_PORT, forward
from sandboxd.errors import KernelError, NotFound, SandboxdError
from sandboxd.kernel import sockdiag
from sandboxd.kernel.fds import ran_out
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.states import ServiceState
from sandboxd.network.listening import Listener, Listening
from sandboxd.spec import Ready, Service

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor

log = logging.getLogger(__name__)
FIRST_PAUSE = 0.001
GROWTH = 1.25
LATE, LATE_GROWTH = 0.1, 1.5  # half a second on, what has declared no port hardly has one: of a thousand such, each look counts
LONGEST_PAUSE = 0.25
LONGEST_SEARCH_PAUSE = 30.0
WHOLE = 20.0  # such pauses and longer ones are followed by a look, whatever was counted
STATUS_LINE_CAP = 4096


class Readiness:
    """The probes of one env; owns their tasks and the diag socket."""

    def __init__(self, actor: "Actor") -> None:
        self.actor = actor
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listening: Listening | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed: Exception = NotFound("init has ended")  # why there is no diag socket
        self._cookie = 0

    def watch(self, name: str) -> None:
        """Begin to watch a service."""
        earlier = self._tasks.pop(name, None)
        if earlier is not None:
            earlier.cancel()
        self._tasks[name] = self.actor.supervisor.own(self._watch(name), name=f"ready-{self.actor.record.name}/{name}")

    async def forget(self, name: str = "") -> None:
        """End the watch over a service, or all."""
        ending = [self._tasks.pop(key) for key in ([name] if name else list(self._tasks)) if key in self._tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def close(self) -> None:
        """End all, and let the netns go: the diag socket pins it."""
        await self.forget()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _watch(self, name: str) -> None:
        spec = self.actor.record.spec.services[name]
        try:
            if spec.ready is not None or spec.port is not None:
                await self._until_ready(name, spec, spec.ready or Ready())
            if spec.port is None and spec.expose != "none" and self.actor.record.spec.network.mode != "none":
                await self._find_port(name, LONGEST_SEARCH_PAUSE)
        except NotFound:
            log.debug("%s: init has ended while its readiness was watched", name)
        except (SandboxdError, OSError) as error:
            log.warning("%s/%s: its readiness cannot be watched: %s", self.actor.record.name, name, error)

    async def _until_ready(self, name: str, spec: Service, check: Ready) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + check.timeout
        told = False
        pause = FIRST_PAUSE
        unready, before = "", None
        while True:
            now = self._count(is_seldom=pause >= LONGEST_PAUSE) if unready and not (check.http or check.command) else None
            if now is None or now != before:
                try:
                    unready = await self._why_not(name, spec, check)
                except OSError as error:
                    if not ran_out(error):
                        raise
                    unready, pause, now = f"it cannot be looked at now: {error}", LONGEST_PAUSE, None
            before = now
            self.actor.body.notebook.probed(name, unready)
            if not unready:
                self.actor.post(ev.ServiceReady(service=name, port=self.actor.record.services[name].port))
                return
            if not told and loop.time() >= deadline:
                told = True
                reason = f"{name} did not become ready in {check.timeout:g} s: {unready}"
                self.actor.post(ev.ServiceUnready(service=name, reason=reason))
            await asyncio.sleep(pause)
            longest = check.interval if check.http or check.command else LONGEST_PAUSE
            pause = min(pause * GROWTH, longest)

    async def _why_not(self, name: str, spec: Service, check: Ready) -> str:
        """Empty when the check holds."""
        if check.command is not None:
            return await self._command_fails(check.command, check.timeout)
        port = spec.port
        if port is None:
            port = self.actor.record.services[name].port or await self._find_port(name, LONGEST_PAUSE)
        ports = {row.port for row in await self._ports()}
        if port not in ports:
            others = sorted(ports)
            where = f" (it listens on {', '.join(map(str, others))})" if others and len(self.actor.record.services) == 1 else ""
            return f"nothing listens on port {port}{where}"
        return await self._http_fails(check.http, port) if check.http else ""

    def take(self, diag: int, cookie: int, pid: int) -> None:
        """Have the diag socket that the child, of that pid, made before it had a plan (-1: none); else it is asked for."""
        if diag < 0:
            return
        sock = socket.socket(fileno=diag)
        try:
            if self._listening is None and self.actor.record.spec.network.mode == "private":
                self._listening = Listening(sock, cookie=cookie, pid=pid)
                return
        except (SandboxdError, OSError) as error:
            log.warning("%s: %s", self.actor.record.name, error)
        sock.close()

    def prepare(self, cookie: int) -> None:
        """Ask for the diag socket now: whoever is told that a service runs will want it at once. cookie: of its netns."""
        self._cookie = cookie
        if self._opening is None and self._listening is None and self.actor.record.spec.network.mode != "none":
            self._opening = self.actor.supervisor.own(self._open(), name=f"diag-{self.actor.record.name}")

    def resume(self, cookie: int) -> None:
        """Of an env that another daemon left: what it waited for it wants at once, the rest when it is due."""
        self._cookie = cookie
        if any(service.state is not ServiceState.READY for service in self.actor.record.services.values()):
            self.prepare(cookie)

    async def _open(self) -> None:
        link = self.actor.body.link
        try:
            if self.actor.record.spec.network.mode == "host":
                self._listening = Listening(sockdiag.open_diag())
            elif link is not None:
                init = self.actor.record.init
                self._listening = Listening(await link.diag(), cookie=self._cookie, pid=init.pid if init else 0)
            else:
                self._closed = NotFound("init has ended")
        except (SandboxdError, OSError) as error:
            log.debug("%s: no diag socket: %s", self.actor.record.name, error)
            self._closed = error

    async def _ports(self) -> list[Listener]:
        if self._listening is None:
            self.prepare(self._cookie)
            if self._opening is not None:
                await asyncio.shield(self._opening)
                self._opening = None
        if self._listening is None:
            raise self._closed
        record = self.actor.record
        ours = {forward(entry).port for entry in record.spec.network.forward}
        ours |= {PROXY_PORT} if PROXY in record.egress else set()
        return [row for row in self._listening.ports() if row.port not in ours]

    async def _find_port(self, name: str, longest: float) -> int:
        """The first port that listens and that no service has declared; on the host's network only the one it was given."""
        record = self.actor.record
        # What has run for long is looked at as seldom as by the daemon before: hundreds of envs are found at once.
        ago = self.actor.supervisor.clock.now() - (record.services[name].started or math.inf)
        pause = min(max(FIRST_PAUSE, ago * (1 - 1 / GROWTH)), longest)
        if pause > LONGEST_PAUSE:
            await asyncio.sleep(pause)
        before = None
        while True:
            now = self._count(is_seldom=pause >= min(WHOLE, longest))
            if now is None or now != before:
                taken = {service.port for other, service in self.actor.record.services.items() if other != name}
                try:
                    free = [row.port for row in await self._ports() if row.port not in taken]
                except OSError as error:
                    if not ran_out(error) or longest < LONGEST_SEARCH_PAUSE:
                        raise
                    free, pause, now = [], LONGEST_PAUSE, None
                found = [port for port in free if record.given_port in (None, port)]
                if found:
                    self.actor.post(ev.PortFound(service=name, port=found[0]))
                    return found[0]
            before = now
            await asyncio.sleep(pause)
            pause = min(pause * (GROWTH if pause < LATE else LATE_GROWTH), longest)

    def _count(self, *, is_seldom: bool) -> tuple[int, ...] | None:
        """How many TCP sockets the env has now: as many as at the look before need no other. None: it has to be looked at."""
        if self._listening is None:
            return None
        if not is_seldom:
            return self._listening.count()
        self._listening.count_no_more()  # nobody began to listen, or just as something else ended: that has to come to light
        return None

    async def _command_fails(self, command: str | list[str], timeout: float) -> str:
        """Run the check inside, its output thrown away there."""
        link = self.actor.body.link
        if link is None:
            raise NotFound("init has ended")
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        argv = ["/bin/sh", "-c", 'exec "$@" >/dev/null 2>&1 </dev/null', "ready", *words]
        opened = await link.exec(building.exec_plan(self.actor, argv))
        for fd in opened.fds.values():
            os.close(fd)
        try:
            async with asyncio.timeout(timeout):
                code = await self.actor.body.session_code(opened.session)
        except TimeoutError:
            await link.close_session(opened.session)
            return f"its check `{' '.join(words)}` did not end in {timeout:g} s"
        return "" if code == 0 else f"its check `{' '.join(words)}` exited ({code})"

    async def _http_fails(self, path: str, port: int) -> str:
        try:
            async with asyncio.timeout(5.0):
                status = await http_status(self.actor, path, port)
        except (OSError, KernelError, TimeoutError) as error:
            return f"GET {path} on port {port} failed: {str(error) or 'no answer in 5 s'}"
        return "" if 200 <= status < 400 else f"GET {path} answered {status}"


async def http_status(actor: "Actor", path: str, port: int) -> int:
    """GET a path of the env's own loopback; the status, or 0 for what is no HTTP. Raises OSError."""
    loop = asyncio.get_running_loop()
    last = OSError("unreachable")
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        sock = await born_inside(actor, family)
        with sock:
            try:
                await loop.sock_connect(sock, (address, port))
            except OSError as refused:
                last = refused
                continue
            request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: sandboxd\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(sock, request.encode())
            line = b""
            while b"\n" not in line and len(line) < STATUS_LINE_CAP:
                chunk = await loop.sock_recv(sock, 512)
                if not chunk:
                    break
                line += chunk
            words = line.split(b" ", 2)
            return int(words[1]) if len(words) > 1 and line.startswith(b"HTTP/") and words[1][:3].isdigit() else 0
    raise last
