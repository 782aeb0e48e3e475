"""What a parked child is sent of a plan, and the descriptors that go along: the daemon's side of `launch.talk`.

The stager gets what it does, pid 1 what stays. Nothing here is kept: descriptors stay their owner's, trees are the caller's to
close.
"""

import os
from collections.abc import Mapping

import msgspec

from sandboxd.errors import LaunchFailed
from sandboxd.isolation.parking import Parts, halves
from sandboxd.isolation.plan import LaunchPlan
from sandboxd.isolation.steps import AnyStep
from sandboxd.kernel import fds, mounts
from sandboxd.launch.line import Message
from sandboxd.launch.parked import Load


class InitFds(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors that an env's init gets; they stay the caller's own, who may close them once `launch` is through."""

    control: int
    dial: int
    exits: int
    logs: Mapping[str, tuple[int, int]] = {}
    attach: Mapping[str, Mapping[str, int]] = {}

    def listed(self) -> list[tuple[list[str], int]]:
        """Each with the name under which the child knows it."""
        found = [(["control"], self.control), (["dial"], self.dial), (["exits"], self.exits)]
        found += [(["log", service], fd) for service, pair in self.logs.items() for fd in pair]
        found += [(["attach", service, stream], fd) for service, ends in self.attach.items() for stream, fd in ends.items()]
        return found


def stager_half(view: list[AnyStep], trees: list[int]) -> Load:
    """What the stager gets of the plan's own half, and descriptors."""
    return msgspec.json.encode({"steps": view, "fds": [["handed"]] * len(trees)}), trees


def init_half(plan: LaunchPlan, own: Parts, given: InitFds) -> Load:
    """What pid 1 gets of it, and descriptors under their names."""
    listed = given.listed()
    init = {
        "title": f"sandboxd-init: {plan.name}",
        "steps": own.own,
        "walls": own.confined,
        "config": plan.init,
        "fds": [name for name, _ in listed],
    }
    return msgspec.json.encode(init), [fd for _, fd in listed]


def described(plan: LaunchPlan, own: Parts, answer: Message) -> list[str]:
    """The steps in words, of which one failed by that answer."""
    base, network = halves(plan.base)
    lists = {"base": base, "network": network, "steps": own.view, "init": own.own, "walls": own.confined}
    return [step.describe() for step in {**own._asdict(), **lists}.get(str(answer.get("failed")), [])]


def hand_over(plan: LaunchPlan) -> list[int]:
    """Detached mounts of the daemon's own directories, for an env that runs as someone else: their owner it becomes.

    Only a daemon that is root comes here. The path is the daemon's own, not the spec's; its last name must be no link.
    """
    trees: list[int] = []
    try:
        for path in plan.handed:
            place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(place, plan.profile.uid[1], plan.profile.gid[1])
                trees.append(mounts.open_tree(place, recursive=False, subject=path))
            finally:
                os.close(place)
    except OSError as error:
        fds.close_all(trees)
        raise LaunchFailed(
            f"cannot hand over the home of env {plan.name}: {error}",
            hint="root of a container lacks CAP_SYS_ADMIN: run sandboxd as an ordinary user there, or ask for --user root",
            step="hand over",
            errno=error.errno or 0,
        ) from error
    return trees
