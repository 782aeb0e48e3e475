"""Every missing wall and every trap of a host: named, with its reason, its fix, and what it means for the exit code."""

import errno
from typing import Any

import msgspec
import pytest

from sandboxd.doctor.diagnosis import diagnose
from sandboxd.doctor.facts import Address, AppArmorFacts, DaemonFacts, Lookup, NameFacts
from sandboxd.isolation.facts import WALLS, LimitFacts
from sandboxd.isolation.hints import APPARMOR, CLONE_SWITCH, explain
from tests.unit.doctor.facts import check, facts, host, place


def test_a_machine_on_which_all_is_well() -> None:
    report = diagnose(facts())
    assert (report.tier, report.well, report.fixes) == ("T0", True, [])
    assert [tier.id for tier in report.tiers if tier.holds] == ["T0"]
    assert {one.status for one in report.checks} == {"ok"}
    assert {f"wall.{name}" for name in WALLS} <= {one.id for one in report.checks}


# -- walls and tiers


@pytest.mark.parametrize("wall", WALLS)
def test_each_missing_wall_has_its_reason_and_fix_and_is_a_failure_of_full(wall: str) -> None:
    offer = explain(wall, errno.EINVAL, {})
    report = diagnose(facts(host=host(**{wall: offer})))
    found = check(report, f"wall.{wall}")
    assert (found.status, found.offered, found.reason) == ("fail", False, offer.reason)
    assert bool(found.fix) == bool(offer.fix)
    assert not report.well
    assert found.id in next(tier for tier in report.tiers if tier.id == "T0").missing


def test_what_a_lower_level_does_not_demand_is_a_warning_only() -> None:
    lacking = facts(host=host(user=explain("user", errno.EPERM, {})))
    assert not diagnose(lacking).well
    for level in ("landlock", "none"):
        report = diagnose(lacking, level)
        assert report.well
        assert check(report, "wall.user").status == "warn"
    without = facts(host=host(landlock=explain("landlock", errno.ENOSYS, {})))
    assert not diagnose(without, "landlock").well
    assert diagnose(without, "none").well


def test_what_can_be_had_instead_of_namespaces_is_said_with_what_it_does_not_hold() -> None:
    lacking = msgspec.structs.replace(host(user=explain("user", errno.EPERM, {})), landlock=7)
    found = check(diagnose(facts(host=lacking)), "instead")
    assert (found.status, "--isolation landlock" in found.reason, "stay in sight" in found.reason) == ("note", True, True)
    assert not [one for one in diagnose(facts()).checks if one.id == "instead"]
    old = msgspec.structs.replace(lacking, landlock=1)
    assert not [one for one in diagnose(facts(host=old)).checks if one.id == "instead"]


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({}, "T0"),
        ({"host": host(user=explain("user", errno.EPERM, {}))}, "T1"),
        ({"host": host(net=explain("net", errno.ENOSPC, {}))}, "T1"),
        ({"host": host(proc=explain("proc", errno.EPERM, {})), "container": "docker"}, "T3"),
        ({"host": host(proc=explain("proc", errno.EPERM, {})), "nested": True}, "T3"),
        ({"container": "podman"}, "T0"),
        ({"host": None}, "T1"),
    ],
)
def test_the_tier_that_holds(changes: dict[str, Any], tier: str) -> None:
    report = diagnose(facts(**changes))
    assert report.tier == tier
    assert [one.id for one in report.tiers if one.holds] == [tier]


def test_walls_that_could_not_be_tried_fail_with_why() -> None:
    report = diagnose(facts(host=None, failed={"host": "no python"}))
    assert check(report, "wall.trial").reason == "no python"
    assert not report.well


def test_a_sysctl_that_closes_a_wall_is_a_fix_for_root() -> None:
    closed = {CLONE_SWITCH: "0"}
    report = diagnose(facts(host=host(user=explain("user", errno.EPERM, closed)), settings=closed))
    assert check(report, "wall.user").fixable == "root"
    (fix,) = report.fixes
    assert (fix.kind, fix.target, fix.value, fix.before, fix.root) == ("sysctl", CLONE_SWITCH, "1", "0", True)


def test_in_a_container_the_fix_is_the_hosts() -> None:
    closed = {"user.max_user_namespaces": "0"}
    report = diagnose(facts(host=host(user=explain("user", errno.ENOSPC, closed)), settings=closed, container="docker"))
    found = check(report, "wall.user")
    assert found.fix.startswith("on the host, not in the container: sudo sysctl")
    assert "docker container" in found.reason
    assert (found.fixable, report.fixes) == ("", [])


