"""Records as the router's table."""

import pytest
from msgspec import structs

from sandboxd.daemon.routes import Ground, route_table
from sandboxd.lifecycle import events as ev
from sandboxd.routing.table import Routes
from sandboxd.spec import Limits, Network, Ready, Replicas, RouteRule, Service
from tests.unit.lifecycle.test_machine import INIT, LAUNCHED, TWO, WEB, exited, fresh, run, started

BORN = ev.Launched(init=structs.replace(INIT, netns_cookie=4711), walls={})
IDLE = ev.SuspendAsked(by="idle", since=90.0)


def table(*records):
    made = route_table(records, Ground("localhost", "/s/envs", 30.0), version=1)
    return made, {route.host: made.endpoints[route.endpoint] for route in made.routes}


def test_an_env_has_its_name_its_services_and_its_id():
    made, routes = table(fresh(TWO))
    assert set(routes) == {"shop.localhost", f"{'0' * 32}.localhost", "web.shop.localhost", "db.shop.localhost"}
    assert routes["shop.localhost"].service == "web"
    assert made.endpoints[0].dial == f"/s/envs/{'0' * 32}/dial.sock"


def test_what_is_not_http_is_dialled_but_has_no_name():
    services = {
        "web": WEB["web"],
        "db": Service(command="d", port=5432, expose="tcp"),
        "x": Service(command="x", expose="none"),
    }
    made, routes = table(fresh(services))
    assert [endpoint.service for endpoint in made.endpoints] == ["web", "db"]
    assert "db.shop.localhost" not in routes


def test_no_network_no_route():
    assert table(fresh(WEB, network=Network(mode="none")))[0].endpoints == []


def test_a_bound_on_connections_is_that_of_the_limits_in_force():
    record = fresh(TWO, limits=Limits(max_connections=5))
    assert {endpoint.max_connections for endpoint in table(record)[0].endpoints} == {5}
    changed = structs.replace(record, overrides={"max_connections": 7})
    assert {endpoint.max_connections for endpoint in table(changed)[0].endpoints} == {7}
    assert {endpoint.max_connections for endpoint in table(fresh(TWO))[0].endpoints} == {0}


def test_the_hosts_network_is_dialled_from_the_host():
    record, _ = run(fresh(WEB, network=Network(mode="host")), ev.Admitted(), LAUNCHED)
    made, _ = table(record)
    assert (made.endpoints[0].dial, made.endpoints[0].init_pid) == ("", 77)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "starting"),
        ([LAUNCHED, started("web")], "starting"),
        ([LAUNCHED, started("web"), ev.ServiceReady(service="web")], "ready"),
        ([LAUNCHED, started("web"), ev.StopAsked()], "stopped"),
        ([LAUNCHED, started("web"), ev.SuspendAsked()], "asleep"),
        ([LAUNCHED, started("web"), ev.SuspendAsked(by="idle")], "asleep"),
        ([LAUNCHED, started("web"), ev.SuspendAsked(by="idle"), ev.ResumeAsked(by="request")], "starting"),
        ([LAUNCHED, started("web"), IDLE, ev.StopAsked(cause="idle")], "asleep"),
        ([LAUNCHED, started("web"), IDLE, ev.StopAsked(cause="idle"), exited("web", 143), ev.InitGone()], "asleep"),
        ([LAUNCHED, started("web"), IDLE, ev.StopAsked(cause="idle"), ev.InitGone(), ev.StopAsked()], "stopped"),
        ([LAUNCHED, started("web"), IDLE, ev.StopAsked(cause="idle"), ev.InitGone(), ev.StartAsked()], "starting"),
        ([LAUNCHED, started("web"), exited("web", 3), ev.InitGone()], "failed"),
        ([LAUNCHED, started("web"), exited("web", 0), ev.InitGone()], "stopped"),
    ],
)
def test_a_request_is_served_held_or_told(events, state):
    record, _ = run(fresh(WEB), ev.Admitted(), *events)
    assert table(record)[0].endpoints[0].state == state


def test_who_stopped_it_is_told():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"), ev.StopAsked(), exited("web", 143), ev.InitGone())
    assert table(record)[0].endpoints[0].reason == "Its owner stopped it."


