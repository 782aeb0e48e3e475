"""Who did what, on what, and how it ended: a line in the audit log for each call that changes something or looks at another's.

The user is who connected (SO_PEERCRED), not whose env it is: root and admins reach those of others. What lasts (an attached
run, a session) has a line when it begins, too, so that a daemon that dies leaves who had begun it.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from sandboxd.daemon.connection import Call, ClientGone, Handler
from sandboxd.errors import PermissionDenied, SandboxdError
from sandboxd.lifecycle.view import rfc3339
from sandboxd.protocol import messages as m
from sandboxd.store.audit import AuditLog

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

FILE = "audit.jsonl"
USUAL = 10 << 20  # bytes, where many are served
# What changes nothing; Config and Net do where they are told to.
LOOKS = frozenset(
    {"List", "Inspect", "Logs", "Wait", "Events", "Why", "Stats", "Status", "Metrics", "Templates", "Audit", "Net"}
)
WITHIN = frozenset({"SessionInput", "SessionResize"})  # of a session, which has its lines
LASTS = frozenset({"Run", "Exec", "Attach"})


class Auditing:
    """The log, and handlers that write it."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        settings = supervisor.settings
        limit = settings.audit_limit if settings.audit_limit is not None else USUAL if settings.shared else 0
        self.log = AuditLog(settings.state_dir / FILE, limit)

    def of(self, handlers: dict[str, Handler]) -> dict[str, Handler]:
        """The handlers, each writing down what it does; as they are where nothing is kept."""
        if not self.log.limit:
            return handlers
        return {name: handler if name in WITHIN else self.audited(name, handler) for name, handler in handlers.items()}

    def audited(self, name: str, handler: Handler) -> Handler:
        """One of them."""

        async def answer(call: Call) -> m.Reply | None:
            line, is_look = self.begun(name, call)
            if is_look:
                try:
                    return await handler(call)
                except PermissionDenied as error:  # to have tried is to have done something
                    self.write(line | {"reason": error.message}, error.code)
                    raise
            before = time.monotonic()
            if name in LASTS:
                self.write(line, "begun")
            outcome = "failed"
            try:
                reply = await handler(call)
                outcome = "ok"
                line.update(made(reply))
                return reply
            except (ClientGone, asyncio.CancelledError):
                outcome = "left"  # its client did; what was asked for goes on
                raise
            except SandboxdError as error:
                outcome, line["reason"] = error.code, error.message
                raise
            finally:
                self.write(line | {"seconds": round(time.monotonic() - before, 3)}, outcome)

        return answer

    def begun(self, name: str, call: Call) -> tuple[dict[str, Any], bool]:
        """What is known before it is done; and whether it changes nothing and is at one's own."""
        params, peer = call.params, call.peer
        env_id, env_name, owner = "", named(params), None
        target = getattr(params, "target", None)
        if target is not None:
            try:
                record = self.supervisor.find(peer.sees, target, getattr(params, "directory", None)).record
                env_id, env_name, owner = record.id, record.name, record.owner
            except SandboxdError:
                owner = None
        changes = bool(getattr(params, "reload" if name == "Config" else "allow", False))
        is_look = (name in LOOKS or name == "Config") and not changes and owner in (None, peer.uid)
        line: dict[str, Any] = {
            "time": rfc3339(time.time()),
            "uid": peer.uid,
            "user": self.supervisor.admission.quotas.person(peer.uid).name,
            "pid": peer.pid,
        }
        line |= {"method": name, "id": env_id, "name": env_name}
        return line if owner is None else line | {"owner": owner}, is_look

    def write(self, line: dict[str, Any], outcome: str) -> None:
        """Append it."""
        self.log.add(msgspec.json.encode(line | {"outcome": outcome}))

    async def show(self, call: Call) -> m.AuditReply:
        """The newest lines."""
        params = call.params
        assert isinstance(params, m.Audit)
        lines = await asyncio.to_thread(self.log.last, params.tail)
        return m.AuditReply(file=str(self.log.path) if self.log.limit else "", entries=[*map(entry, lines)])


def entry(line: bytes) -> m.AuditEntry:
    """A line as it is told; one that was cut short says so."""
    try:
        return msgspec.json.decode(line, type=m.AuditEntry)
    except msgspec.DecodeError:
        return m.AuditEntry(time="", uid=-1, user="", pid=0, method="?", outcome="unreadable")


def named(params: Any) -> str:
    """What a request that names no env is about."""
    spec = getattr(params, "spec", None)
    found = getattr(params, "target", None) or (spec.name if spec is not None else None)
    found = found or getattr(params, "template", None) or getattr(params, "name", None) or getattr(params, "session", None)
    return str(found)[:128] if found else ""


def made(reply: Any) -> dict[str, str]:
    """Which env came of it."""
    env = getattr(reply, "env", None)
    return {"id": env.id, "name": env.name} if env is not None else {}