@pytest.mark.parametrize(("abi", "says"), [(1, "truncating files"), (3, "TCP ports"), (7, "ABI 7")])
def test_what_an_older_landlock_cannot_do_is_said(abi: int, says: str) -> None:
    found = check(diagnose(facts(host=msgspec.structs.replace(host(), landlock=abi))), "wall.landlock")
    assert (found.status, says in found.reason) == ("ok", True)


def test_a_filter_that_nobody_listens_to_is_a_note() -> None:
    report = diagnose(facts(host=msgspec.structs.replace(host(), listener=False)))
    assert (check(report, "denials").status, report.well) == ("note", True)
    assert check(diagnose(facts()), "denials").offered is True


# -- limits

NO_GROUPS = LimitFacts(reason="the control group / is not delegated", fix="sandbox daemon install", cpus=[0, 1])


def test_without_control_groups_it_is_t2_and_each_limit_says_how_it_is_enforced() -> None:
    report = diagnose(facts(limits=NO_GROUPS))
    assert (report.tier, report.well) == ("T2", True), "envs run, with less exact limits"
    groups = check(report, "limit.cgroup")
    assert (groups.status, groups.reason, groups.fix) == ("warn", NO_GROUPS.reason, NO_GROUPS.fix)
    assert "sampled" in check(report, "limit.memory").reason
    assert "project quotas of ext4 and xfs" in check(report, "limit.disk").reason
    assert "affinity" in check(report, "limit.cpus").reason
    assert "rlimit" in check(report, "limit.pids").reason
    for name in ("memory_high", "cpus.part", "cpu_weight", "io_read"):
        refused = check(report, f"limit.{name}")
        assert (refused.status, refused.offered) == ("warn", False)
        assert "takes a cgroup" in refused.reason
        assert NO_GROUPS.fix in refused.fix


def test_with_control_groups_the_kernel_holds_the_whole_env() -> None:
    report = diagnose(facts())
    assert check(report, "limit.cgroup").reason == "cpu, io, memory, pids"
    for name in ("memory", "memory_high", "cpus", "cpus.part", "cpu_weight", "pids", "io_read", "io_write"):
        assert check(report, f"limit.{name}").reason.startswith("cgroup")
    assert check(report, "limit.nofile").reason.startswith("rlimit")


def test_a_limit_without_its_controller_says_which() -> None:
    found = check(diagnose(facts(limits=LimitFacts(controllers=["cpu", "memory", "pids"], cpus=[0]))), "limit.io_read")
    assert found.reason.startswith("refused: it takes a cgroup, and its controller 'io' is not delegated to us")


def test_a_daemon_that_runs_knows_its_own_control_groups_better() -> None:
    alive = DaemonFacts(state="alive", version="1.2.3", controllers=["memory", "pids"])
    report = diagnose(facts(limits=NO_GROUPS, daemon=alive))
    assert (report.tier, check(report, "limit.cgroup").reason) == ("T0", "memory, pids")
    alive = DaemonFacts(state="alive", version="1.2.3", uncontrolled="it was started by hand", control="install it")
    report = diagnose(facts(daemon=alive))
    assert (report.tier, check(report, "limit.cgroup").fix) == ("T2", "install it")


def test_both_tiers_are_shown_where_both_are_missing() -> None:
    report = diagnose(facts(limits=NO_GROUPS, host=host(user=explain("user", errno.EPERM, {}))))
    assert report.tier == "T1"
    assert next(tier for tier in report.tiers if tier.id == "T2").missing == ["limit.cgroup"]


# -- AppArmor

UBUNTU = {APPARMOR: "1"}
CAN = {"enabled": True, "parser": True, "trusted": True, "source": "/usr/bin/python3.12", "copy_path": "/usr/local/lib/x"}


def restricted(**apparmor: Any) -> Any:
    lacking = host(mount=explain("mount", errno.EACCES, UBUNTU))
    return diagnose(facts(settings=UBUNTU, host=lacking, apparmor=AppArmorFacts(**{**CAN, **apparmor})))


def test_ubuntus_restriction_is_named_and_the_profile_is_the_fix() -> None:
    report = restricted()
    wall = check(report, "wall.mount")
    assert "AppArmor" in wall.reason
    assert (wall.fix, wall.fixable) == ("sudo /venv/bin/sandbox doctor --fix", "root")
    assert "not installed" in check(report, "apparmor").reason
    (fix,) = report.fixes
    assert (fix.kind, fix.target, fix.value) == ("apparmor", "/usr/local/lib/x", "/usr/bin/python3.12")
    assert report.tier == "T1"


