"""Limits of a real env without cgroups: changed while it runs, refused by name, sampled, and the end that they bring.

So of sandboxd.daemon.updates, sandboxd.daemon.limiting, sandboxd.daemon.disk and sandboxd.daemon.watch.
"""

import contextlib
import errno
import os
import resource
import time

import pytest

from sandboxd.errors import InvalidState, LimitUnenforceable, SpecInvalid, UsageError
from sandboxd.limits.sacrifice import SCORE
from sandboxd.limits.sampler import walk
from sandboxd.protocol import messages as m
from sandboxd.spec import Isolation, Limits
from tests.daemon.asking import ended, inspect, remove, run
from tests.daemons import PATIENCE
from tests.require import require

M = 1 << 20
SLEEP = ["sleep", "1000"]


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def until(condition, what="it"):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)


def update(client, target, **limits):
    return client.call(m.Update(target=target, limits=limits)).env


def first_pid(client, target):
    """The host's pid of the first service."""
    found = inspect(client, target).services[0].pid
    assert found is not None
    return found


def test_how_each_limit_is_enforced_is_said(client):
    info = run(client, SLEEP, limits=Limits(memory=64 * M, disk=64 * M))
    assert inspect(client, info.id).limits_enforced == {
        "memory": "sampled", "pids": "rlimit", "nofile": "rlimit", "disk": "sampled",
    }  # fmt: skip
    remove(client, info.id)


def test_memory_grows_and_shrinks_while_it_runs_and_the_spec_stays(client):
    info = run(client, SLEEP, limits=Limits(memory=64 * M))
    pid = first_pid(client, info.id)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    update(client, info.id, memory=128 * M)
    assert resource.prlimit(pid, resource.RLIMIT_DATA) == (soft + 2 * 64 * M, hard)
    found = inspect(client, info.id)
    assert found.limits["memory"] == 128 * M
    assert found.spec is not None
    assert found.spec.limits.memory == 64 * M
    update(client, info.id, memory=32 * M)
    assert resource.prlimit(pid, resource.RLIMIT_DATA)[0] == soft - 2 * 32 * M
    update(client, info.id, memory=None)
    assert resource.prlimit(pid, resource.RLIMIT_DATA)[0] == hard
    assert "memory" not in inspect(client, info.id).limits_enforced
    remove(client, info.id)


def test_shrinking_below_what_is_in_use_is_refused_and_changes_nothing(client):
    hold = "import time; x = b'x' * 40_000_000; open('held', 'w').close(); time.sleep(1000)"
    info = run(client, ["python3", "-c", hold], limits=Limits(memory=128 * M))
    until(lambda: inspect(client, info.id).usage.memory_bytes > 40_000_000, "the memory")
    with pytest.raises(InvalidState, match="of memory are in use, more than 20MiB"):
        update(client, info.id, memory=20 * M)
    assert inspect(client, info.id).limits["memory"] == 128 * M
    remove(client, info.id)


def test_what_a_new_limit_forbids_is_stopped_and_named(client):
    hold = "import time\ntime.sleep(1)\nx = b'x' * 90_000_000; time.sleep(1000)"
    info = run(client, ["python3", "-c", hold])
    update(client, info.id, memory=48 * M)
    found = ended(client, info.id)
    assert (found.exit_code, found.state) == (137, "failed")
    assert found.reason.startswith("memory: 48MiB limit, peak ")
    assert "-m" in found.reason
    remove(client, info.id)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"pids": 4000}, LimitUnenforceable),
        ({"nofile": 100}, LimitUnenforceable),
        ({"memory_high": 64 * M}, LimitUnenforceable),
        ({"cpus": 0.5}, LimitUnenforceable),
        ({"memory": 1000}, SpecInvalid),
        ({"memry": 1}, UsageError),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, limits, error):
    info = run(client, SLEEP)
    before = inspect(client, info.id)
    with pytest.raises(error):
        update(client, info.id, **limits)
    after = inspect(client, info.id)
    assert (after.limits, after.limits_enforced) == (before.limits, before.limits_enforced)
    remove(client, info.id)


def test_tasks_can_be_fewer_at_once_and_more_after_a_stop(client):
    info = run(client, SLEEP)
    update(client, info.id, pids=100)
    assert resource.prlimit(first_pid(client, info.id), resource.RLIMIT_NPROC) == (100, 100)
    client.call(m.Stop(target=info.id))
    update(client, info.id, pids=2000)
    client.call(m.Start(target=info.id))
    assert resource.prlimit(first_pid(client, info.id), resource.RLIMIT_NPROC) == (2000, 2000)
    remove(client, info.id)


