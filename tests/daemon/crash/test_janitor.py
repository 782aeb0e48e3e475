"""What belongs to no env is found while the daemon runs, removed, and counted; and each removal is told with its counts.

So of sandboxd.daemon.janitor and sandboxd.daemon.receipts.
"""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import threading
import time

import pytest

from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle, Network, Publish
from tests.conftest import run_daemon
from tests.daemon.asking import SERVER, ended, inspect, remove, run
from tests.daemons import PATIENCE

STRAY = "f" * 32


@pytest.fixture(scope="module")
def tidy():
    """One for all: what a test leaves to be found is found before its end."""
    yield from run_daemon(SANDBOXD_JANITOR="1")


@pytest.fixture
def own():
    yield from run_daemon(SANDBOXD_JANITOR="1")


def until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def leaks(client):
    """sandboxd_leaks_total by kind."""
    text = client.call(m.Metrics()).text
    lines = [line for line in text.splitlines() if line.startswith("sandboxd_leaks_total{")]
    return {line.partition('kind="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_places_of_nobody_are_removed_and_counted(tidy, tmp_path):
    envs = tidy.dir / "envs"
    dead = f".control.sock.{os.getpid() + (1 << 22)}"  # above what pid_max can be (proc(5))
    with tidy.client() as client:
        kept = run(client, "sleep 1000", name="kept", path=tmp_path)
        before = inspect(client, "kept")
        for name in (STRAY, ".gone-" + STRAY, ".ready-" + STRAY):
            (envs / name / "home" / "deep").mkdir(parents=True)
        (envs / "notes").write_text("not ours")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tidy.dir / dead))
        until(lambda: not stray_names(envs), "removed")
        assert {kept.id, "notes"} <= set(os.listdir(envs))
        until(lambda: not (tidy.dir / dead).exists(), "the socket is removed")
        until(lambda: leaks(client).get("files", 0) >= 3 and leaks(client).get("sockets") == 1, "counted")
        after = inspect(client, "kept")
        assert (after.id, after.state, after.pid, after.services) == (before.id, before.state, before.pid, before.services)
        assert remove(client, "kept").leaked == {}
    (envs / "notes").unlink()
    assert "belonged to no env, and was removed" in tidy.log()


def stray_names(envs):
    return [name for name in os.listdir(envs) if name.endswith(STRAY)]


def test_an_init_in_a_place_of_nobody_is_ended(tidy, tmp_path):
    """Somebody moved an env's directory: its init answers from where no env is."""
    with tidy.client() as client:
        env = run(client, "sleep 1000", name="moved", path=tmp_path)
        os.rename(tidy.dir / "envs" / env.id, tidy.dir / "envs" / STRAY)
        assert ended(client, "moved").state == "failed"
        until(lambda: not stray_names(tidy.dir / "envs"), "removed")
        assert remove(client, "moved").leaked == {}


def test_a_published_port_of_nobody_is_closed(own, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    network = Network(publish=[Publish(host_port=port, port=3000)])
    with own.client() as client:
        run(client, [*SERVER, "3000"], name="forgotten", path=tmp_path, port=3000, network=network, wait="ready")
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    own.kill()
    with contextlib.closing(sqlite3.connect(own.dir / "state.db")) as database, database:
        database.execute("DELETE FROM envs")
    own.start()

    def is_closed():
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # it was in the queue of a listener that went
            return False
        return False

    until(is_closed, "the port is closed")
    with own.client() as client:
        until(lambda: leaks(client).get("routes") == 1, "counted")
        assert leaks(client)["files"] >= 1


def test_the_receipt_counts_every_kind(tidy, tmp_path):
    with tidy.client() as client:
        run(client, "echo x > /dev/shm/one; touch ready; sleep 1000", name="full", path=tmp_path)
        until((tmp_path / "ready").exists, "it wrote its file")
    told = json.loads(tidy.sandbox("rm", "-f", "--receipt", "full").stdout)["receipt"]
    assert told["before"]["tasks"] >= 2
    assert told["before"]["mounts"] > 1
    assert told["before"]["shm"] == 1
    assert told["before"]["sockets"] >= 2
    assert told["leaked"] == {}
    assert set(told["after"]) == {"tasks", "mounts", "shm", "files", "sockets", "routes", "cgroups"}
    assert not any(told["after"].values())


@contextlib.contextmanager
def haunted(place):
    """Somebody outside goes on writing to where an env was."""
    over = threading.Event()

    def haunt():
        while not over.wait(0.001):
            with contextlib.suppress(OSError):
                place.mkdir()
                (place / "ghost").touch()

    ghost = threading.Thread(target=haunt)
    ghost.start()
    try:
        yield
    finally:
        over.set()
        ghost.join()


def test_what_a_removal_leaves_is_an_error_and_is_counted(tidy, tmp_path):
    with tidy.client() as client:
        before = leaks(client).get("files", 0)
        for _ in range(3):  # the janitor may have taken it away just when it was counted
            place = tidy.dir / "envs" / run(client, "sleep 1000", name="haunted", path=tmp_path).id
            with haunted(place):
                told = tidy.sandbox("rm", "-f", "--receipt", "haunted", check=False)
            if told.returncode:
                break
        assert told.returncode == 125, told
        assert json.loads(told.stdout)["receipt"]["leaked"]["files"] >= 1
        assert leaks(client)["files"] > before
        until(lambda: not place.exists(), "the janitor has taken it away")
    assert "was removed, and left 1 files" in tidy.log()


@pytest.mark.parametrize("how", ["rm", "prune", "--rm"])
def test_the_event_of_a_removal_has_its_counts(tidy, tmp_path, how):
    with tidy.client() as client:
        env = run(client, "true", name="brief", path=tmp_path, lifecycle=Lifecycle(remove=how == "--rm"))
        if how != "--rm":
            ended(client, env.id)
        if how == "rm":
            remove(client, env.id)
        elif how == "prune":
            client.call(m.Prune())
        with contextlib.suppress(Exception):
            client.call(m.Wait(target=env.id, until="removed", timeout=PATIENCE))

    def removals():
        return [event for event in tidy.json("events", "--since", "1h") if (event["event"], event["id"]) == ("removed", env.id)]

    until(removals, "the removal is told")
    (event,) = removals()
    assert "files" in event["detail"]["before"]
    assert event["detail"]["after"] == "nothing"


def test_who_left_while_an_env_was_removed_changes_nothing(tidy, tmp_path):
    """The counts are the actor's, not the request's."""
    with tidy.client() as client:
        env = run(client, "trap '' TERM; sleep 1000", name="alone", path=tmp_path)
    asked = tidy.keeper.spawn(
        ["python3", "-c", f"from sandboxd.client import Client; from sandboxd.protocol.messages import Remove;"
         f"Client({str(tidy.dir / 'control.sock')!r}, autostart=False).call(Remove(target={env.id!r}, force=True))"],
        tidy.environ, [0, 1, 2],
    )  # fmt: skip
    until(lambda: not (tidy.dir / "envs" / env.id).exists() or not asked.alive, "it was asked")
    asked.send_signal(signal.SIGKILL)
    asked.wait()
    asked.close()
    until(
        lambda: [e for e in tidy.json("events", "--since", "1h") if (e["event"], e["id"]) == ("removed", env.id)],
        "the removal is told",
    )