@pytest.mark.parametrize(
    ("changes", "says", "fixes"),
    [
        ({"trusted": False}, "not root's alone", 0),
        ({"parser": False}, "apparmor_parser is not installed", 0),
        ({"copy": "it is a copy of another build of Python", "profile": True}, "another build", 1),
        ({"copy": "good", "profile": False}, "not installed", 1),
        ({"copy": "good", "profile": True, "label": "unconfined"}, "not loaded", 1),
    ],
)
def test_what_is_wrong_with_profile_or_copy_is_told_apart(changes: dict[str, Any], says: str, fixes: int) -> None:
    report = restricted(**changes)
    found = check(report, "apparmor")
    assert says in found.reason
    assert found.fix
    assert len(report.fixes) == fixes


def test_a_profile_that_is_attached_is_well() -> None:
    loaded = AppArmorFacts(**{**CAN, "copy": "good", "profile": True, "label": "sandboxd (unconfined)"})
    report = diagnose(facts(settings=UBUNTU, apparmor=loaded))
    assert check(report, "apparmor").status == "ok"
    assert (report.well, report.fixes) == (True, [])


# -- the machine


@pytest.mark.parametrize(
    ("changes", "id", "status", "says"),
    [
        ({"kernel": "5.10.0-8"}, "host.kernel", "fail", "5.14"),
        ({"kernel": "weird"}, "host.kernel", "fail", "5.14"),
        ({"pressure": "off"}, "host.psi", "warn", "psi=0"),
        ({"pressure": "absent"}, "host.psi", "warn", "CONFIG_PSI"),
        ({"settings": {"fs.inotify.max_user_watches": "8192"}}, "host.inotify.max_user_watches", "warn", "ENOSPC"),
        ({"settings": {"user.max_net_namespaces": "20"}}, "host.quotas", "warn", "about 20 envs"),
        ({"rlimits": {"nofile": 1024}}, "host.nofile", "warn", "4096"),
        ({"clock": 1.0}, "host.clock", "warn", "before sandboxd"),
        ({"container": "lxc"}, "host.container", "note", "forbids"),
        ({"uid": 0, "powerless": True}, "host.power", "fail", "CAP_SYS_ADMIN"),
        ({"nested": True}, "host.container", "note", "forbids"),
        ({"features": {"overlay": errno.EPERM}}, "feature.overlay", "warn", "EPERM"),
        ({"features": {"nft": errno.EPROTONOSUPPORT}}, "feature.nft", "warn", "modprobe"),
        ({"failed": {"names": "it broke"}}, "look.names", "warn", "it broke"),
    ],
)
def test_traps_of_the_machine(changes: dict[str, Any], id: str, status: str, says: str) -> None:
    report = diagnose(facts(**changes))
    found = check(report, id)
    assert (found.status, says in found.reason) == (status, True)
    assert report.well == (status != "fail")


def test_groups_that_give_power_are_named() -> None:
    found = check(diagnose(facts(host=msgspec.structs.replace(host(), groups=["adm", "docker"]))), "host.groups")
    assert "adm, docker" in found.name
    assert "gpasswd -d dev adm" in found.fix


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"error": "Permission denied"}, "fail", "Permission"),
        ({"is_directory": False}, "fail", "no directory"),
        ({"uid": 0}, "fail", "uid 0"),
        ({"writable": False}, "fail", "cannot write to it"),
        ({"writable": False, "mode": None, "uid": None}, "fail", "cannot be made"),
        ({"mode": 0o777}, "fail", "others may write"),
        ({"mode": 0o755}, "warn", "others may look"),
        ({"options": ["ro"]}, "fail", "read-only"),
        ({"options": ["noexec"]}, "warn", "noexec"),
        ({"kind": "nfs4"}, "warn", "network file system"),
        ({"free": 1 << 20}, "warn", "1MiB are left"),
        ({"inodes": 5}, "warn", "5 inodes"),
        ({"mode": None, "uid": None}, "ok", ""),
        ({"inodes": None, "free": None}, "ok", ""),
    ],
)
def test_the_state_directory(changes: dict[str, Any], status: str, says: str) -> None:
    found = check(diagnose(facts(state=place(**changes))), "daemon.state")
    assert (found.status, says in found.reason) == (status, True)
    assert found.status == "ok" or found.fix


def test_a_directory_that_others_get_into_is_fixed_without_root() -> None:
    report = diagnose(facts(state=place(mode=0o750)))
    (fix,) = report.fixes
    assert (fix.kind, fix.target, fix.before, fix.value, fix.root) == ("mode", place().path, "0750", "0700", False)
    assert check(report, "daemon.state").fixable == "user"
    assert diagnose(facts(state=place(mode=0o750, uid=0))).fixes == []


