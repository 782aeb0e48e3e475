"""The stager (sandboxd.launch.stager, made by sandboxd.launch.child) builds the view; pid 1 starts the first program in it."""

import errno
import json
import os
import select
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sandboxd.errors import LaunchFailed
from sandboxd.isolation.parking import halves, parts
from sandboxd.isolation.steps import Hostname, Loopback, Phase, Prove, Rlimits
from sandboxd.launch.apply import Stage
from sandboxd.launch.parcel import InitFds, init_half, stager_half
from sandboxd.launch.walls import LEFT, await_word
from tests.walls.envs import TIMEOUT, Walls, program

LOOK = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
import resource
found = {
    "pid": [os.getpid(), os.getppid(), os.getsid(0)],
    "masks": [int(status[key], 16) for key in ("SigBlk", "SigIgn", "SigPnd")],
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "others": sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and name != "2"),  # which may be ending
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")].count("/"),
}
"""


@pytest.fixture(autouse=True)
def _userns(require: Any) -> None:
    require("userns", "unprivileged")


@pytest.fixture(params=[0, 1], ids=["cold", "parked"])
def walls(request: Any, tmp_path: Path) -> Any:
    """A launcher with or without a parked child."""
    made = Walls(tmp_path, pool=request.param)
    yield made
    made.close()


def test_the_first_program_is_clean(walls: Walls) -> None:
    found = walls.inside(LOOK)
    pid = found["pid"][0]  # a parked pid 1 has rehearsed to make one
    assert pid in (3, 4)
    assert found == {
        "pid": [pid, 1, pid],
        "masks": [0, 0x1001000, 0],  # Python itself ignores SIGPIPE and SIGXFSZ
        "fds": [0, 1, 2, 3],  # the last is that of the listing
        "umask": 0o022,
        "cwd": str(walls.shop),
        "core": [0, 0],
        "others": [1, pid],
        "mounts": 1,
    }


def test_the_view_is_the_same_whether_somebody_waits_or_not(tmp_path: Path) -> None:
    """At once, sources are picked up before the base, and the host goes last; in the park it is the other way round."""
    look = "found = sorted(line.split()[4:6] for line in open('/proc/self/mountinfo'))"
    seen = []
    for pool, name in enumerate(("cold", "park")):
        (tmp_path / name).mkdir()
        walls = Walls(tmp_path / name, pool=pool)
        try:
            seen.append([[path.replace(name, ""), options] for path, options in walls.inside(look)])
        finally:
            walls.close()
    assert len(seen[0]) > 10
    assert seen[0] == seen[1]


def test_pid_1_goes_no_further_without_the_stagers_word() -> None:
    for said, code in ((b"", 1), (b"v", 1), (b"l", 0)):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.send(said) if said else ours.shutdown(socket.SHUT_WR)
            pid = os.fork()
            if pid == 0:
                stage = Stage()
                stage.bridge = theirs  # type: ignore[assignment]
                await_word(stage, LEFT)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_a_program_that_ignores_nothing_dies_of_a_closed_pipe(walls: Walls) -> None:
    found = walls.inside("found = [line.split()[1] for line in os.popen('exec grep SigIgn /proc/self/status')]")
    assert int(found[0], 16) == 0


def test_each_step_is_done_by_the_one_it_acts_on(walls: Walls) -> None:
    made = walls.planned(["/bin/true"])
    view, ahead, own, confined = parts(made.steps, parked=True)
    steps = [*view, *own, *ahead[:-1], *confined[:-1]]
    assert sorted(steps, key=repr) == sorted(made.steps[:-1], key=repr)
    proofs = [made.steps[-1], ahead[-1], confined[-1]]
    walls_of = [set(step.walls) for step in proofs if isinstance(step, Prove)]
    assert walls_of[0] == walls_of[1] | walls_of[2] == {name for name, wall in made.walls.items() if wall.demanded}
    assert "landlock" in walls_of[2]
    assert {step.phase < Phase.PRIVILEGES for step in view} == {True}
    assert {Phase.PRIVILEGES <= step.phase <= Phase.SECCOMP for step in [*own, *ahead[:-1]]} == {True}
    assert {step.phase > Phase.SECCOMP for step in confined} == {True}
    base, network = halves(made.base)
    assert Loopback() in network
    assert sorted([*base, *network], key=repr) == sorted(made.base, key=repr)
    assert [step for step in made.base if step.phase >= Phase.PRIVILEGES] == []


def test_a_wall_that_cannot_be_raised_lets_nothing_run(walls: Walls) -> None:
    made = walls.planned(["/bin/touch", str(walls.shop / "ran")])
    wrong = Rlimits([("NOFILE", 1 << 40, 1 << 40)])  # over the hard limit: EPERM (setrlimit(2))
    steps = [wrong if isinstance(step, Rlimits) else step for step in made.steps]
    with pytest.raises(LaunchFailed) as failed:
        walls.launch(msgspec.structs.replace(made, steps=steps))
    assert failed.value.details["step"] == wrong.describe()
    assert not (walls.shop / "ran").exists()


def test_where_nothing_is_to_be_started_the_stager_goes(walls: Walls) -> None:
    made = walls.planned(["/bin/true"])
    env = walls.launch(msgspec.structs.replace(made, init=msgspec.structs.replace(made.init, start=[])))
    children = Path(f"/proc/{env.launched.pid}/task/{env.launched.pid}/children")
    try:
        stagers = [os.pidfd_open(int(pid)) for pid in children.read_text().split()]
        for stager in stagers:
            assert select.select([stager], [], [], TIMEOUT)[0]
            os.close(stager)
        assert env.is_alive()
    finally:
        env.close()


def test_the_word_of_the_launch_brings_what_init_would_greet_with(walls: Walls) -> None:
    """Without the service's pid now and then: vfork(2) returns a moment before exec closes what tells of it."""
    for left in reversed(range(20)):
        env = walls.launch(walls.planned(["/bin/sleep", "600"]))
        try:
            status = env.launched.status
            assert status is not None
            service = status.services["web"]
            if service.pid is None and left:
                continue
            assert service.pid is not None
            assert service.pid > 1
            assert (service.wait_status, status.failed) == (None, {})
            assert [(session["session"], session["pid"]) for session in status.sessions] == [("attach:web", service.pid)]
            return
        finally:
            env.close()


