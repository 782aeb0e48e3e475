"""Launcher, child and client together on the real kernel: the pool, failures that leave nothing, and everybody's death."""

import asyncio
import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sandboxd.errors import LaunchFailed, PermissionDenied, WallUnavailable
from sandboxd.isolation.plan import plan
from sandboxd.isolation.steps import AnyStep, Bind, Devices, Hostname, kinds
from sandboxd.kernel import pidfd
from sandboxd.launch import line, parked, talk
from sandboxd.launch.apply import APPLY
from sandboxd.launch.client import CACHE, Launcher
from sandboxd.launch.launcher import Order
from sandboxd.launch.making import made_for
from sandboxd.launch.parcel import InitFds
from sandboxd.launch.probes import look_at, probe_host
from sandboxd.launch.source import TITLE
from sandboxd.launch.stagehand import TITLE as HAND
from sandboxd.spec import EnvSpec, Network, Service
from tests.kernel.inits import no_descriptors
from tests.kernel.inside import ROOT
from tests.walls.envs import PYTHON, Walls, wait_dead

STAND_IN = str(ROOT / "tests" / "walls")


@pytest.fixture(autouse=True)
def _userns(require: Any) -> None:
    require("userns", "unprivileged")


async def until(condition: Any) -> None:
    """Wait for something that a callback brings about; the test's own time limit bounds it."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - some conditions are of /proc, which has no events
            await asyncio.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """Direct children, but for what they are cloned from and who stages them."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() not in (TITLE, HAND)]
    except FileNotFoundError:
        return []


def told(walls: Walls, **parts: Any) -> dict[str, Any]:
    """What the stand-in says."""
    env = walls.launch(walls.planned(["/bin/true"], **parts))
    try:
        found: dict[str, Any] = json.loads(env.lines(count=1)[0])
        return found
    finally:
        env.close()


def test_every_kind_of_step_can_be_applied_and_the_reverse() -> None:
    assert {kind.__name__.lower() for kind in kinds()} == set(APPLY)


def test_the_pool_fills_is_used_and_fills_again(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=2, init="stand_in")
    try:
        launcher, runner = walls.launcher, walls.runner
        runner.run(until(lambda: launcher.pool == 2))
        ready = {one.pid for one in launcher.parked}
        assert set(children_of(launcher.pid)) == ready
        env = walls.launch(walls.planned(["/bin/true"]))
        assert env.launched.pid in ready, "a parked child became the env"
        assert pidfd.start_time(env.launched.pid) == env.launched.start_time
        assert env.launched.boot_id == pidfd.boot_id()
        runner.run(until(lambda: launcher.pool == 2))
        env.close()
        runner.run(until(lambda: len(children_of(launcher.pid)) == 2))
    finally:
        walls.close()


def test_the_pool_grows_and_shrinks_and_who_is_too_many_ends(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=1, init="stand_in")

    async def resize(size: int) -> None:
        walls.launcher.resize(size)

    try:
        launcher, runner = walls.launcher, walls.runner
        for size in (1, 4, 2, 0):
            runner.run(resize(size))
            runner.run(until(lambda size=size: launcher.pool == size == len(children_of(launcher.pid))))  # type: ignore[misc]
    finally:
        walls.close()


def test_a_child_that_is_expected_is_the_one_that_is_used(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=0, init="stand_in")

    async def expect() -> int:
        walls.launcher.expect()
        walls.launcher.expect()
        return len(walls.launcher.asked)

    try:
        told(walls)
        assert walls.runner.run(expect()) == 1
        told(walls)
        assert walls.launcher.asked == []
        walls.runner.run(until(lambda: children_of(walls.launcher.pid) == []))
    finally:
        walls.close()


def test_init_gets_its_own_descriptors_and_nobody_elses(tmp_path: Path) -> None:
    """With siblings parked before and after, and other launches' descriptors in flight."""
    walls = Walls(tmp_path, pool=3, init="stand_in")
    try:
        walls.runner.run(until(lambda: walls.launcher.pool == 3))
        for _ in range(4):
            found = told(walls)
            there = {int(fd) for fd in found["descriptors"]}
            assert len(found["own"]) == len(set(found["own"]))
            assert {0, 1, 2} <= there
            assert there - {0, 1, 2} == set(found["own"]), found["descriptors"]
            assert found["inherited"] == []
            assert found["descriptors"]["0"] == "/dev/null"
    finally:
        walls.close()


