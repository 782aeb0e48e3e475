from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from sandboxd.errors import LimitUnenforceable, NotOffered, SpecInvalid, WallUnavailable
from sandboxd.isolation.facts import LATER, WALLS, Offer
from sandboxd.isolation.parking import parts
from sandboxd.isolation.plan import LaunchPlan, default_profile, plan
from sandboxd.isolation.seccomp.policy import Demand, filter_text, refusals_text
from sandboxd.isolation.steps import (
    Affinity,
    Bind,
    Capabilities,
    Hostname,
    Landlock,
    Leave,
    Listen,
    Pivot,
    Prove,
    Resize,
    Rlimits,
    Rules,
    Seal,
    Seccomp,
    Sysctl,
    Way,
    in_order,
)
from sandboxd.spec import EnvSpec, Isolation, Limits, Network, Service
from tests.unit.isolation.hosts import host, place, spec


def planned(what: EnvSpec | None = None, *, uid: int = 1000, **given: Any) -> LaunchPlan:
    facts = {"host": host(), "place": place(), "environ": {}, **given}
    return plan(what or spec(), id="a" * 32, name="shop", uid=uid, gid=uid, **facts)


def test_both_halves_are_in_the_order_that_works() -> None:
    made = planned()
    assert in_order(made.base)
    assert in_order(made.steps)
    limits = Rlimits([("CORE", 0, 0), ("NPROC", 1024, 1024)])
    assert made.steps[-8] == Seal()
    assert isinstance(made.steps[-7], Rules)
    assert made.base.index(Pivot()) < made.base.index(Leave()), "nothing of the host is there before a plan is"
    assert Sysctl("user/max_user_namespaces", "0") in made.base
    sift = Seccomp(filter_text("x86_64", Demand(), notify=True), True)
    assert made.steps[-6:] == [Listen(), limits, Capabilities(), sift, Landlock(5), Prove(list(WALLS))]
    assert Hostname("shop") in made.steps


def test_namespaces_inside_are_asked_for() -> None:
    made = planned(spec(isolation=Isolation(nested=True)))
    assert not [step for step in made.steps if isinstance(step, Sysctl | Rules | Landlock)]
    assert Seccomp(filter_text("x86_64", Demand(nested=True), notify=True), True) in made.steps
    assert not made.walls["landlock"].demanded
    assert "--nested" in made.walls["landlock"].reason
    assert made.walls["seccomp"].demanded


def test_without_a_listener_refusals_are_answered_by_the_kernel() -> None:
    made = planned(host=replace(host(), listener=False, machine="aarch64"))
    assert Seccomp(filter_text("aarch64", Demand(), notify=False), False) in made.steps
    assert made.init.refusals == ""
    assert planned().init.refusals == refusals_text("x86_64", Demand())


def test_whole_cpus_cannot_be_left() -> None:
    made = planned(spec(limits=Limits(cpus=1)), host=replace(host(), limits=replace(host().limits, cpus=[0, 1])), cpus=[1, 0])
    assert Affinity([1]) in made.steps
    assert Seccomp(filter_text("x86_64", Demand(fixed_affinity=True), notify=True), True) in made.steps


def test_the_base_depends_on_nothing_of_the_spec() -> None:
    other = spec(limits=Limits(memory=64 << 20), env={"A": "b"}, services={"x": Service(command="y", port=1)})
    assert planned(other, place=place(workspace=None)).base == planned().base


def test_every_wall_is_answered_for() -> None:
    walls = planned().walls
    assert list(walls) == [*WALLS, *LATER]
    assert all(walls[wall].offered and walls[wall].demanded for wall in WALLS)
    assert not any(wall.enforced for wall in walls.values()), "nothing is enforced before it is proven"
    assert not any(walls[wall].enforced or walls[wall].offered for wall in LATER)


def test_sharing_the_hosts_network_is_said() -> None:
    made = planned(spec(network=Network(mode="host")), place=place(resolv_conf="nameserver 10.0.0.1\n", hosts="10.0.0.1 x\n"))
    assert not made.walls["net"].demanded
    assert not made.walls["net"].enforced
    assert "shares" in made.walls["net"].reason
    assert not made.profile.network
    assert any("nameserver 10.0.0.1" in text for step in made.steps for _, text in getattr(step, "files", []))


@pytest.mark.parametrize("wall", WALLS)
def test_a_wall_that_is_missing_is_refused_by_name_with_the_fix(wall: str) -> None:
    lacking = host(**{wall: Offer(offered=False, reason="user.max_user_namespaces is 0", fix="sudo sysctl -w x=1")})
    with pytest.raises(WallUnavailable) as refused:
        planned(host=lacking)
    assert refused.value.details == {"wall": wall, "reason": "user.max_user_namespaces is 0"}
    assert refused.value.hint.startswith("sudo sysctl -w x=1")


def test_without_network_namespaces_the_hosts_network_will_do() -> None:
    lacking = host(net=Offer(offered=False, reason="no"))
    assert planned(spec(network=Network(mode="host")), host=lacking).walls["net"].offered is False


@pytest.mark.parametrize("limits", [Limits(cpus=1.5), Limits(io_read=1 << 30)])
def test_a_limit_that_cannot_be_enforced_is_refused(limits: Limits) -> None:
    with pytest.raises(LimitUnenforceable) as refused:
        planned(spec(limits=limits))
    assert refused.value.details["limit"] in ("cpus", "io_read")


