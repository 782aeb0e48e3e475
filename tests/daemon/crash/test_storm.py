"""Everything that may die is killed at random while requests come: no env is lost, none is doubled, no answer is wrong, and
each request that was not answered with 200 has its cause in what was killed just then.

So of sandboxd.daemon.adopt and sandboxd.router.master. CRASH_SECONDS and CRASH_SEED make the run longer, and another one.
"""

import contextlib
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle
from tests.daemon.asking import SERVER, inspect, remove, run
from tests.daemons import PATIENCE, Daemon

SECONDS = float(os.environ.get("CRASH_SECONDS", "4"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
WHAT = ("daemon", "launcher", "source", "router", "worker", "egress", "init")
ENVS, THREADS = 4, 2
LEAST = 3  # deaths, however busy the machine is
HOLD = 40.0  # a request may wait that long: for its env to be back


class Deaths:
    """What was killed, when: (from, until, what); until whatever took its place was seen to serve."""

    def __init__(self) -> None:
        self.spans: list[list[float | str]] = []

    @contextlib.contextmanager
    def of(self, what):
        span: list[float | str] = [time.monotonic(), float("inf"), what]
        self.spans.append(span)
        yield
        span[1] = time.monotonic()

    def causes(self, name, began, over):
        """The deaths that a request to that env can have met: of a router, through which it goes, or of its env's init. Those
        of daemon and launcher cost nothing: who comes meanwhile waits, or does not notice."""
        return {
            what
            for since, until, what in self.spans
            if since <= over and until >= began and what in ("router", "worker", f"init of {name}")
        }


class Load:
    """Requests over and over. bad: those that were not served, and those served with what is another's."""

    def __init__(self, daemon: Daemon, deaths: Deaths) -> None:
        self.daemon = daemon
        self.deaths = deaths
        self.over = threading.Event()
        self.served = 0
        self.wrong: list[object] = []
        self.unserved: list[tuple[str, float, float, object]] = []
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def _run(self, number):
        draw = random.Random(number)
        while not self.over.is_set():
            name = f"e{draw.randrange(ENVS)}"
            began = time.monotonic()
            try:
                status, body = self.daemon.request(name, timeout=HOLD)
            except Exception as error:
                self.unserved.append((name, began, time.monotonic(), error))
                self.over.wait(0.02)  # without a router each is refused at once
                continue
            if status != 200:
                self.unserved.append((name, began, time.monotonic(), status))
            elif body != name.encode():
                self.wrong.append((name, body))
            else:
                self.served += 1

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(2 * HOLD)


def answers(daemon, name):
    """Whether that env is served."""
    with contextlib.suppress(OSError, Exception):
        return daemon.request(name, timeout=HOLD)[0] == 200
    return False


def until(holds, what):
    deadline = time.monotonic() + 3 * PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def below(pid, comm):
    """The children of a process that are called so; none of one that has just ended."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == comm:
                    found.append(int(child))
    return found


def strike(daemon, deaths, draw):
    """Kill something, or several at once, and wait until what they did is done again."""
    struck = draw.sample([*WHAT], draw.choice([1, 1, 1, 2, 3]))
    name = f"e{draw.randrange(ENVS)}"
    with daemon.client() as client:
        status, init = client.call(m.Status()), inspect(client, name).pid
    pids = {"launcher": status.launcher_pid, "router": status.router_pid, "init": init}
    pids["worker"] = draw.choice(below(status.router_pid, "sandboxd-router"))
    pids["source"] = next(iter(below(status.launcher_pid, "sandboxd-source")), None)  # none before the first launch
    pids["egress"] = next(iter(below(status.router_pid, "sandboxd-egress")), None)
    with contextlib.ExitStack() as spans:
        for what in struck:
            spans.enter_context(deaths.of(f"init of {name}" if what == "init" else what))
        for what in struck:
            if what == "daemon":
                daemon.kill()
            elif pids[what] is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[what], signal.SIGKILL)
        if "daemon" in struck:
            time.sleep(draw.random() / 2)  # without one: nobody is there to be waited for
            daemon.start()
        if "launcher" in struck:
            until(lambda: status_of(daemon).launcher_pid not in (None, 0, pids["launcher"]), "another launcher")
        if "router" in struck:
            until(lambda: status_of(daemon).router_pid != pids["router"], "another router")
        if "worker" in struck:
            until(lambda: not Path(f"/proc/{pids['worker']}").exists(), "the worker is gone")
        if "egress" in struck:
            until(
                lambda: below(status_of(daemon).router_pid, "sandboxd-egress") not in ([], [pids["egress"]]), "another egress"
            )
        if "init" in struck and init is not None:
            until(lambda: now(daemon, name).pid not in (None, init), f"{name} is back")
        until(lambda: answers(daemon, name), f"{name} is served")
    return "+".join(struck)


def status_of(daemon):
    with daemon.client() as client:
        return client.call(m.Status())


def now(daemon, name):
    with daemon.client() as client:
        return inspect(client, name)


@pytest.mark.timeout(SECONDS + 300)
def test_nothing_is_lost_whatever_is_killed_under_load(daemon, tmp_path):
    with daemon.client() as client:
        for number in range(ENVS):
            place = tmp_path / f"e{number}"
            place.mkdir()
            (place / "index.html").write_text(f"e{number}")
            lifecycle = Lifecycle(restart="always")
            run(client, [*SERVER, "3000"], name=place.name, path=place, port=3000, wait="ready", lifecycle=lifecycle)
        ids = {env.name: env.id for env in client.call(m.List(all=True)).envs}
    deaths, draw = Deaths(), random.Random(SEED)
    load = Load(daemon, deaths)
    struck = []
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or len(struck) < LEAST:
            struck.append(strike(daemon, deaths, draw))
        until(lambda: all(answers(daemon, name) for name in ids), "all are served again")
    except BaseException as error:
        error.add_note(
            f"killed so far: {struck}, then {deaths.spans[-3:]}; the daemon lives: {daemon.process.alive}\n{daemon.log()}"
        )
        raise
    finally:
        load.end()
    assert load.wrong == []
    assert load.served > 0
    unexplained = [found for found in load.unserved if not deaths.causes(found[0], found[1], found[2])]
    assert not unexplained, f"{unexplained}\nkilled: {deaths.spans}\n{daemon.log()}"
    with daemon.client() as client:
        found = client.call(m.List(all=True)).envs
        assert {env.name: env.id for env in found} == ids
        assert {env.state for env in found} == {"ready"}
        for name in ids:
            assert remove(client, name).leaked == {}
    assert [name for name in os.listdir(daemon.dir / "envs") if not name.startswith(".ready-")] == []
    with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE):
        pass  # and the router is there
    print(f"killed {sorted(struck)}; {load.served} served, {len(load.unserved)} not")
