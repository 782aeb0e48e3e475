"""Which steps are taken before there is a plan (sandboxd.isolation.parking): none that depends on the env."""

from sandboxd.isolation.parking import parts
from sandboxd.isolation.steps import Affinity, AnyStep, Capabilities, Hostname, Landlock, Prove, Rlimits, Seccomp

LIMITS = Rlimits([("CORE", 0, 0)])
FILTER = Seccomp("program", False)
WALLS = ["user", "mount", "proc", "landlock", "seccomp"]


def steps_of(*first: AnyStep) -> list[AnyStep]:
    """Steps as a plan has them, with these among pid 1's own."""
    return [Hostname("shop"), *first, Capabilities(), FILTER, Landlock(0), Prove(WALLS)]


def test_walls_that_know_nothing_of_the_env_are_laid_ahead() -> None:
    found = parts(steps_of(LIMITS), parked=True)
    assert found.view == [Hostname("shop")]
    assert found.ahead == [Capabilities(), FILTER, Prove(["user", "seccomp"])]
    assert found.own == [LIMITS]
    assert found.confined == [Landlock(0), Prove(["mount", "proc", "landlock"])]


def test_two_envs_of_other_limits_share_what_is_laid_ahead() -> None:
    assert parts(steps_of(LIMITS), parked=True).ahead == parts(steps_of(Rlimits([("NPROC", 1, 1)])), parked=True).ahead


def test_cpus_are_chosen_before_the_filter_that_forbids_it() -> None:
    found = parts(steps_of(LIMITS, Affinity([0])), parked=True)
    assert found.ahead == []
    assert found.own == [LIMITS, Affinity([0]), Capabilities(), FILTER, Prove(["user", "seccomp"])]


def test_without_a_view_of_its_own_nothing_is_parked() -> None:
    found = parts(steps_of(LIMITS)[1:], parked=False)
    assert found.ahead == []
    assert found.own == [LIMITS, Capabilities(), FILTER, Prove(["user", "seccomp"])]