@pytest.mark.parametrize(
    "parts",
    [
        {"network": Network(mode="host", forward=[11434])},
        {"network": Network(mode="host", egress=["pypi.org"])},
    ],
)
def test_what_this_version_lacks_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(NotOffered) as refused:
        planned(spec(**parts))
    assert refused.value.hint


def test_a_socket_of_the_hosts_is_at_its_path_only_where_all_is_the_envs_own() -> None:
    own = ["unix:/run/foo.sock", "unix:/var/run/bar.sock", "unix:/home/ada/.app/s.sock", "unix:/tmp/s.sock"]
    made = planned(spec(network=Network(forward=[*own, "8080:unix:/etc/foo.sock"])))
    assert made.init.paths == [text.removeprefix("unix:") for text in own]
    assert made.init.forward == [8080]
    for path in ("/etc/foo.sock", "/home/ada/src/shop/foo.sock", "/foo.sock", "/var/lib/foo.sock"):
        with pytest.raises(NotOffered, match=path) as refused:
            planned(spec(network=Network(forward=[f"unix:{path}"])))
        assert f"8080:unix:{path}" in str(refused.value.hint)


@pytest.mark.parametrize("egress", [None, "open", ["pypi.org"], []])
def test_a_way_out_is_made_ahead_and_served_by_init(egress: Any) -> None:
    made = planned(spec(network=Network(egress=egress)))
    assert Way() in made.base
    assert Listen() in parts(made.steps, parked=True).ahead
    for network in (Network(egress="none"), Network(mode="none", egress=egress), Network(mode="host")):
        without = planned(spec(network=network))
        assert Way() not in without.base
        assert Listen() not in without.steps


def test_a_host_without_nf_tables_says_so() -> None:
    lacking = msgspec.structs.replace(host(), egress=Offer(offered=False, reason="no nf_tables", fix="sudo modprobe nf_tables"))
    with pytest.raises(NotOffered, match="no nf_tables") as refused:
        planned(spec(network=Network(egress="open")), host=lacking)
    assert refused.value.hint.startswith("sudo modprobe nf_tables; or --egress proxy")
    assert planned(spec(network=Network(egress="proxy")), host=lacking).init.services["web"].env["https_proxy"]


def test_a_host_without_nf_tables_gives_no_way_out_to_who_asked_for_none_by_name() -> None:
    """By default: it starts, without one, and says why."""
    lacking = msgspec.structs.replace(host(), egress=Offer(offered=False, reason="no nf_tables"))
    made = planned(spec(), host=lacking)
    assert made.no_way == "no nf_tables"
    assert Way() not in made.base
    assert Listen() not in made.steps
    assert planned(spec(network=Network(egress="none")), host=lacking).no_way == ""
    assert planned(spec()).no_way == ""


def test_an_ordinary_users_env_is_its_own() -> None:
    made = planned(uid=1000)
    assert made.profile.uid == (1000, 1000)
    assert made.profile == default_profile(1000, 1000)
    assert not made.handed
    assert planned(spec(isolation=Isolation(user="root")), uid=1000).profile.uid == (0, 1000)


def test_roots_env_is_nobodys_unless_root_is_asked_for() -> None:
    made = planned(uid=0)
    assert made.profile.uid == made.profile.gid == (65534, 65534)
    assert not made.profile.root
    assert made.handed == ["/state/envs/x/home"]
    assert next(step.origin for step in made.steps if isinstance(step, Bind)) == "handed"
    asked = planned(spec(isolation=Isolation(user="root")), uid=0)
    assert asked.profile.root
    assert asked.profile.uid == (0, 0)
    assert not asked.handed


def test_a_small_env_gets_a_small_tmp() -> None:
    resized = [step for step in planned(spec(limits=Limits(memory=32 << 20))).steps if isinstance(step, Resize)]
    assert resized == [Resize(place, 32 << 20) for place in ("/tmp", "/var/tmp", "/dev/shm")]
    assert not [step for step in planned().steps if isinstance(step, Resize)]


def test_what_starts_at_once_waits_for_nothing() -> None:
    made = planned(spec(services={"db": Service(command="d"), "web": Service(command="w", depends_on=["db"])}))
    assert made.init.start == ["db"]
    assert list(made.init.services) == ["db", "web"]


def test_a_plan_is_json_and_capped() -> None:
    made = planned()
    assert msgspec.json.decode(msgspec.json.encode(made), type=LaunchPlan) == made
    with pytest.raises(SpecInvalid, match="over the cap"):
        planned(spec(env={"BIG": "x" * (5 << 20)}))


def test_a_plan_can_be_read() -> None:
    assert "give up all capabilities" in planned().describe()


def test_what_envs_of_one_spec_have_in_common_is_made_once_and_is_nobody_elses() -> None:
    homes = [f"/state/envs/{name}/home" for name in "xyz"]
    made = {home: planned(place=place(env_home=home)) for home in homes}
    for home, one in made.items():
        (shown,) = [step for step in one.steps if isinstance(step, Bind) and step.target == "/home/ada"]
        assert shown == Bind(home, "/home/ada", readonly=False)
        rest = [step for step in one.steps if step != shown]
        assert rest == [step for step in made["/state/envs/x/home"].steps if getattr(step, "target", "") != "/home/ada"]
    other = planned(place=place(workspace="/home/ada/src/other"))
    assert [step.target for step in other.steps if isinstance(step, Bind)] == ["/home/ada", "/home/ada/src/other"]
    assert planned(host=replace(host(), landlock=1)).steps != planned().steps
