"""Which process of an env takes which steps, and when: while it is parked, or once its plan is there.

Pure. The stager builds the view. Pid 1 lays walls upon itself. Those that depend on nothing of the env are laid `ahead`, while
nobody waits: a filter of system calls alone takes the kernel 0.1 ms. A child that is parked fits a plan whose profile, base and
`ahead` are its own. Walls that need the whole view are laid, and proven, once that stands. Of the base pid 1 sets up the
network, which is a third of it and needs no view, at the same time as the stager does the rest.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sandboxd.isolation.steps import Affinity, AnyStep, Capabilities, Listen, Loopback, Phase, Prove, Seccomp, Step, Way

IN_VIEW = ("mount", "proc", "landlock")  # walls that hold, or are raised, only once the view is whole


class Parts(NamedTuple):
    """The steps of a plan. view: the stager's. Then pid 1's: ahead of any plan, with it, and within the whole view."""

    view: list[AnyStep]
    ahead: list[AnyStep]
    own: list[AnyStep]
    confined: list[AnyStep]


def parts(steps: Sequence[AnyStep], *, parked: bool) -> Parts:
    """Who takes which of an env's own steps. parked: behind namespaces, which a child can be in before there is a plan.

    Limits come after the filter where that is laid ahead: to lower them takes no privilege, and the filter allows it. But it
    may keep pid 1 from choosing its CPUs, so these come first.
    """
    view = [step for step in steps if step.phase < Phase.PRIVILEGES]
    own = [step for step in steps if Phase.PRIVILEGES <= step.phase <= Phase.SECCOMP]
    confined: list[AnyStep] = []
    for step in steps[len(view) + len(own) :]:
        if isinstance(step, Prove):
            own.append(Prove([wall for wall in step.walls if wall not in IN_VIEW]))
            confined.append(Prove([wall for wall in step.walls if wall in IN_VIEW]))
        else:
            confined.append(step)
    if not parked or any(isinstance(step, Affinity) for step in own):
        return Parts(view, [], own, confined)
    ahead: list[AnyStep] = [step for step in own if isinstance(step, Listen | Capabilities | Seccomp | Prove)]
    return Parts(view, ahead, [step for step in own if step not in ahead], confined)


def halves(base: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """The stager's part of the base, and pid 1's."""
    network: list[Step] = [step for step in base if isinstance(step, Loopback | Way)]
    return [step for step in base if step not in network], network
