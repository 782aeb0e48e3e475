"""One turn of the machine: the record as it becomes, and the effects as they gather. Pure; lives for one `step`."""

from msgspec.structs import replace

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.order import startable
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.states import UP, ServiceState, State


class Turn:
    """The record under change and what is to be done, in order."""

    __slots__ = ("effects", "now", "record")

    def __init__(self, record: EnvRecord, now: float) -> None:
        self.record = record
        self.now = now
        self.effects: list[ev.Effect] = []

    def set(self, **changes: object) -> None:
        """Change fields of the record."""
        self.record = replace(self.record, **changes)

    def do(self, *effects: ev.Effect) -> None:
        """Add effects."""
        self.effects.extend(effects)

    def service(self, name: str, **changes: object) -> ServiceRecord:
        """Change fields of one service; its state may be given by its word."""
        state = changes.get("state")
        if isinstance(state, str):
            changes["state"] = ServiceState(state)
        changed = replace(self.record.services[name], **changes)
        self.record = replace(self.record, services={**self.record.services, name: changed})
        return changed

    def is_news(self, name: str, pid: int) -> bool:
        """Whether that end was not told before. It may come before its own start was: both travel on one socket, but the
        start can be the answer to a call, which is read by another task."""
        service = self.record.services[name]
        return service.state in UP and (service.pid == pid if service.pid is not None else service.ended != pid)

    def note_exit(self, name: str, pid: int, exit_code: int) -> None:
        """A service's main process has ended."""
        self.service(name, state=ServiceState.EXITED, exit_code=exit_code, pid=None, ended=pid, unready="")

    def mark_startable(self) -> list[str]:
        """The services whose turn it is, marked as starting."""
        names = startable(self.record.spec.services, self.record.services)
        for name in names:
            self.service(name, state=ServiceState.STARTING)
        return names

    def up(self) -> list[str]:
        """The names of the services that have a process, or are about to."""
        return [name for name, service in self.record.services.items() if service.state in UP]


def fresh_services(record: EnvRecord) -> dict[str, ServiceRecord]:
    """Every service as before its first start; declared ports are known, found ones are found anew."""
    return {name: ServiceRecord(name=name, port=spec.port) for name, spec in record.spec.services.items()}


def time_left(turn: Turn) -> float | None:
    """Seconds of its time to live; None: it lives as long as it likes."""
    record = turn.record
    ttl = record.spec.lifecycle.ttl
    if ttl is None or record.started is None or (record.template and not record.key):  # nobody lives in it as yet
        return None
    return max(record.started, record.claimed or 0.0) + ttl - turn.now


def ttl_over(record: EnvRecord) -> str:
    """In words."""
    return f"its time to live of {record.spec.lifecycle.ttl or 0.0:g} s is over"


def start_next(turn: Turn) -> None:
    """Start what may start now; in a suspended env nothing may."""
    if turn.record.state is State.SUSPENDED:
        return
    for name in turn.mark_startable():
        turn.do(ev.StartService(service=name))
