"""Who may have a connection to an env that bounds them, and who waits for one, in the order in which they came.

Pure. The router's master asks it for all workers, so that the bound holds exactly however many there are, and the queue is one.
A claim is one connection of one worker, from before it is made until it is closed. Invariants: no env has more claims granted
than its bound; nobody is granted one while somebody waits who came before; a worker that ended claims nothing.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Claim(NamedTuple):
    """number: the worker's own, never used twice by it."""

    worker: int
    number: int


class Answer(NamedTuple):
    """What becomes of a claim; not granted: the queue is full."""

    claim: Claim
    granted: bool


class Standing(NamedTuple):
    """All that is known, for another program: bounds, and by env the claims that have a connection, and those that wait."""

    bounds: dict[str, int]
    lines: dict[str, tuple[list[Claim], list[Claim]]]


class Line:
    """Of one env: who has a connection, and who waits, the first first."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held: set[Claim] = set()
        self.waiting: dict[Claim, None] = {}


class Turns:
    """All envs' lines. An env without a bound, or with 0, has as many as are asked for."""

    def __init__(self, longest: int) -> None:
        """`longest`: how many may wait for one env."""
        self._longest = longest
        self._bounds: dict[str, int] = {}
        self._lines: dict[str, Line] = {}

    def replace(self, bounds: Mapping[str, int]) -> list[Answer]:
        """These are all bounds that there are."""
        self._bounds = {env_id: most for env_id, most in bounds.items() if most}
        return self._advance(list(self._lines))

    def change(self, bounds: Mapping[str, int], gone: Iterable[str] = ()) -> list[Answer]:
        """These are others now, and those envs are no more."""
        self._bounds.update(bounds)
        for env_id in [*gone, *(env_id for env_id, most in bounds.items() if not most)]:
            self._bounds.pop(env_id, None)
        return self._advance([*bounds, *gone])

    def seek(self, env_id: str, claim: Claim) -> list[Answer]:
        """Somebody wants a connection."""
        line = self._lines.setdefault(env_id, Line())
        if line.waiting and len(line.waiting) >= self._longest:
            return [Answer(claim, granted=False)]
        line.waiting[claim] = None
        answers = self._advance([env_id])
        if not answers and len(line.waiting) > self._longest:  # none may wait at all
            del line.waiting[claim]
            return [Answer(claim, granted=False)]
        return answers

    def leave(self, env_id: str, claim: Claim) -> list[Answer]:
        """Its connection is closed, or no longer waited for."""
        line = self._lines.get(env_id)
        if line is None:
            return []
        line.held.discard(claim)
        line.waiting.pop(claim, None)
        return self._advance([env_id])

    def end(self, worker: int) -> list[Answer]:
        """A worker ended, and all it had with it."""
        for line in self._lines.values():
            line.held = {claim for claim in line.held if claim.worker != worker}
            line.waiting = {claim: None for claim in line.waiting if claim.worker != worker}
        return self._advance(list(self._lines))

    def standing(self) -> Standing:
        """As it is now."""
        return Standing(self._bounds, {env_id: (list(line.held), list(line.waiting)) for env_id, line in self._lines.items()})

    def take_up(self, standing: Standing, workers: Mapping[int, int]) -> None:
        """Go on from there. workers: the numbers that they have now, by those that they had."""
        self._bounds = dict(standing.bounds)
        for env_id, (held, waiting) in standing.lines.items():
            line = self._lines[env_id] = Line()
            line.held = {Claim(workers[claim.worker], claim.number) for claim in held}
            line.waiting = {Claim(workers[claim.worker], claim.number): None for claim in waiting}

    def _advance(self, env_ids: Iterable[str]) -> list[Answer]:
        answers = []
        for env_id in env_ids:
            line = self._lines.get(env_id)
            if line is None:
                continue
            most = self._bounds.get(env_id, 0)
            while line.waiting and (not most or len(line.held) < most):
                claim = next(iter(line.waiting))
                del line.waiting[claim]
                line.held.add(claim)
                answers.append(Answer(claim, granted=True))
            if not line.held and not line.waiting:
                del self._lines[env_id]
        return answers
