"""What the router is told of changes is what it would be told as a whole: sandboxd.daemon.told, sandboxd.routing.table."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sandboxd.daemon.routes import Ground, route_table
from sandboxd.daemon.told import MOST_CHANGES, Told
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.routing.table import Endpoint, Routes, RouteTable
from sandboxd.spec import Network, RouteRule
from tests.unit.lifecycle.test_machine import LAUNCHED, TWO, WEB, fresh, run, started

GROUND = Ground("localhost", "/s/envs", 30.0)
READY = (LAUNCHED, started("web"), ev.ServiceReady(service="web"))
HISTORIES: list[list[ev.Event]] = [
    [],
    [LAUNCHED, started("web")],
    [*READY],
    [*READY, ev.SuspendAsked(by="idle")],
    [*READY, ev.StopAsked()],
]


def env(number: int, history: int, *, two: bool, host: bool, name: str = "") -> EnvRecord:
    """One of a few envs, in one of a few states."""
    made = fresh(TWO if two else WEB, network=Network(mode="host" if host else "private"))
    record, _ = run(made, ev.Admitted(), *HISTORIES[history])
    return structs.replace(record, id=f"{number:032x}", name=name or f"env{number}")


def by_name(routes: Routes) -> dict[bytes, Endpoint]:
    """Where each name leads."""
    return {host: routes.endpoints[index] for host, index in routes.names.items()}


def places(routes: Routes) -> list[tuple[str, str]]:
    """What can be dialled."""
    return sorted((endpoint.env_id, endpoint.service) for endpoint in routes.endpoints.values())


STATES = st.tuples(st.integers(0, 4), st.booleans(), st.booleans(), st.sampled_from(["", "", "", "taken"]))
STEPS = st.lists(st.dictionaries(st.integers(0, 5), st.one_of(st.none(), STATES), max_size=3), max_size=12)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_changes_make_the_table_that_a_whole_one_is(steps: list[dict[int, tuple[int, bool, bool, str] | None]]) -> None:
    told = Told(0)
    routes = Routes(told.table([], GROUND))
    records: dict[str, EnvRecord] = {}
    for step in steps:
        changed: dict[str, EnvRecord | None] = {}
        for number, state in step.items():
            env_id = f"{number:032x}"
            records.pop(env_id, None)
            if state is not None:
                history, two, host, name = state
                records[env_id] = env(number, history, two=two, host=host, name=name)
            changed[env_id] = records.get(env_id)
        change = told.change(changed, GROUND)
        if change is None:
            routes = Routes(told.table(list(records.values()), GROUND))
        elif not change.is_empty:
            assert routes.apply(change)
        whole = Routes(route_table(list(records.values()), GROUND, version=0))
        assert by_name(routes) == by_name(whole)
        assert places(routes) == places(whole)
        assert routes.version == told.version


def test_what_did_not_change_is_not_told() -> None:
    told = Told(0)
    records = [env(number, 2, two=True, host=False) for number in range(50)]
    told.table(records, GROUND)
    same = told.change({records[3].id: records[3]}, GROUND)
    assert same is not None
    assert same.is_empty
    change = told.change({records[3].id: env(3, 4, two=True, host=False)}, GROUND)
    assert change is not None
    assert {endpoint.env_id for endpoint in change.endpoints.values()} == {records[3].id}
    assert (change.routes, change.dropped, change.unrouted, change.gone) == ({}, [], [], [])
    gone = told.change({records[3].id: None}, GROUND)
    assert gone is not None
    assert gone.gone == [records[3].id]
    assert len(gone.dropped) == 2


def test_names_that_two_have_and_rules_and_another_ground_take_a_whole_table() -> None:
    told = Told(0)
    first, second = env(1, 2, two=False, host=False), env(2, 2, two=False, host=False, name="env1")
    told.table([first], GROUND)
    assert told.change({second.id: second}, GROUND) is None
    assert told.change({}, GROUND) is None  # until there was one
    told.table([first, second], GROUND)
    assert told.change({second.id: None}, GROUND) is None  # the other one has the name again
    told.table([first], GROUND)
    ruled = structs.replace(first, spec=structs.replace(first.spec, routes=[RouteRule(path="/x")]))
    assert told.change({first.id: ruled}, GROUND) is None
    told.table([first], GROUND)
    assert told.change({}, GROUND._replace(hold=1.0)) is None
    told.table([first], GROUND)
    assert told.change({}, GROUND) is not None


def test_there_is_a_whole_table_now_and_then() -> None:
    told = Told(0)
    record = env(1, 2, two=False, host=False)
    told.table([record], GROUND)
    for number in range(MOST_CHANGES):
        assert told.change({record.id: None if number % 2 == 0 else record}, GROUND) is not None
    assert told.change({record.id: record}, GROUND) is None


def test_a_change_of_another_table_is_not_taken() -> None:
    told = Told(0)
    record = env(1, 2, two=False, host=False)
    told.table([], GROUND)
    change = told.change({record.id: record}, GROUND)
    routes = Routes(RouteTable(version=9, endpoints=[], routes=[]))
    assert change is not None
    assert routes.apply(change) is False
    assert (routes.names, routes.endpoints, routes.version) == ({}, {}, 9)