def test_changed_limits_outlive_the_daemon(daemon):
    with daemon.client() as client:
        info = run(client, SLEEP)
        update(client, info.id, memory=96 * M, disk=64 * M)
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        found = inspect(client, info.id)
        assert (found.limits["memory"], found.limits["disk"]) == (96 * M, 64 * M)
        assert found.limits_enforced["disk"] == "sampled"
        remove(client, info.id)


WRITE = """
import os, time
for number in range(1000):
    with open(os.path.expanduser(f"~/{number}"), "wb") as file:
        file.write(os.urandom(1 << 20))
    time.sleep(0.02)
"""


def test_what_fills_its_home_is_stopped_and_a_neighbour_is_not(client):
    neighbour = run(client, SLEEP, limits=Limits(disk=8 * M))
    info = run(client, ["python3", "-c", WRITE], limits=Limits(disk=8 * M))
    found = ended(client, info.id)
    assert (found.exit_code, found.state) == (137, "failed")
    assert found.reason.startswith("disk: 8MiB limit, peak ")
    assert "--disk" in found.reason
    assert inspect(client, neighbour.id).state == "ready"
    hits = client.call(m.Why(target=info.id)).limits
    assert [(hit.limit, hit.value) for hit in hits] == [("disk", 8 * M)]
    for env in (info, neighbour):
        remove(client, env.id)


BIG = """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fd = os.open(os.path.expanduser("~/big"), os.O_CREAT | os.O_WRONLY)
try:
    os.posix_fallocate(fd, 0, 1 << 34)
except OSError as error:
    raise SystemExit(error.errno)
"""


def test_one_huge_file_is_refused_by_the_kernel_at_once(client):
    info = run(client, ["python3", "-c", BIG], limits=Limits(disk=16 * M))
    assert ended(client, info.id).exit_code == errno.EFBIG
    remove(client, info.id)


FORK = """
import os, time
for _ in range(64):
    try:
        if not os.fork():
            time.sleep(1000)
    except OSError:
        pass
time.sleep(1000)
"""


def test_a_full_table_of_tasks_is_noted_and_ends_nothing(client):
    info = run(client, ["python3", "-c", FORK], limits=Limits(pids=24, memory=512 * M))
    until(lambda: client.call(m.Why(target=info.id)).limits, "the hit")
    (hit,) = client.call(m.Why(target=info.id)).limits
    assert (hit.limit, hit.value) == ("pids", 24)
    assert "--pids-limit" in hit.advice
    assert inspect(client, info.id).state == "ready"
    remove(client, info.id)


def test_limits_of_every_process_change_also_of_those_that_stay_behind_init(client):
    spread = "import os, time\nfor _ in range(20):\n if not os.fork():\n  os.fork()\n  time.sleep(1000)\ntime.sleep(1000)"
    info = run(client, ["python3", "-c", spread], limits=Limits(disk=64 * M))
    until(lambda: inspect(client, info.id).usage.pids >= 41, "the processes")
    update(client, info.id, disk=32 * M)
    init = inspect(client, info.id).pid
    family, waiting = [], [init]
    while waiting:
        pid = waiting.pop()
        family.append(pid)
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    waiting += map(int, file.read().split())
    assert len(family) > 41
    assert {resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] for pid in family} == {32 * M}
    remove(client, info.id)


def score(pid):
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


@pytest.mark.parametrize("level", ["full", "landlock"])
def test_the_kernel_is_to_end_what_runs_before_what_keeps_its_logs(client, tmp_path, level):
    if level == "landlock":
        require("landlock")
    env = run(client, "sleep 1000 & exec sleep 1000", name="spare", path=tmp_path, isolation=Isolation(level=level))
    own = score(env.pid)
    until(lambda: [score(pid) for pid in walk(env.pid)] == [SCORE, SCORE], "a higher score")
    with client.open(m.Exec(target="spare", argv=["sleep", "1000"], fds=True)):
        until(lambda: [score(pid) for pid in walk(env.pid)] == [SCORE] * 3, "that of a command")
    assert score(env.pid) == own < SCORE
    remove(client, "spare")
