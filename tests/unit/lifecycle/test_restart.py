"""docker's restart policies."""

import pytest

from sandboxd.lifecycle.restart import delay, failures_after, parse_policy, wants_restart


@pytest.mark.parametrize(
    ("policy", "code", "failures", "again"),
    [
        ("no", 1, 0, False),
        ("always", 0, 99, True),
        ("unless-stopped", 0, 0, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 99, True),
        ("on-failure:3", 1, 2, True),
        ("on-failure:3", 1, 3, False),
    ],
)
def test_policies(policy, code, failures, again):
    assert wants_restart(parse_policy(policy), code, failures) is again


def test_the_delay_doubles_up_to_a_minute():
    assert [delay(n) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert delay(10) == delay(10_000) == 60.0


def test_ten_seconds_up_forgive_earlier_failures():
    assert failures_after(5, 10.0) == 1
    assert failures_after(5, 9.9) == 6
