"""Counts of several workers: sandboxd.routing.sums."""

from sandboxd.routing.orders import Counts, Traffic
from sandboxd.routing.sums import Sums


def traffic(*, open: int = 0, requests: int = 0, tunnels: int = 0) -> Traffic:
    """One worker's counts of an env."""
    return Traffic(open=open, requests=requests, tunnels=tunnels, bytes_in=requests * 10, bytes_out=requests * 100)


def test_the_sum_of_what_each_said_last() -> None:
    sums = Sums()
    assert sums.add(0, Counts(envs={"a": traffic(open=1, requests=5)}, pages={404: 1})).envs["a"].requests == 5
    found = sums.add(1, Counts(envs={"a": traffic(open=2, requests=7, tunnels=1)}, pages={404: 2, 503: 1}))
    assert (found.envs["a"].open, found.envs["a"].requests, found.envs["a"].tunnels) == (3, 12, 1)
    assert (found.envs["a"].bytes_in, found.envs["a"].bytes_out) == (120, 1200)
    assert found.pages == {404: 3, 503: 1}
    assert sums.add(1, Counts(envs={"a": traffic(requests=8)})).envs["a"].requests == 13


def test_what_a_dead_worker_counted_stays_and_what_it_held_goes() -> None:
    sums = Sums()
    sums.add(0, Counts(envs={"a": traffic(open=3, requests=5, tunnels=2)}, pages={404: 1}))
    sums.add(1, Counts(envs={"a": traffic(open=1, requests=1)}))
    found = sums.end(0)
    assert (found.envs["a"].open, found.envs["a"].requests, found.envs["a"].tunnels) == (1, 6, 0)
    assert found.pages == {404: 1}
    # Its successor begins at nothing.
    assert sums.add(0, Counts(envs={"a": traffic(open=1, requests=1)}, pages={404: 1})).envs["a"].requests == 7
    assert sums.end(0).pages == {404: 2}


def test_who_waits_goes_with_its_worker_and_who_waited_in_vain_did() -> None:
    sums = Sums()
    one = Traffic(open=1, requests=5, bytes_in=0, bytes_out=0, queued=3, refused=2)
    sums.add(0, Counts(envs={"a": one}))
    found = sums.add(1, Counts(envs={"a": one})).envs["a"]
    assert (found.queued, found.refused) == (6, 4)
    found = sums.end(0).envs["a"]
    assert (found.queued, found.refused) == (3, 4)


def test_envs_that_are_gone_are_forgotten() -> None:
    sums = Sums()
    sums.add(0, Counts(envs={"a": traffic(requests=5), "b": traffic(requests=1)}))
    sums.keep({"b"})
    assert sums.end(0).envs.keys() == {"b"}
    assert sums.add(1, Counts(envs={"a": traffic(requests=1)})).envs["a"].requests == 1
