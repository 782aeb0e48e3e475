"""The queue before a real daemon's launcher: what waits, for what, for how long; and the end of a runaway.

So of sandboxd.daemon.admission.
"""

import shutil
import sys
import threading
import time

import pytest

from sandboxd.daemon.admission import host_memory, number_in, pressure
from sandboxd.errors import QueueFull
from sandboxd.protocol import messages as m
from sandboxd.spec import Limits
from tests.conftest import run_daemon
from tests.daemon.asking import ended, inspect, remove, run, until
from tests.daemons import PATIENCE, Daemon

SLEEP = "sleep 1000"


@pytest.fixture
def two():
    """A daemon that has two envs at most, and lets two wait."""
    yield from run_daemon(SANDBOXD_MAX_ENVS="2", SANDBOXD_QUEUE="2", SANDBOXD_QUEUE_WAIT="60")


def queue_up(client, name, **more):
    env = run(client, SLEEP, name=name, wait="created", **more)
    return env


def test_the_third_waits_until_one_has_ended(two):
    with two.client() as client:
        for name in ("a", "b"):
            run(client, SLEEP, name=name)
        assert queue_up(client, "c").state == "queued"
        assert queue_up(client, "d").state == "queued"
        assert "Queued" in two.sandbox("ps", "--filter", "name=c").stdout
        with pytest.raises(QueueFull, match=r"2 envs are alive.*2 wait already") as refused:
            run(client, SLEEP, name="e")
        assert "SANDBOXD_MAX_ENVS" in refused.value.hint
        assert refused.value.details["limit"] == "envs"
        assert refused.value.details["retry_after"] > 0
        client.call(m.Stop(target="a", timeout=0.1))
        assert client.call(m.Wait(target="c", until="ready", timeout=PATIENCE)).env.state == "ready"
        assert inspect(client, "d").state == "queued"
        assert client.call(m.Start(target="a", wait="created")).env.state == "queued"  # behind d
        client.call(m.Kill(target="c"))
        assert client.call(m.Wait(target="d", until="ready", timeout=PATIENCE)).env.state == "ready"
        assert inspect(client, "a").state == "queued"
        told = [event.detail.get("limit") for event in client.call(m.Events(filters=["event=queued"])).events]
        assert told == ["envs"] * 3
        for name in ("a", "b", "c", "d"):
            assert remove(client, name).leaked == {}


def test_what_waits_can_be_stopped_started_and_removed(two):
    with two.client() as client:
        for name in ("a", "b"):
            run(client, SLEEP, name=name)
        until(lambda: list((two.dir / "envs").glob(".ready-*")))
        place = two.dir / "envs" / f".ready-{queue_up(client, 'c').id}"
        assert client.call(m.Stop(target="c")).env.state == "stopped"
        assert client.call(m.Start(target="c", wait="created")).env.state == "queued"
        assert place.is_dir()  # made ahead, and held for it
        assert client.call(m.Remove(target="c")).receipt.leaked == {}
        assert not place.exists()
        assert queue_up(client, "d").state == "queued"


def test_run_waits_for_its_turn_and_is_told(two):
    with two.client() as client:
        for name in ("a", "b"):
            run(client, SLEEP, name=name)
        found = []

        def ask():
            with two.client() as other:
                found.append(run(other, "exit 7", name="c"))

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: any(env.name == "c" for env in client.call(m.List()).envs), "c")
        client.call(m.Stop(target="a", timeout=0.1))
        thread.join(PATIENCE)
        assert found[0].name == "c"
        assert ended(client, "c").exit_code == 7


def test_the_wait_has_an_end():
    for daemon in run_daemon(SANDBOXD_MAX_ENVS="1", SANDBOXD_QUEUE_WAIT="1"):
        with daemon.client() as client:
            run(client, SLEEP, name="a")
            with pytest.raises(QueueFull, match="it waited for 1 s") as refused:
                run(client, SLEEP, name="b")
            assert refused.value.details["retry_after"] > 0
            assert [env.name for env in client.call(m.List(all=True)).envs] == ["a"]
            shown = daemon.sandbox("run", "-d", "--name", "c", "--", "true", check=False)
            assert shown.returncode == 125
            assert "SANDBOXD_MAX_ENVS" in shown.stderr