def test_init_is_what_it_should_be(tmp_path: Path) -> None:
    walls = Walls(tmp_path, init="stand_in")
    try:
        found = told(walls)
    finally:
        walls.close()
    assert found["title"] == "sandboxd-init: shop"
    assert found["path"] == [[], []], "nothing can be imported any more"
    assert int(found["status"]["SigBlk"], 16) == 1 << (signal.SIGCHLD - 1)
    assert found["status"]["NoNewPrivs"] == "1"
    assert found["session"] == 1
    assert set(found["environ"]) <= {"LC_CTYPE"}  # which Python sets by itself (PEP 538)
    assert not {"asyncio", "msgspec", "dataclasses", "logging", "subprocess", "threading", "typing"} & set(found["modules"])
    assert found["config"]["name"] == "shop"
    assert found["config"]["services"]["web"]["argv"] == ["/bin/true"]


def test_groups_cannot_be_dropped_by_an_ordinary_user_and_are_named(tmp_path: Path) -> None:
    """setgroups is denied where the map is one's own, so they survive: why the system view is an allow-list."""
    walls = Walls(tmp_path, init="stand_in")
    try:
        kept = told(walls)["status"]["Groups"].split()
        assert len(kept) >= len(set(os.getgroups()) - {os.getegid()})
        assert walls.host.groups == [] or set(walls.host.groups)
    finally:
        walls.close()


@pytest.mark.parametrize("pool", [0, 2])
def test_a_step_that_fails_is_named_and_nothing_stays(tmp_path: Path, pool: int) -> None:
    walls = Walls(tmp_path, pool=pool, init="stand_in")
    try:
        walls.runner.run(until(lambda: walls.launcher.pool == pool))
        made = walls.planned(["/bin/true"])
        wrong = msgspec.structs.replace(made, steps=[Bind("/nowhere/at/all", "/x"), *made.steps])
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(LaunchFailed) as failed:
            walls.launch(wrong)
        assert failed.value.details == {"step": "show /nowhere/at/all at /x, read-only=True", "errno": errno.ENOENT}
        assert "ENOENT" in failed.value.message
        assert "env shop" in failed.value.message
        walls.runner.run(until(lambda: walls.launcher.pool == pool and len(children_of(walls.launcher.pid)) == pool))
        assert len(os.listdir("/proc/self/fd")) == len(before)
        told(walls)
    finally:
        walls.close()


def test_a_base_that_fails_is_named_too(tmp_path: Path) -> None:
    walls = Walls(tmp_path, init="stand_in")
    try:
        made = walls.planned(["/bin/true"])
        wrong = msgspec.structs.replace(made, base=[made.base[0], Devices(["/nowhere"]), *made.base[1:]])
        with pytest.raises(LaunchFailed, match="ENOENT") as failed:
            walls.launch(wrong)
        assert failed.value.details["step"] == Devices(["/nowhere"]).describe()
    finally:
        walls.close()


def test_walls_that_do_not_hold_are_no_env(tmp_path: Path) -> None:
    """Without the step that empties the capabilities the proof fails, and there is no env."""
    walls = Walls(tmp_path, init="stand_in")
    try:
        made = walls.planned(["/bin/true"])
        steps = [step for step in made.steps if step.describe() != "give up all capabilities"]
        with pytest.raises(
            WallUnavailable, match="capabilities wall was raised and does not hold: CapPrm, CapEff is not empty"
        ):
            walls.launch(msgspec.structs.replace(made, steps=steps))
    finally:
        walls.close()


def test_a_plan_of_odd_data_is_refused_by_the_child(tmp_path: Path) -> None:
    walls = Walls(tmp_path, init="stand_in")
    try:
        made = walls.planned(["/bin/true"])
        wrong: list[AnyStep] = [Hostname("x" * 300), *made.steps]
        with pytest.raises(LaunchFailed, match="EINVAL"):
            walls.launch(msgspec.structs.replace(made, steps=wrong))
    finally:
        walls.close()


