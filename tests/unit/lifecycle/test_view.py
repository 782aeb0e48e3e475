"""A record as the protocol shows it."""

import pytest

from sandboxd.errors import UsageError
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.view import env_info, health_of, matches, rfc3339
from sandboxd.spec import Limits, Network, Publish, Service
from tests.unit.lifecycle.test_machine import LAUNCHED, TWO, WEB, fresh, run, started

BASE = "localhost:7070"


def test_times_are_rfc3339_utc():
    assert rfc3339(1763872702.1234) == "2025-11-23T04:38:22.123Z"
    assert rfc3339(None) is None


def test_an_env_shows_where_it_is_reached():
    spec = {"web": Service(command="w", port=3000), "db": Service(command="d", port=5432, expose="tcp")}
    record = fresh(spec, network=Network(publish=[Publish(host_port=8080, port=3000)]))
    info = env_info(record, BASE)
    assert info.url == "http://shop.localhost:7070"
    assert [(p.service, p.port, p.url, p.address) for p in info.ports] == [
        ("web", 3000, "http://web.shop.localhost:7070", "127.0.0.1:8080"),
        ("db", 5432, None, None),
    ]
    assert info.limits["pids"] == Limits().pids
    assert info.spec is None
    assert env_info(record, BASE, whole=True).spec == record.spec


def test_no_port_no_url_until_one_is_found():
    record = fresh({"web": Service(command="w")})
    assert env_info(record, BASE).url is None
    record, _ = run(record, ev.Admitted(), LAUNCHED, started("web"), ev.PortFound(service="web", port=5173))
    assert env_info(record, BASE).url == "http://shop.localhost:7070"


def test_a_networkless_env_has_no_url():
    assert env_info(fresh(WEB, network=Network(mode="none")), BASE).url is None


def test_health_follows_readiness():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"))
    assert health_of(record) == "starting"
    assert health_of(run(record, ev.ServiceUnready(service="web", reason="r"))[0]) == "unhealthy"
    assert health_of(run(record, ev.ServiceReady(service="web"))[0]) == "healthy"
    assert health_of(run(record, ev.KillAsked(), ev.InitGone())[0]) is None


def test_a_cause_stands_before_its_reason():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, ev.KillAsked(cause="memory", reason="70 of 64 MiB"), ev.InitGone())
    assert env_info(record, BASE).reason == "memory: 70 of 64 MiB"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], True),
        (["status=queued"], True),
        (["status=ready", "status=queued"], True),
        (["status=ready"], False),
        (["label=team"], True),
        (["label=team=red"], True),
        (["label=team=blue"], False),
        (["name=sho", "label=team"], True),
        (["id=000", "name=x"], False),
    ],
)
def test_filters_of_one_key_are_or_of_several_and(filters, found):
    assert matches(fresh(TWO, labels={"team": "red"}), filters) is found


@pytest.mark.parametrize("text", ["status", "colour=red", "="])
def test_a_filter_that_cannot_be_meant_is_refused(text):
    with pytest.raises(UsageError):
        matches(fresh(WEB), [text])
