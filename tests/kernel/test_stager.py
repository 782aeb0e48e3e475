"""The stager (sandboxd.launch.stager, made by sandboxd.launch.child): the first program is its exec, behind the walls."""

import json
import os
import select
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sandboxd.errors import LaunchFailed
from sandboxd.isolation.steps import Bounding, Phase, Rlimits
from sandboxd.launch.client import InitFds, messages_of, own_steps
from sandboxd.launch.stager import Bridge
from tests.walls.envs import TIMEOUT, Walls, program

LOOK = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
import resource
found = {
    "pid": [os.getpid(), os.getppid(), os.getsid(0)],
    "masks": [status["SigBlk"], status["SigIgn"], status["SigPnd"]],
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "others": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
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
    assert found == {
        "pid": [2, 1, 2],
        # Python itself ignores SIGPIPE and SIGXFSZ (bits 12 and 24).
        "masks": ["0000000000000000", "0000000001001000", "0000000000000000"],
        "fds": [0, 1, 2, 3],  # the last is that of the listing
        "umask": 0o022,
        "cwd": str(walls.shop),
        "core": [0, 0],
        "others": [1, 2],
        "mounts": 1,
    }


def test_a_program_that_ignores_nothing_dies_of_a_closed_pipe(walls: Walls) -> None:
    found = walls.inside("found = [line.split()[1] for line in os.popen('exec grep SigIgn /proc/self/status')]")
    assert found == ["0000000000000000"]


def test_walls_of_one_process_are_raised_by_both(walls: Walls) -> None:
    made = walls.planned(["/bin/true"])
    own = [step for step in made.base if step.phase >= Phase.PRIVILEGES]
    assert own == [Bounding()], "pid 1 does the one of the base without being told; it does not read the base"


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
    services = {"tty": msgspec.structs.replace(made.init.services["web"], tty=True), **made.init.services}
    made = msgspec.structs.replace(made, init=msgspec.structs.replace(made.init, services=services, start=["tty", "web"]))
    null = os.open("/dev/null", os.O_RDWR)
    try:
        staged, init = (json.loads(body) for body, _ in messages_of(made, InitFds(control=null, dial=null, exits=null), [null]))
    finally:
        os.close(null)
    assert staged["program"]["argv"] == ["/bin/true"]
    assert staged["fds"] == [["handed"]]
    assert len(staged["steps"]) == len(made.steps)
    assert init["first"] == "web"
    assert len(init["steps"]) == len(own_steps(made)) < len(made.steps)


def test_the_bridge_has_two_sides() -> None:
    bridge = Bridge()
    assert not set(bridge.of_init()) & set(bridge.of_stager())
    for fd in (*bridge.of_init(), *bridge.of_stager()):
        os.close(fd)