def test_many_descriptors_and_a_large_plan_arrive(tmp_path: Path) -> None:
    """More than one message can carry (253), and more than a socket buffer holds."""

    async def launch() -> int:
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1024
        names = [f"s{number}" for number in range(60)]
        services = {name: Service(command="x" * 20000) for name in names}
        directory = tmp_path / "S" / "envs" / "x"
        (directory / "home").mkdir(parents=True)
        host = probe_host()
        place = look_at(EnvSpec(services=services), environ={"HOME": "/nonexistent"}, env_dir=directory, uid=os.getuid())
        made = plan(
            EnvSpec(services=services),
            id="x",
            name="many",
            host=host,
            place=place,
            environ={},
            uid=os.getuid(),
            gid=os.getgid(),
        )
        assert len(msgspec.json.encode(made)) > 1 << 20
        launcher = await Launcher.start(pool=0, log=tmp_path / "log", host=host, init="stand_in", path=STAND_IN)
        null = os.open("/dev/null", os.O_RDWR)
        read, write = os.pipe()
        try:
            ends = {name: {"stdin": null, "stdout": write, "stderr": null} for name in ["web", *names]}
            given = InitFds(control=null, dial=null, exits=null, logs={name: (null, null) for name in names}, attach=ends)
            launched = await launcher.launch(made, lambda _: given)
            os.close(write)
            found = b""
            while not found.endswith(b"\n"):
                found += os.read(read, 1 << 20)
            signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
            wait_dead(launched.pidfd)
            os.close(launched.pidfd)
            os.close(launched.diag)
            said = json.loads(found)
            return len(said["own"]) - said["ways"] - said["ahead"]
        finally:
            for fd in (null, read):
                os.close(fd)
            launcher.close()

    assert asyncio.run(launch()) == 3 + 120 + 183 + 1, "the last is the listener of the filter"


def test_a_cancelled_launch_leaves_nothing(tmp_path: Path) -> None:
    walls = Walls(tmp_path, init="stand_in")

    async def cancel_at(delay: float) -> None:
        null = os.open("/dev/null", os.O_RDWR)
        try:
            given = InitFds(control=null, dial=null, exits=null, attach={"web": {"stdout": null}})
            async with asyncio.timeout(delay):
                launched = await walls.launcher.launch(walls.planned(["/bin/true"]), lambda _: given)
            signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
            os.close(launched.pidfd)
            os.close(launched.diag)
        except TimeoutError:
            pass
        finally:
            os.close(null)

    try:
        for step in range(12):
            walls.runner.run(cancel_at(step * 0.001))
        walls.runner.run(until(lambda: walls.launcher.asked == [] and children_of(walls.launcher.pid) == []))
    finally:
        walls.close()


def test_without_its_source_the_launcher_ends(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=1, init="stand_in")
    try:
        launcher, runner = walls.launcher, walls.runner
        runner.run(until(lambda: launcher.pool == 1))
        deaths: list[str] = []
        launcher.on_death = lambda: deaths.append("told")
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        source = next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == TITLE)
        os.kill(source, signal.SIGKILL)
        walls.launch(walls.planned(["/bin/true"])).close()  # the one that is parked; then another is asked for
        runner.run(until(lambda: deaths == ["told"]))
    finally:
        walls.close()


def test_the_launchers_death_is_told_and_takes_the_parked_along(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=2, init="stand_in")
    try:
        launcher, runner = walls.launcher, walls.runner
        runner.run(until(lambda: launcher.pool == 2))
        env = walls.launch(walls.planned(["/bin/true"]))
        runner.run(until(lambda: launcher.pool == 2))
        fds = [os.pidfd_open(one.pid) for one in launcher.parked]
        deaths: list[str] = []
        launcher.on_death = lambda: deaths.append("told")
        os.kill(launcher.pid, signal.SIGKILL)
        runner.run(until(lambda: deaths))
        for fd in fds:
            wait_dead(fd)
            os.close(fd)
        assert env.is_alive(), "envs do not depend on it"
        env.close()
        with pytest.raises(LaunchFailed, match="launcher has ended"):
            walls.launch(walls.planned(["/bin/true"]))
    finally:
        walls.close()