# -- the daemon


@pytest.mark.parametrize(
    ("daemon", "id", "status", "says"),
    [
        ({"state": "stale", "socket": "/s"}, "daemon.socket", "note", "killed"),
        ({"state": "stuck", "said": "timed out"}, "daemon.socket", "fail", "timed out"),
        ({"state": "foreign", "said": "served by uid 7"}, "daemon.socket", "fail", "uid 7"),
        ({"state": "alive", "version": "0.9"}, "daemon.version", "warn", "0.9"),
        ({"others": ["pid 7 in /x"]}, "daemon.others", "note", "pid 7 in /x"),
        ({"strays": ["a" * 32]}, "daemon.strays", "note", "1 env directories"),
        ({"orphans": ["shop"]}, "daemon.orphans", "note", "shop"),
    ],
)
def test_the_daemon(daemon: dict[str, Any], id: str, status: str, says: str) -> None:
    report = diagnose(facts(daemon=DaemonFacts(**daemon)))
    found = check(report, id)
    assert (found.status, says in found.reason, bool(found.fix) or status == "note") == (status, True, True)
    assert [fix.kind for fix in report.fixes] == (["socket"] if daemon.get("state") == "stale" else [])


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (Address(address="127.0.0.1:7070"), "ok"),
        (Address(address="127.0.0.1:7070", error="in use", holder="sandboxd-router (pid 3)", ours=True), "ok"),
        (Address(address="127.0.0.1:7070", error="in use", holder="nginx (pid 3)"), "fail"),
        (Address(address="127.0.0.1:80", error="Permission denied"), "fail"),
    ],
)
def test_the_routers_address(address: Address, status: str) -> None:
    found = check(diagnose(facts(addresses=[address])), f"daemon.port.{address.address}")
    assert found.status == status
    assert address.holder in found.reason or status == "ok"


def test_logout_is_explained_and_linger_is_a_fix() -> None:
    report = diagnose(facts(linger=False, runtime=""))
    assert "logout" in check(report, "daemon.linger").reason
    assert "/tmp" in check(report, "daemon.xdg").reason
    assert [(fix.kind, fix.target, fix.root) for fix in report.fixes] == [("linger", "dev", False)]
    assert diagnose(facts(linger=True)).fixes == []


# -- names


def resolving(*lookups: Lookup, **changes: Any) -> Any:
    return diagnose(facts(names=NameFacts(lookups=list(lookups), nsswitch=["files", "dns"], **changes)))


FAILS = Lookup(program="getaddrinfo", resolved=False, answer="Name or service not known")


def test_a_system_that_does_not_resolve_tells_who_is_concerned_and_what_to_install() -> None:
    report = resolving(FAILS, Lookup(program="node", version="v20.1.0", resolved=False, answer="ENOTFOUND"))
    for program in ("getaddrinfo", "node", "java", "safari"):
        found = check(report, f"names.{program}")
        assert (found.status, "libnss-myhostname" in found.fix) == ("warn", True)
    assert "ENOTFOUND" in check(report, "names.node").reason
    assert check(report, "names.node").name == "Node.js 20.1.0"
    assert check(report, "names.browsers").status == "ok"
    assert report.well


def test_a_plugin_that_is_there_but_not_asked_is_enabled() -> None:
    assert "nsswitch.conf" in check(resolving(FAILS, myhostname=True), "names.getaddrinfo").fix


def test_without_nsswitch_a_line_in_hosts_is_the_fix() -> None:
    report = diagnose(facts(names=NameFacts(lookups=[FAILS])))
    assert "/etc/hosts" in check(report, "names.getaddrinfo").fix


def test_an_old_curl_is_told_about_resolve() -> None:
    found = check(resolving(Lookup(program="curl", version="7.79.1", resolved=False, answer="x")), "names.curl")
    assert "7.85" in found.reason
    assert "--resolve" in found.fix


def test_programs_are_shown_and_never_demanded() -> None:
    report = diagnose(facts(peers={"git": "git version 2", "java": ""}))
    assert check(report, "program.java").name == "java is not installed"
    assert report.well


# Named here so that every module of the doctor has its test: what they decide is what `diagnose` says.
DECIDED_IN = (
    "sandboxd.doctor.walls", "sandboxd.doctor.host", "sandboxd.doctor.service", "sandboxd.doctor.names",
    "sandboxd.doctor.limits", "sandboxd.doctor.fixes", "sandboxd.doctor.report",
)  # fmt: skip
