"""What all envs come to together: who has which name, how many live and start, what their memory limits add up to. Pure.

Kept up as each env changes, so that one more env costs the same whether there are ten or a thousand: whoever asked for a walk
over all of them at each start made the last of many pay for the first. Invariant: what it says is what such a walk would.
"""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, State

STARTING_FOR = 10.0  # seconds for which an env that is not ready counts as one that starts


class Part(NamedTuple):
    """What one env adds."""

    alive: bool = False
    memory: int = 0


class Roll:
    """Every env, as it was noted last."""

    def __init__(self) -> None:
        self.alive = 0
        self.memory = 0  # bytes that the limits of those that live add up to
        self.coming: set[str] = set()  # queued or starting
        self._ids: dict[tuple[int, str], str] = {}
        self._names: Counter[str] = Counter()
        self._parts: dict[str, Part] = {}
        self._starting: dict[str, float | None] = {}  # since when; None: it is only admitted
        self._admitted: set[str] = set()

    @property
    def names(self) -> Collection[str]:
        """The names of all envs, of whoever they are."""
        return self._names

    @property
    def admitted(self) -> Collection[str]:
        """Those that are queued and about to start, by id."""
        return self._admitted

    def id_of(self, owner: int, name: str) -> str | None:
        """Of this owner's env with that name."""
        return self._ids.get((owner, name))

    def note(self, record: EnvRecord) -> None:
        """An env is new, or has changed."""
        if record.id not in self._parts:
            self._ids[record.owner, record.name] = record.id
            self._names[record.name] += 1
        if record.state is not State.QUEUED:
            self._admitted.discard(record.id)
        self._count(record)

    def admit(self, record: EnvRecord) -> None:
        """One that is queued is to start now."""
        self._admitted.add(record.id)
        self._count(record)

    def forget(self, record: EnvRecord) -> None:
        """It is removed."""
        if self._parts.get(record.id) is None:
            return
        self._admitted.discard(record.id)
        self._put(record.id, Part())
        del self._parts[record.id]
        self._starting.pop(record.id, None)
        self.coming.discard(record.id)
        if self._ids.get((record.owner, record.name)) == record.id:
            del self._ids[record.owner, record.name]
        self._names[record.name] -= 1
        if not self._names[record.name]:
            del self._names[record.name]

    def starting(self, now: float) -> int:
        """How many start; what is not ready after a while costs no more than what is."""
        for env_id in [one for one, since in self._starting.items() if since is not None and now - since >= STARTING_FOR]:
            del self._starting[env_id]
        return len(self._starting)

    def _count(self, record: EnvRecord) -> None:
        env_id, state = record.id, record.state
        is_admitted = env_id in self._admitted
        is_alive = state in ALIVE or is_admitted
        self._put(env_id, Part(is_alive, (record.limits.memory or 0) if is_alive else 0))
        if state is State.STARTING or is_admitted:
            self._starting[env_id] = record.started
        else:
            self._starting.pop(env_id, None)
        if state in (State.QUEUED, State.STARTING):
            self.coming.add(env_id)
        else:
            self.coming.discard(env_id)

    def _put(self, env_id: str, part: Part) -> None:
        before = self._parts.get(env_id, Part())
        self._parts[env_id] = part
        self.alive += part.alive - before.alive
        self.memory += part.memory - before.memory