def test_a_child_that_cannot_be_held_is_a_refusal_and_the_launcher_goes_on(tmp_path: Path) -> None:
    """Its descriptors come with the word of it, and are cut off where there is no room (recvmsg(2), MSG_CTRUNC)."""
    walls = Walls(tmp_path, pool=0, init="stand_in")
    try:
        launcher, runner = walls.launcher, walls.runner
        deaths: list[str] = []
        launcher.on_death = lambda: deaths.append("told")
        plan = walls.planned(["/bin/true"])
        shape = parked.shape_of(plan.profile, plan.base, [])
        with no_descriptors(), pytest.raises(LaunchFailed, match=os.strerror(errno.EMFILE)):
            runner.run(made_for(lambda take: launcher.park(shape, take), lambda: (b"", [])))
        runner.run(until(lambda: not children_of(launcher.pid)))  # it ends by itself
        walls.launch(plan).close()
        assert deaths == []
    finally:
        walls.close()


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from sandboxd.launch.client import CACHE, Launcher
async def main():
    launcher = await Launcher.start(pool=3, log=Path(sys.argv[1]), init="stand_in", path=sys.argv[2])
    while launcher.pool < 3:
        await asyncio.sleep(0.005)
    print(launcher.pid, *[one.pid for one in launcher.parked], flush=True)
    if sys.argv[3] == "stop":
        launcher.close()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["kill -9", "stop"])