def test_a_terminal_is_opened_by_pid_1(walls: Walls) -> None:
    made = walls.planned(program("found = [os.ttyname(0), os.getpid() > 2, os.listdir('.')]", {}))
    service = msgspec.structs.replace(made.init.services["web"], tty=True)
    (walls.shop / "here").touch()
    env = walls.launch(msgspec.structs.replace(made, init=msgspec.structs.replace(made.init, services={"web": service})))
    try:
        assert json.loads(env.lines(count=2)[-1]) == ["/dev/pts/0", True, ["here"]]
    finally:
        env.close()


def test_each_gets_its_own_half(walls: Walls) -> None:
    made = walls.planned(["/bin/true"])
    null = os.open("/dev/null", os.O_RDWR)
    try:
        taken = parts(made.steps, parked=True)
        halves = stager_half(taken.view, [null]), init_half(made, taken, InitFds(control=null, dial=null, exits=null))
    finally:
        os.close(null)
    staged, init = (json.loads(body) for body, _ in halves)
    assert staged["fds"] == [["handed"]]
    assert init["fds"] == [["control"], ["dial"], ["exits"]]
    assert len(taken.ahead) + len(init["steps"]) + len(init["walls"]) + len(staged["steps"]) == len(made.steps) + 1


def test_a_stager_that_fails_takes_the_child_along(walls: Walls) -> None:
    made = walls.planned(["/bin/touch", str(walls.shop / "ran")])
    wrong = [Hostname("x" * 300), *made.steps]
    with pytest.raises(LaunchFailed) as failed:
        walls.launch(msgspec.structs.replace(made, steps=wrong))
    assert failed.value.details["errno"] == errno.EINVAL, "its own word, not that it died"
    assert not (walls.shop / "ran").exists()


@pytest.mark.parametrize("argv", [["true"], ["/bin/true"], ["no-such-program"], ["/etc"], ["/etc/passwd"]])
def test_a_first_program_that_ends_or_never_runs_leaves_the_env(walls: Walls, argv: list[str]) -> None:
    env = walls.launch(walls.planned(argv))
    try:
        assert env.lines() == []
        assert env.is_alive()
    finally:
        env.close()
