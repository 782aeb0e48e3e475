"""Which service comes before which: dependency order for starting, its reverse for stopping. Pure."""

from collections.abc import Mapping

from sandboxd.lifecycle.records import ServiceRecord
from sandboxd.lifecycle.states import OVER, UP, ServiceState
from sandboxd.spec import Service


def is_satisfied(record: ServiceRecord) -> bool:
    """What depends on this service may start: it is ready, or it was a job that ended well."""
    return record.state is ServiceState.READY or (record.state is ServiceState.EXITED and record.exit_code == 0)


def is_hopeless(record: ServiceRecord) -> bool:
    """What depends on this service never can start: it ended, and not well."""
    return record.state in OVER and not is_satisfied(record)


def startable(specs: Mapping[str, Service], records: Mapping[str, ServiceRecord]) -> list[str]:
    """The waiting services whose dependencies all hold, in the order of the spec."""
    return [
        name
        for name, record in records.items()
        if record.state is ServiceState.WAITING
        and not record.failures
        and all(is_satisfied(records[needed]) for needed in specs[name].depends_on)
    ]


def blocked_by(specs: Mapping[str, Service], records: Mapping[str, ServiceRecord]) -> tuple[str, str] | None:
    """A service that waits for one which ended badly, as (waiting, ended); None if there is none."""
    for name, record in records.items():
        if record.state is ServiceState.WAITING:
            for needed in specs[name].depends_on:
                if is_hopeless(records[needed]):
                    return name, needed
    return None


def stoppable(specs: Mapping[str, Service], records: Mapping[str, ServiceRecord]) -> list[str]:
    """The services that are up and on which no other one that is up depends: they are told to stop first."""
    up = [name for name, record in records.items() if record.state in UP]
    return [name for name in up if not any(name in specs[other].depends_on for other in up)]
