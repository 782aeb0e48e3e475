"""A parked child as the daemon sees it: namespaces and base view made, no plan yet.

Asyncio by callbacks. It is killed through its pidfd unless it was released, and dies by itself when its socket closes.
"""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sandboxd.errors import LaunchFailed, WallUnavailable
from sandboxd.isolation.parking import halves, parts
from sandboxd.isolation.plan import LaunchPlan, Profile
from sandboxd.isolation.steps import Step
from sandboxd.kernel import fds, pidfd
from sandboxd.launch.initevents import InitStatus
from sandboxd.launch.line import Line, Message

HINT_UNPROVEN = "the launcher may be of another version: `sandbox daemon stop`, and it is started anew"
WALL_HINT = "`sandbox doctor` tells what this host offers; --isolation asks for less by name"
Shape = tuple[Profile, bytes, bytes]  # with the JSON of the base and of what pid 1 does ahead
Load = tuple[bytes, list[int]]


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """An env's pid 1. pidfd: the receiver's to close, as is diag, which sees what listens inside (-1: there is none).

    start_time: clock ticks. netns_cookie: read before its plan came. walls: those that were proven from inside, after they
    were raised. status: of its services; None: init's greeting tells. group: the path of its control group, "" where there are
    none; the receiver's to remove. shape: of the child that it was made from.
    """

    pid: int
    pidfd: int
    start_time: int
    boot_id: str
    netns_cookie: int
    walls: frozenset[str]
    status: InitStatus | None = None
    group: str = ""
    diag: int = -1
    shape: Shape | None = None


class Parked:
    """One child: pid 1 and the stager. is_ready: both have done what can be done ahead. on_change: it became ready, `failed`,
    or died parked."""

    def __init__(self, *, socks: list[int], process: int, pid: int, shape: Shape) -> None:
        self.pid = pid
        self.process = process
        self.shape = shape
        self.netns_cookie = 0
        self.diag = -1  # a socket of its network that sees what listens there
        self.waiting_for = 2 if shape[0].namespaces else 1
        self.failed: Message | None = None
        self.on_change: Callable[[Parked], None] | None = None
        self.group = ""  # the path of its control group
        self.leave_group: Callable[[str], None] = lambda _: None
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Message] = loop.create_future()
        self.init = Line(loop, socket.socket(fileno=socks[0]), self.heard, self.ended)
        self.stager = Line(loop, socket.socket(fileno=socks[1]), self.heard, lambda: None)

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left to be done ahead."""
        return self.waiting_for <= 0

    def heard(self, message: Message) -> None:
        """A frame of the child's."""
        if "netns_cookie" in message:
            self.netns_cookie = int(message["netns_cookie"])
            received = self.init.received or self.stager.received  # of pid 1, or of the stagehand
            if self.diag < 0 and received:
                self.diag = received.pop(0)
        if message.get("parked") is True:
            self.pid = int(message.get("pid", self.pid))  # without a pid namespace: below a guard, whose end is the env's
            self.waiting_for -= 1
        elif "netns_cookie" in message:
            return
        elif not self.answer.done():
            self.answer.set_result(message)
            self.failed = message if "failed" in message else None
        if self.on_change is not None:
            self.on_change(self)

    def ended(self) -> None:
        """Pid 1's end closed without an answer: it died, or left the stager to say why."""
        if self.stager.is_open:
            self.stager.readable()
        if not self.answer.done():
            self.heard({"failed": "child", "index": -1, "errno": 0, "message": "the child died", "hint": "see launcher.log"})

    def begin(self, staged: Load) -> None:
        """Send the stager its half of the plan."""
        self.stager.send(*staged)

    async def launch(self, init: Load) -> Message:
        """Send pid 1 the other half; the answer to it. Nothing of the env runs before."""
        self.init.send(*init)
        answer = await self.answer
        os.sched_yield()  # the kernel may have woken us on the core of the program that we hear of: that one goes first
        if not self.netns_cookie and self.stager.is_open:
            self.stager.readable()  # where that told of the network, it did so before pid 1 could be launched
        return answer

    def release(self) -> int:
        """It is an env now: its pidfd, which is the caller's."""
        process, self.process = self.process, -1
        self.close()
        return process

    def give_diag(self) -> int:
        """Its diag socket, which is the caller's from then on; -1: there is none."""
        diag, self.diag = self.diag, -1
        return diag

    def kill(self) -> None:
        """End it, unless it was released."""
        if self.process >= 0:
            pidfd.send_signal(self.process, signal.SIGKILL if self.shape[0].namespaces else signal.SIGTERM)
            os.close(self.process)
            self.process = -1
            self.leave_group(self.group)
        self.close()

    def close(self) -> None:
        """Hear no more of it."""
        self.on_change = None
        diag = self.give_diag()
        if diag >= 0:
            os.close(diag)
        self.init.close()
        self.stager.close()
        if not self.answer.done():
            self.answer.cancel()


