"""What a daemon tells an env whose init it does not find any more. Pure: what was found comes in, events go out.

Before its launch is recorded, an env without an init either never had one, and then its start is taken up again, or had one
that lived and ended unseen: only what init wrote down of the ends of services tells them apart, so each launch begins with
none. No end is told twice: one that the record knows is passed over.
"""

from collections.abc import Sequence

import msgspec

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import UP


class Ended(msgspec.Struct, frozen=True):
    """A service's last end since the env's launch, as init wrote it down."""

    service: str
    pid: int
    exit_code: int


def lost(record: EnvRecord, ends: Sequence[Ended], boot_id: str) -> list[ev.Event]:
    """An env that was alive as far as its record knows, and of which no process is left. boot_id: the kernel's, now."""
    if record.init is None and not ends:
        return [ev.LaunchDeferred()]
    found: list[ev.Event] = []
    for end in {end.service: end for end in ends}.values():
        found += told(record, end.service, end.pid, end.exit_code)
    rebooted = record.init is not None and record.init.boot_id != boot_id
    reason = "the host was restarted" if rebooted else "its init ended while no daemon ran"
    found.append(ev.InitGone(reason=reason, rebooted=rebooted))
    return found


def told(record: EnvRecord, name: str, pid: int | None, exit_code: int | None) -> list[ev.Event]:
    """What init knows of a service's newest process (none, or one that runs: exit_code None), as far as it is news.

    The pid of an end that is recorded is that of the run before, when the next one had not come to its exec.
    """
    service = record.services.get(name)
    if service is None or pid is None or service.state not in UP:
        return []
    if exit_code is not None and service.pid is None and service.ended == pid:
        return []
    started: list[ev.Event] = [ev.ServiceStarted(service=name, pid=pid)] if service.pid is None else []
    if exit_code is None or service.pid not in (None, pid):
        return started
    return [*started, ev.ServiceExited(service=name, pid=pid, exit_code=exit_code)]