def test_rules_lead_to_services_and_no_other_owner_routes_a_name():
    ours = fresh(TWO, routes=[RouteRule(path="/db", service="web", strip=True), RouteRule(host="pub.example", weight=10)])
    theirs = structs.replace(
        fresh(
            WEB,
            routes=[RouteRule(host=host) for host in ("shop.localhost", "pub.example", "sandboxd.localhost", "own.example")],
        ),
        id="1" * 32,
        name="other",
        owner=ours.owner + 1,
    )
    made, _ = table(ours, theirs)
    found = [(rule.host, rule.path, made.endpoints[rule.endpoint].name, rule.weight) for rule in made.rules]
    assert found == [
        ("shop.localhost", "/db", "shop", 100),
        (f"{'0' * 32}.localhost", "/db", "shop", 100),
        ("pub.example", "/", "shop", 10),
        ("sandboxd.localhost", "/", "other", 100),  # nobody's, unless the daemon serves it
        ("own.example", "/", "other", 100),
    ]
    assert made.rules[0].strip


def test_a_base_domain_is_beside_localhost_and_no_second_name():
    ours = fresh(TWO, routes=[RouteRule(host="pub.localhost"), RouteRule(host="other.example")])
    theirs = structs.replace(
        fresh(WEB, routes=[RouteRule(host="shop.localhost"), RouteRule(host="pub.box.example")]),
        id="1" * 32,
        owner=ours.owner + 1,
    )
    theirs = structs.replace(theirs, name="blog")
    made = route_table([ours, theirs], Ground("box.example", "/s/envs", 30.0), version=1)
    routes = Routes(made)
    for host in (b"shop.box.example", b"Shop.LOCALHOST:80", b"shop.localhost.", b"web.shop.localhost"):
        assert made.endpoints[routes.find(host)].name == "shop"
    assert [routes.find(host) for host in (b"localhost", b"box.example", b"xlocalhost", b"shop.example")] == [None] * 4
    assert {(rule.host, made.endpoints[rule.endpoint].name) for rule in made.rules} == {
        ("pub.box.example", "shop"),
        ("other.example", "shop"),
    }
    assert routes.is_ruled(b"pub.localhost")
    assert routes.choose(b"pub.localhost", b"/", b"", 0.0) is not None


@pytest.mark.parametrize(
    ("service", "parts", "is_early"),
    [
        ({}, {}, True),
        ({"ready": Ready(timeout=3.0)}, {}, True),
        ({"ready": Ready(http="/healthz")}, {}, False),
        ({"ready": Ready(command="true")}, {}, False),
        ({"port": None}, {}, False),
        ({}, {"limits": Limits(max_connections=1)}, False),
        ({}, {"network": Network(mode="host")}, False),
        ({}, {"scale": Replicas(min=2, max=3)}, False),
    ],
)
def test_a_request_may_find_out_by_itself_what_only_has_to_listen(service, parts, is_early):
    record, _ = run(fresh({"web": structs.replace(WEB["web"], **service)}, **parts), ev.Admitted())
    coming = route_table([record], Ground("localhost", "/s", 30.0, coming={record.id: 4711}), version=1).endpoints[0]
    assert (coming.state, coming.early) == ("starting", is_early)
    assert coming.netns_cookie == (4711 if parts.get("network") is None else 0)
    assert not table(record)[0].endpoints[0].early, "nobody knows its network as yet"
    for events in ([BORN], [BORN, started("web")]):
        assert table(run(record, *events)[0])[0].endpoints[0].early is is_early
    ready = [BORN, started("web"), ev.ServiceReady(service="web")]
    assert not table(run(record, *ready)[0])[0].endpoints[0].early


def test_of_a_launch_that_went_well_the_table_tells_nothing_new():
    record, _ = run(fresh(WEB), ev.Admitted())
    before = route_table([record], Ground("localhost", "/s", 30.0, coming={record.id: 4711}), version=1)
    after = route_table([run(record, BORN, started("web"))[0]], Ground("localhost", "/s", 30.0), version=1)
    assert before == after