# Bases that were taken apart, as plans share them: one that is held here keeps its id.
_bases: dict[int, tuple[Sequence[Step], bytes, list[Step]]] = {}
MOST_BASES = 32


def shape_of(profile: Profile, base: Sequence[Step], ahead: Sequence[Step]) -> Shape:
    """What a parked child is good for."""
    found = _bases.get(id(base))
    if found is None:
        view, network = halves(base)
        if len(_bases) >= MOST_BASES:
            _bases.clear()
        found = _bases[id(base)] = base, msgspec.json.encode(view), network
    return profile, found[1], msgspec.json.encode((found[2], ahead))


def shape_for(plan: LaunchPlan) -> Shape:
    """What a child has to be good for that takes this plan."""
    return shape_of(plan.profile, plan.base, parts(plan.steps, parked=plan.profile.namespaces).ahead)


def missing(parked: Iterable[Parked], targets: Mapping[Shape, int]) -> Shape | None:
    """Of what shape the next one is to be made; None: enough are there."""
    there = Counter(child.shape for child in parked)
    return next((shape for shape, count in targets.items() if there[shape] < count), None)


def surplus(parked: Iterable[Parked], targets: Mapping[Shape, int]) -> list[Parked]:
    """Those beyond what is to be there, the newest of them."""
    there: Counter[Shape] = Counter()
    found = []
    for child in parked:
        there[child.shape] += 1
        if there[child.shape] > targets.get(child.shape, 0):
            found.append(child)
    return found


def failure_of(what: str, described: list[str], answer: Message) -> LaunchFailed | WallUnavailable:
    """The child's failure as an error: which wall does not hold, or which step could not be done, and what the kernel said."""
    if "wall" in answer:
        wall, reason = str(answer["wall"]), str(answer.get("reason"))
        return WallUnavailable(
            f"{what} was not started: its {wall} wall was raised and does not hold: {reason}",
            hint=WALL_HINT, wall=wall, reason=reason,
        )  # fmt: skip
    index = int(answer.get("index", -1))
    step = described[index] if 0 <= index < len(described) else str(answer.get("failed"))
    return LaunchFailed(
        f"cannot {step} for {what}: {answer.get('message')}"
        if index >= 0
        else f"cannot launch {what}: {answer.get('message')}",
        hint=str(answer.get("hint") or ""),
        step=step,
        errno=int(answer.get("errno") or 0),
    )


def gone() -> LaunchFailed:
    """The launcher is not there."""
    return LaunchFailed("the launcher has ended", hint="its log (launcher.log) may say why", step="launcher", errno=0)


def unreceived() -> LaunchFailed:
    """A child was made, and this process has no descriptors left to hold it by."""
    error = fds.CutOff().in_words()
    return LaunchFailed(f"no env can be started now: {error}", hint=error.hint, step="descriptors", errno=error.errno)


def demand(plan: LaunchPlan, proven: frozenset[str]) -> None:
    """Raise WallUnavailable for a demanded wall of which the child did not say that it holds."""
    for wall, info in plan.walls.items():
        if info.demanded and wall not in proven:
            raise WallUnavailable(
                f"the {wall} wall of env {plan.name} was not proven", hint=HINT_UNPROVEN, wall=wall, reason="not proven"
            )
