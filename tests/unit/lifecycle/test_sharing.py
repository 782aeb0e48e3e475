"""Several users' envs in one daemon: names that cannot meet, and what is not for sharing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import Ambiguous, NotOffered, PermissionDenied
from sandboxd.lifecycle.names import find
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.sharing import LABEL, Owner, check, label
from sandboxd.spec import EnvSpec, Isolation, Network, Publish, RouteRule, Service

ALICE = Owner(1000, 1000, "alice")
WEB = {"web": Service(command="x")}


@given(st.dictionaries(st.integers(0, 70000), st.one_of(st.text(max_size=70), st.from_regex(r"u[0-9]{1,5}", fullmatch=True))))
def test_no_two_users_have_one_label(users: dict[int, str]) -> None:
    named = {uid: label(uid, name) for uid, name in users.items()}
    taken: dict[str, str] = {}
    for uid, found in named.items():
        assert LABEL.fullmatch(found)
        assert taken.setdefault(found, users[uid]) == users[uid]  # the same only where the system itself calls both so


def test_a_name_that_is_no_label_is_a_number() -> None:
    assert [label(7, name) for name in ("ann", "a_b", "A", "a.b", "u8", "", "-", "a" * 64)] == ["ann", *["u7"] * 7]


def record(user: str, name: str, env_id: str) -> EnvRecord:
    return EnvRecord(id=env_id, name=name, owner=1, group=1, user=user, spec=EnvSpec(services=WEB), services={}, created=0.0)


def test_who_sees_all_says_whose() -> None:
    one, other, single = record("ann", "web", "1" * 32), record("bob", "web", "2" * 32), record("bob", "db", "3" * 32)
    known = [one, other, single]
    with pytest.raises(Ambiguous, match=r"2 envs: web\.ann, web\.bob"):
        find(known, "web")
    assert find(known, "web.bob") is other
    assert find(known, "db") is single
    assert find(known, one.id) is one
    assert find([one], "web") is one


REFUSED = [
    (EnvSpec(services=WEB, isolation=Isolation(level="landlock")), NotOffered),
    (EnvSpec(services=WEB, isolation=Isolation(level="none")), NotOffered),
    (EnvSpec(services=WEB, network=Network(forward=[5432])), NotOffered),
    (EnvSpec(services=WEB, network=Network(forward=["unix:/run/docker.sock"])), NotOffered),
    (EnvSpec(services=WEB, network=Network(publish=[Publish(port=80, host_port=1023)])), PermissionDenied),
    (EnvSpec(services=WEB, routes=[RouteRule(host="web.bob.localhost")]), PermissionDenied),
    (EnvSpec(services=WEB, routes=[RouteRule(host="malice.localhost")]), PermissionDenied),
]


@pytest.mark.parametrize(("spec", "error"), REFUSED)
def test_what_would_give_one_user_what_is_roots_or_anothers(spec: EnvSpec, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(spec, ALICE, "localhost")
    check(spec, Owner(1000, 1000), "localhost")  # a daemon of his own
    check(spec, Owner(0, 0, "root"), "localhost")


def test_what_is_his_own_he_may() -> None:
    spec = EnvSpec(
        services=WEB,
        network=Network(publish=[Publish(port=80, host_port=1024), Publish(port=80, address="unix:/home/alice/s")]),
        routes=[RouteRule(host="shop.alice.localhost"), RouteRule(path="/api")],
    )
    check(spec, ALICE, "localhost")