def test_the_queue_survives_the_daemon(two):
    with two.client() as client:
        for name in ("a", "b"):
            run(client, SLEEP, name=name)
        for name in ("c", "d"):
            queue_up(client, name)
    two.kill()
    two.start()
    with two.client() as client:
        assert [inspect(client, name).state for name in ("c", "d")] == ["queued"] * 2
        client.call(m.Stop(target="a", timeout=0.1))
        assert client.call(m.Wait(target="c", until="ready", timeout=PATIENCE)).env.state == "ready"
        assert inspect(client, "d").state == "queued"


def test_memory_limits_add_up():
    for daemon in run_daemon(SANDBOXD_MAX_MEMORY="100m"):
        with daemon.client() as client:
            run(client, SLEEP, name="a", limits=Limits(memory=64 << 20))
            assert queue_up(client, "b", limits=Limits(memory=64 << 20)).state == "queued"
            assert "add up" in client.call(m.Events(filters=["event=queued"])).events[0].detail["reason"]
            client.call(m.Kill(target="a"))
            assert client.call(m.Wait(target="b", until="ready", timeout=PATIENCE)).env.state == "ready"


def test_nothing_starts_while_the_host_has_no_memory_left():
    for daemon in run_daemon(SANDBOXD_MEMORY_RESERVE=str(1 << 50), SANDBOXD_QUEUE="0"):
        with daemon.client() as client, pytest.raises(QueueFull, match="are to stay free"):
            run(client, SLEEP, name="a")


HOG = """
import time
data = bytearray({size})
data[::4096] = b"x" * len(data[::4096])
open("full", "w").close()
time.sleep(1000)
"""


def test_the_runaway_is_stopped_and_its_neighbour_is_not(tmp_path):
    host = host_memory()
    size = host.total // 32 + (100 << 20)  # the least that counts as one, and bounded
    if host.available < 4 * size:
        pytest.skip("too little memory here to play with")
    critical = host.available - size // 2
    for daemon in run_daemon(SANDBOXD_MEMORY_CRITICAL=str(critical), SANDBOXD_MEMORY_RESERVE="0"):
        with daemon.client() as client:
            run(client, ["python3", "-c", HOG.format(size=30 << 20)], name="neighbour", path=tmp_path)
            until((tmp_path / "full").exists)
            run(client, ["python3", "-c", HOG.format(size=size)], name="hog", path=tmp_path, limits=Limits(memory=2 * size))
            done = ended(client, "hog")
            assert (done.state, done.exit_code) == ("failed", 137)
            assert done.reason.startswith("memory: the host ran out of memory")
            assert "-m" in done.reason
            time.sleep(0.3)
            assert inspect(client, "neighbour").state == "ready"


def test_what_ends_as_fast_as_it_starts_meets_no_end_of_namespaces(tmp_path):
    """The daemon in a user namespace of its own, which has 6 network namespaces to give."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    wrapper = tmp_path / "python"
    wrapper.write_text(f"""#!/bin/sh
exec unshare -U -c --keep-caps sh -c 'echo 6 >/proc/sys/user/max_net_namespaces; exec {sys.executable} "$@"' sh "$@"
""")
    wrapper.chmod(0o755)
    daemon = Daemon(SANDBOXD_POOL="2")
    daemon.python = str(wrapper)
    try:
        daemon.start()
        with daemon.client() as client:
            threads = [threading.Thread(target=self_ending, args=(daemon, f"n{number}")) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE * 2)
            assert client.call(m.List(all=True)).envs == []
            told = client.call(m.Events(filters=["event=queued"])).events
            assert {event.detail["limit"] for event in told} == {"namespaces"}
    finally:
        daemon.close()


def self_ending(daemon, name):
    with daemon.client() as client:
        for _ in range(15):
            env = run(client, "true", name=name, wait="created")
            assert ended(client, env.id).exit_code == 0
            remove(client, env.id)


def test_what_the_host_says():
    host = host_memory()
    assert 0 < host.available <= host.total
    assert pressure() is None or 0 <= pressure() <= 100
    assert number_in("/proc/sys/kernel/pid_max") > 0
    assert number_in("/proc/sys/none") is None
