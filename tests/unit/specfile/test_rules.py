"""The rules for every incoming spec (with `sandboxd.specfile.outward`): also for structs that Python made."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import NameInvalid, SpecInvalid
from sandboxd.spec import EnvSpec, Lifecycle, Limits, Mount, Network, Publish, Ready, Service, Workspace
from sandboxd.specfile import check
from sandboxd.specfile.rules import MAX_SERVICES, dotted, problems


def spec(**more) -> EnvSpec:
    return EnvSpec(**{"services": {"web": Service(command="x")}, **more})


def web(**more) -> EnvSpec:
    return spec(services={"web": Service(**{"command": "x", **more})})


def broken(value: EnvSpec) -> SpecInvalid:
    with pytest.raises(SpecInvalid) as caught:
        check(value)
    return caught.value


def test_the_least_spec_is_fine():
    check(spec())


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (spec(name="a\n"), "name"),
        (spec(services={}), "services"),
        (spec(services={"web\n": Service(command="x")}), None),
        (web(command="a\0b"), "services.web.command"),
        (web(command=["a", "b\0"]), "services.web.command[1]"),
        (web(command=["", "b"]), "services.web.command"),
        (web(command="x" * 200_000), "services.web.command"),
        (web(command=["x"] * 5000), "services.web.command"),
        (web(command="\udcff"), "services.web.command"),
        (web(port=0), "services.web.port"),
        (web(port=65536), "services.web.port"),
        (web(restart="always\n"), "services.web.restart"),
        (web(stop_signal="32768"), "services.web.stop_signal"),
        (web(workdir=""), "services.web.workdir"),
        (web(env={"": "x"}), "services.web.env.''"),
        (web(env={"A=B": "x"}), None),
        (web(env={"A": "\0"}), "services.web.env.A"),
        (web(ready=Ready(http="/ x")), "services.web.ready.http"),
        (web(ready=Ready(http="/\r\nHost: x")), "services.web.ready.http"),
        (web(ready=Ready(command="")), "services.web.ready.command"),
        (spec(env={"A": "\0"}), "env.A"),
        (spec(labels={"": "x"}), None),
        (spec(lifecycle=Lifecycle(restart="no\n")), "lifecycle.restart"),
        (spec(limits=Limits(memory=4096)), "limits.memory"),
        (spec(limits=Limits(cpus=float("nan"))), "limits.cpus"),
        (spec(limits=Limits(max_connections=0)), "limits.max_connections"),
        (spec(limits=Limits(max_connections=1 << 21)), "limits.max_connections"),
        (spec(limits=Limits(cpus=float("inf"))), "limits.cpus"),
        (spec(workspace=Workspace(path="rel")), "workspace.path"),
        (spec(workspace=Workspace(path="/a\0")), "workspace.path"),
        (spec(mounts=[Mount(source="a", target="/b")]), "mounts[0].source"),
        (spec(mounts=[Mount(source="/a", target="/b/../c")]), "mounts[0].target"),
        (spec(mounts=[Mount(source="/a", target="/b"), Mount(source="/c", target="/b/")]), "mounts[1].target"),
        (spec(network=Network(publish=[Publish(host_port=0, port=1)])), "network.publish[0]"),
        (spec(network=Network(publish=[Publish(host_port=1, port=1, address="host")])), "network.publish[0]"),
        (spec(network=Network(publish=[Publish(port=1)])), "network.publish[0]"),
        (spec(network=Network(publish=[Publish(host_port=1, port=1, address="unix:/a")])), "network.publish[0]"),
        (spec(network=Network(publish=[Publish(port=1, address="unix:a")])), "network.publish[0]"),
        (spec(network=Network(publish=[Publish(port=p, address="unix:/a") for p in (1, 2)])), "network.publish[1]"),
        (spec(network=Network(publish=[Publish(host_port=1, port=p) for p in (1, 2)])), "network.publish[1]"),
        (spec(network=Network(mode="host", publish=[Publish(host_port=1, port=1)])), "network.publish"),
        # of `sandboxd.specfile.outward`
        (spec(network=Network(forward=[70000])), "network.forward[0]"),
        (spec(network=Network(forward=[5432, "5432:80"])), "network.forward[1]"),
        (spec(network=Network(egress=["open", "a..b"])), "network.egress[1]"),
        (spec(labels={str(number): "" for number in range(300)}), "labels"),
    ],
)
def test_broken_rules_are_found(value, key):
    error = broken(value)
    if key is not None:
        assert error.details["key"] == key
    assert error.message.startswith(str(error.details["key"]))


def test_names_are_errors_of_their_own():
    assert isinstance(broken(spec(name="No")), NameInvalid)


def test_too_many_services():
    many = {f"s{number}": Service(command="x") for number in range(MAX_SERVICES + 1)}
    assert "64 at most" in broken(spec(services=many)).message


def test_one_host_port_at_two_addresses_is_fine():
    check(spec(network=Network(publish=[Publish(host_port=80, port=1, address=a) for a in ("127.0.0.1", "127.0.0.2")])))


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=3), min_size=1))
def test_cycles_are_found_exactly_when_there_are_some(edges):
    services = {key: Service(command="x", depends_on=needs) for key, needs in edges.items()}
    if any(need not in edges for needs in edges.values() for need in needs):
        assert "there is no service" in broken(spec(services=services)).message
        return

    def reaches(start: str, goal: str, seen: frozenset[str] = frozenset()) -> bool:
        return any(need == goal or (need not in seen and reaches(need, goal, seen | {need})) for need in edges[start])

    if not any(reaches(key, key) for key in edges):
        check(spec(services=services))
        return
    ring = broken(spec(services=services)).message.rpartition(": ")[2].split(" -> ")
    assert ring[0] == ring[-1]
    assert all(later in edges[earlier] for earlier, later in itertools.pairwise(ring))


def test_a_long_chain_is_no_cycle():
    services = {f"s{n}": Service(command="x", depends_on=[f"s{n + 1}"] if n < 60 else []) for n in range(61)}
    check(spec(services=services))


TEXTS = st.text(max_size=20)
NUMBERS = st.integers(-10, 1 << 70)


@given(
    st.builds(
        EnvSpec,
        services=st.dictionaries(
            TEXTS,
            st.builds(
                Service,
                command=TEXTS | st.lists(TEXTS, max_size=3),
                port=st.none() | NUMBERS,
                depends_on=st.lists(TEXTS, max_size=2),
                ready=st.none() | st.builds(Ready, http=st.none() | TEXTS, command=st.none() | TEXTS),
                env=st.dictionaries(TEXTS, TEXTS, max_size=2),
                workdir=st.none() | TEXTS,
                restart=st.none() | TEXTS,
                stop_signal=TEXTS,
            ),
            max_size=3,
        ),
        name=st.none() | TEXTS,
        limits=st.builds(Limits, memory=st.none() | NUMBERS, cpus=st.none() | st.floats()),
        network=st.builds(
            Network, publish=st.lists(st.builds(Publish, host_port=NUMBERS, port=NUMBERS, address=TEXTS), max_size=2)
        ),
        mounts=st.lists(st.builds(Mount, source=TEXTS, target=TEXTS), max_size=2),
    )
)
def test_any_struct_is_fine_or_has_told_problems(value):
    for problem in problems(value):
        assert problem.message
        assert dotted(problem.path)
    if not list(problems(value)):
        check(msgspec.json.decode(msgspec.json.encode(value), type=EnvSpec))