def test_parked_children_go_when_the_daemon_does(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", DAEMON, str(tmp_path / "log"), STAND_IN, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as daemon:
        assert daemon.stdout is not None
        pids = [int(word) for word in daemon.stdout.readline().split()]
        assert len(pids) == 4
        fds = []
        for pid in pids:
            try:
                fds.append(os.pidfd_open(pid))
            except ProcessLookupError:  # it went before we could look
                assert how == "stop"
        if how == "kill -9":
            assert not select.select(fds, [], [], 0)[0]
            daemon.kill()
        for fd in fds:
            wait_dead(fd)
            os.close(fd)
        daemon.kill()
    assert (tmp_path / "log").read_text() == ""


def test_a_launcher_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    async def start() -> None:
        await Launcher.start(pool=1, log=tmp_path / "log", init="no_such_module")

    with pytest.raises(LaunchFailed, match="did not come up") as failed:
        asyncio.run(start())
    assert str(tmp_path / "log") in failed.value.hint
    assert "no_such_module" in (tmp_path / "log").read_text()


IN_A_NAMESPACE = """
import asyncio, json, os, sys
from pathlib import Path
from sandboxd.kernel import mounts, namespaces
uid, gid = os.getuid(), os.getgid()
namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
namespaces.write_proc("/proc/self/setgroups", b"deny")
namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
mounts.mount(None, "/", mounts.MS_REC | mounts.MS_PRIVATE)
from sandboxd.errors import LaunchFailed, WallUnavailable
from sandboxd.launch.probes import probe_host
from tests.walls.envs import Walls, program
root = Path(sys.argv[1])
"""


def in_a_namespace(code: str, tmp_path: Path) -> Any:
    """Run the daemon's side in a user and mount namespace of its own, where mounts and quotas are the test's to change."""
    command = [sys.executable, "-c", IN_A_NAMESPACE + code + "\nprint(json.dumps(found))", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_mount_made_after_parking_is_seen(tmp_path: Path) -> None:
    code = """
walls = Walls(root, pool=2)
async def filled():
    while walls.launcher.pool < 2:
        await asyncio.sleep(0.005)
walls.runner.run(filled())
before = {one.pid for one in walls.launcher.parked}
mounts.mount("tmpfs", str(walls.shop), 0, "size=1m")
(walls.shop / "only-here").touch()
env = walls.launch(walls.planned(program("found = os.listdir('.')", {})))
found = [env.found(), env.launched.pid in before]
env.close()
mounts.umount(str(walls.shop), 0)
walls.runner.run(filled())
async def settled():
    while {one.pid for one in walls.launcher.parked} & stale:
        await asyncio.sleep(0.005)
stale = {one.pid for one in walls.launcher.parked}
mounts.mount("tmpfs", str(walls.shop), 0, "size=1m")
walls.runner.run(settled())
found.append("replaced without a launch")
walls.close()
"""
    assert in_a_namespace(code, tmp_path) == [["only-here"], False, "replaced without a launch"]


def test_a_quota_that_is_used_up_is_said(tmp_path: Path) -> None:
    code = """
walls = Walls(root, pool=0)
namespaces.write_proc("/proc/sys/user/max_net_namespaces", b"0")
try:
    walls.launch(walls.planned(program("found = 1", {})))
except LaunchFailed as error:
    found = [error.details["errno"], error.hint]
namespaces.write_proc("/proc/sys/user/max_net_namespaces", b"100")
env = walls.launch(walls.planned(program("found = 1", {})))
env.close()
walls.close()
"""
    number, hint = in_a_namespace(code, tmp_path)
    assert number == errno.ENOSPC
    assert "user.max_*_namespaces" in hint


def test_only_our_own_ids_may_be_asked_for() -> None:
    uid, gid = os.getuid(), os.getgid()
    own = Order(talk.ORDER.pack(True, True, False, False, 0, uid, gid, gid, 0, 2) + b"[][]")
    assert (own.uid, own.gid, own.drop, own.network, own.base) == ((0, uid), (gid, gid), False, True, b"[]")
    for root, *ids in ((False, 0, 0, gid, gid), (False, uid, uid, 0, 0), (True, 0, 0, 0, 0), (False, 1, 65534, gid, gid)):
        with pytest.raises(PermissionDenied):
            Order(talk.ORDER.pack(True, True, root, False, *ids, 0, 0))


def test_a_request_that_makes_no_sense_is_answered(tmp_path: Path) -> None:
    async def ask() -> list[str]:
        launcher = await Launcher.start(pool=0, log=tmp_path / "log", init="stand_in", path=STAND_IN)
        try:
            said: list[str] = []
            for body in (b"", b"[]", b"{}", b"\xff" * 21, b"\0" * 21):
                heard = asyncio.get_running_loop().create_future()
                launcher.asked.append((None, heard.set_result, ""))  # type: ignore[arg-type]
                launcher.line.send(body)
                said.append(type(await asyncio.wait_for(heard, 30)).__name__)
            return said
        finally:
            launcher.close()

    assert asyncio.run(ask()) == ["LaunchFailed"] * 5


def test_frames_are_capped_on_both_sides() -> None:
    assert talk.FRAME_LIMIT == line.OUT_LIMIT == 4 << 20
    assert parked.failure_of("x", [], {"failed": "plan", "message": "m"}).details["step"] == "plan"


def test_the_hosts_network_is_shared_only_where_asked(tmp_path: Path) -> None:
    walls = Walls(tmp_path, pool=1, init="stand_in")
    launcher = walls.launcher
    shared = parked.shape_for(walls.planned(["/bin/true"], network=Network(mode="host")))

    async def keep(count: int) -> None:
        launcher.resize(1, {shared: count})

    try:
        walls.runner.run(until(lambda: launcher.pool == 1))
        told(walls, network=Network(mode="host"))
        assert launcher.pool == 1, "the pool is for private networks and was not touched"
        walls.runner.run(keep(2))  # a template expects so many
        walls.runner.run(until(lambda: (launcher.ready_of(launcher.shape), launcher.ready_of(shared)) == (1, 2)))
        told(walls, network=Network(mode="host"))
        assert (launcher.ready_of(launcher.shape), launcher.ready_of(shared)) == (1, 1), "the one that fits was taken"
        walls.runner.run(keep(1))
        walls.runner.run(until(lambda: len(children_of(launcher.pid)) == launcher.pool == launcher.wanted == 2))
    finally:
        walls.close()


def test_the_interpreter_of_the_probe_code_is_the_hosts() -> None:
    assert os.path.exists(PYTHON)


def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    """The first launcher compiles and begins anew, so that every one that serves has read all of its code."""
    walls = Walls(tmp_path, init="stand_in")
    try:
        kept = [path.name for path in (walls.state / CACHE).rglob("*.opt-2.pyc")]
        assert f"init.{sys.implementation.cache_tag}.opt-2.pyc" in kept
        assert told(walls)["config"]["name"] == "shop"
    finally:
        walls.close()
