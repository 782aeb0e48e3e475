"""Which envs have a way out, and by which rules."""

import pytest
from msgspec.structs import replace

from sandboxd.daemon.outlets import outlet
from sandboxd.lifecycle.records import EnvRecord, Identity
from sandboxd.lifecycle.states import State
from sandboxd.spec import EnvSpec, Network, Service

INIT = Identity(pid=1, start_time=1, boot_id="b", netns_cookie=7)


def record(**network: object) -> EnvRecord:
    """An env that runs."""
    spec = EnvSpec(services={"web": Service(command="x")}, network=Network(**network))  # type: ignore[arg-type]
    return EnvRecord(id="e", name="n", owner=1, group=1, spec=spec, services={}, created=0.0, init=INIT, state=State.READY)


@pytest.mark.parametrize(
    ("network", "rules"),
    [
        ({}, ["open"]),
        ({"egress": "open"}, ["open"]),
        ({"egress": ["a.example", "lan"]}, ["a.example", "lan"]),
        ({"egress": []}, []),
        ({"egress": "none"}, None),
        ({"mode": "host", "egress": "open"}, None),
        ({"mode": "none", "egress": "open"}, None),
    ],
)
def test_who_has_a_way_out(network: dict[str, object], rules: list[str] | None) -> None:
    found = outlet(record(**network), envs_dir="/envs")
    assert (found.rules if found is not None else None) == rules
    assert found is None or (found.dial, found.cookie) == ("/envs/e/dial.sock", 7)


def test_what_has_ended_has_none() -> None:
    assert outlet(replace(record(), state=State.STOPPED), envs_dir="/") is None
    assert outlet(replace(record(), init=None), envs_dir="/") is None
    assert outlet(None, envs_dir="/") is None


def test_a_host_that_cannot_give_one_gives_none() -> None:
    assert outlet(replace(record(), no_way="no nf_tables"), envs_dir="/") is None


def test_a_forward_needs_no_way_out() -> None:
    found = outlet(record(egress="none", forward=[5432, "db:1"]), envs_dir="/")
    assert found is not None
    assert (found.rules, found.forward, found.owner) == ([], ["5432", "db:1"], 1)


def test_what_was_allowed_since_is_added() -> None:
    found = outlet(replace(record(egress=["a.example"]), allowed=["b.example"]), envs_dir="/")
    assert found is not None
    assert found.rules == ["a.example", "b.example"]
