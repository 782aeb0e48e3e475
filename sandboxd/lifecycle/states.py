"""The words of an env's life: states, what is wanted of it, the states of its services. Names only; imports nothing of ours."""

from enum import StrEnum


class State(StrEnum):
    """Where an env is. Actual state; what is wanted of it is kept apart."""

    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    REMOVED = "removed"


class Wanted(StrEnum):
    """What the user last asked for."""

    RUNNING = "running"
    STOPPED = "stopped"
    REMOVED = "removed"


class ServiceState(StrEnum):
    """Where one service of an env is. WAITING: for its dependencies, or for the delay before a restart."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    EXITED = "exited"
    FAILED = "failed"


ALIVE = frozenset({State.STARTING, State.READY, State.SUSPENDED, State.STOPPING})
ENDED = frozenset({State.STOPPED, State.FAILED, State.REMOVED})
UP = frozenset({ServiceState.STARTING, ServiceState.RUNNING, ServiceState.READY})
OVER = frozenset({ServiceState.EXITED, ServiceState.FAILED})
