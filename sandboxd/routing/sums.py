"""The counts of several workers as those of one router.

Pure. What only grows (requests, bytes, refusals, pages) is kept of a worker that ended; what is true of now (open, busy,
tunnels, queued) goes with it. Invariant: no total ever falls but those of now.
"""

from collections import Counter

import msgspec

from sandboxd.routing.orders import Counts, Traffic

NONE = Traffic(open=0, requests=0, bytes_in=0, bytes_out=0)


class Sums:
    """By worker: what it reported last; by env: what those that ended had counted."""

    def __init__(self) -> None:
        self._live: dict[int, dict[str, Traffic]] = {}
        self._pages: dict[int, dict[int, int]] = {}
        self._past: dict[str, Traffic] = {}
        self._past_pages: Counter[int] = Counter()

    def add(self, worker: int, counts: Counts) -> Counts:
        """Take a worker's report; returns what the router as a whole has to say of the same envs."""
        self._live.setdefault(worker, {}).update(counts.envs)
        self._pages[worker] = counts.pages or self._pages.get(worker, {})
        return self._of(list(counts.envs))

    def end(self, worker: int) -> Counts:
        """A worker ended; returns what changed by that."""
        envs = self._live.pop(worker, {})
        for env_id, traffic in envs.items():
            lasting = msgspec.structs.replace(traffic, open=0, busy=0, tunnels=0, tunnelled=0, queued=0, out_open=0)
            self._past[env_id] = total([self._past.get(env_id, NONE), lasting])
        self._past_pages.update(self._pages.pop(worker, {}))
        return self._of(list(envs))

    def keep(self, env_ids: set[str]) -> None:
        """Forget all other envs."""
        for of in (self._past, *self._live.values()):
            for env_id in [env_id for env_id in of if env_id not in env_ids]:
                del of[env_id]

    def forget(self, env_ids: list[str]) -> None:
        """They are no more."""
        for of in (self._past, *self._live.values()):
            for env_id in env_ids:
                of.pop(env_id, None)

    def _of(self, env_ids: list[str]) -> Counts:
        pages = self._past_pages.copy()
        for of in self._pages.values():
            pages.update(of)
        envs = {env_id: total([of[env_id] for of in (self._past, *self._live.values()) if env_id in of]) for env_id in env_ids}
        return Counts(envs=envs, pages=dict(pages))


def total(parts: list[Traffic]) -> Traffic:
    """Their sum."""
    return Traffic(**{field: sum(getattr(part, field) for part in parts) for field in Traffic.__struct_fields__})
