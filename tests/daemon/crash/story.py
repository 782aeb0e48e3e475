"""Envs under a daemon that dies again and again, and a model of what must be true of them.

What was answered holds, whatever died since: an env's state, its id, its init while nobody asked for another, what its router
name serves, how often its job ran. What was asked and not answered is asked again after the next daemon's start: it may have
been done or not, never by half.
"""

import contextlib
import http.client
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from sandboxd.daemon.body import PERFORM
from sandboxd.errors import DaemonUnreachable, InvalidState, NotFound
from sandboxd.protocol import messages as m
from sandboxd.spec import Service
from tests.daemon.asking import ENVIRON, spec
from tests.daemons import PATIENCE, Daemon

LOST = (DaemonUnreachable, ConnectionError, BrokenPipeError)
MORTAL = "tests.daemon.crash.mortal"
WHEN = ("before", "after")
STARTS = 20  # in a row that may die before they are through


class Known(msgspec.Struct):
    """What was answered last. sure: False while something is asked and not answered."""

    id: str
    state: str = ""
    pid: int | None = None
    sure: bool = False


class Story:
    """A daemon that may die, and what is known of its envs. fates: at which point of its work each next one dies (0: never)."""

    def __init__(self, daemon: Daemon, place: Path, fates: Iterator[int | str]) -> None:
        self.daemon = daemon
        self.place = place
        self.fates = fates
        self.known: dict[str, Known] = {}
        self.deaths = 0
        self.making = ""
        self.families: set[str] = set()  # beginnings of the names of envs that the daemon makes by itself
        self.rules: list[Callable[[Any], None]] = []  # more that must be true, to be asked of a client
        self.witness: Witness | None = None
        daemon.environ["CRASH_LOG"] = str(place / "points")
        daemon.module = MORTAL

    # -- life and death of the daemon

    def revive(self) -> None:
        """The daemon has died: start another, which may die in its turn, and see that nothing was lost."""
        for attempt in range(STARTS):
            assert self.daemon.process is not None
            assert self.daemon.process.wait() == -signal.SIGKILL, f"it ended by itself\n{self.daemon.log()}"
            self.deaths += 1
            self.daemon.environ["CRASH_AT"] = str(next(self.fates) if attempt < STARTS - 1 else 0)
            if self.witness is not None:
                self.witness.ask()
            try:
                self.daemon.start()
                self.check()
            except (*LOST, AssertionError) as error:
                try:
                    self.daemon.process.wait(5)
                except TimeoutError:  # it lives, so something else is wrong
                    raise error from None
                continue
            return

    def ask(self, name: str, params: Any) -> Any:
        """Ask until it is answered; raises what the daemon refuses."""
        known = self.known.get(name)
        while True:
            if known is not None:
                known.sure = False
            try:
                with self.daemon.client() as client:
                    return client.call(params)
            except LOST:
                self.revive()

    # -- what is asked

    def until(self, holds: Callable[[Any], object], what: str) -> None:
        """Ask until it is so; raises what the daemon refuses."""
        deadline = time.monotonic() + 4 * PATIENCE  # several starts of a daemon may be in it
        while True:
            try:
                with self.daemon.client() as client:
                    if holds(client):
                        return
            except LOST:
                self.revive()
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.daemon.log()}"
            time.sleep(0.05)

    def fetch(self, name: str, **headers: str) -> str:
        """What one request for that name is answered with. It is asked once: the router holds it while daemons die."""
        told, tell = os.pipe()
        found: list[tuple[int, str] | Exception] = []

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=2 * PATIENCE)
            try:
                connection.request("GET", "/", headers={"Host": f"{name}.localhost:{self.daemon.port}", **headers})
                answer = connection.getresponse()
                found.append((answer.status, answer.read().decode()))
            except Exception as error:
                found.append(error)
            finally:
                connection.close()
                os.close(tell)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            while self.daemon.process is not None and told not in select.select([told, self.daemon.process.result], [], [])[0]:
                self.revive()
        finally:
            thread.join()
            os.close(told)
        assert isinstance(found[0], tuple), f"{name}: {found}\n{self.daemon.log()}"
        assert found[0][0] == 200, f"{name}: {found}\n{self.daemon.log()}"
        return found[0][1]

    def make(
        self, name: str, command: Any = "sleep 1000", *, wait: Literal["started", "ready"] = "ready", **parts: Any
    ) -> None:
        """Make an env. Once there is a trace of it after a death, nobody asks again: what was begun goes on by itself."""
        asked = spec(command, name=name, **parts)
        self.making = name
        while name not in self.known:
            try:
                with self.daemon.client() as client:
                    self.known[name] = Known(id=client.call(m.Run(spec=asked, environ=ENVIRON, wait=wait)).env.id)
            except LOST:
                self.revive()
                with contextlib.suppress(NotFound, *LOST), self.daemon.client() as client:
                    self.known[name] = Known(id=client.call(m.Inspect(target=name)).env.id)

    def run(self, name: str, command: Any = "sleep 1000", **parts: Any) -> None:
        """Make an env and wait until it is ready."""
        self.make(name, command, **parts)
        self.settle(name, "ready")

    def job(self, name: str, **parts: Any) -> None:
        """Make an env that writes a line and exits with 3: once, and that code is told."""
        ran = self.place / f"{name}.ran"
        self.make(name, f"echo once >> {ran}; exit 3", wait="started", path=self.place, **parts)
        self.settle(name, "failed")
        found = self.ask(name, m.Inspect(target=name)).env
        assert (found.exit_code, ran.read_text()) == (3, "once\n"), f"{found}\n{self.daemon.log()}"

    def settle(self, name: str, state: str) -> None:
        """Wait for it to be so; from here on it is known to be."""
        if state != "suspended":
            self.ask(name, m.Wait(target=self.known[name].id, until="ready" if state == "ready" else "stopped", timeout=30.0))
        found = self.ask(name, m.Inspect(target=self.known[name].id)).env
        assert found.state == state, f"{name} is {found.state} ({found.reason}), not {state}\n{self.daemon.log()}"
        self.known[name] = Known(id=found.id, state=state, pid=found.pid, sure=True)

    def verb(self, name: str, params: Any, state: str) -> None:
        """Ask for a change; asked again after a death it may be done already."""
        deaths = self.deaths
        try:
            self.ask(name, params)
        except InvalidState:
            assert self.deaths > deaths, f"{params} was refused though nobody died"
        self.settle(name, state)

    def remove(self, name: str) -> None:
        """Remove it; asked again after a death it may be gone."""
        env_id = self.known[name].id
        deaths = self.deaths
        try:
            reply = self.ask(name, m.Remove(target=env_id, force=True))
            assert reply.receipt.leaked == {}, reply
        except NotFound:
            assert self.deaths > deaths
        del self.known[name]
        try:
            found = self.ask(name, m.Inspect(target=env_id)).env
        except NotFound:
            return
        raise AssertionError(f"{name} is there after its removal: {found}")

    # -- what must be true

    def check(self) -> None:
        """Every env that is known for sure is as it was."""
        with self.daemon.client() as client:
            envs = {env.id: env for env in client.call(m.List(all=True)).envs}
            for name, known in self.known.items():
                env = envs.get(known.id)
                if not known.sure:
                    continue
                assert env is not None, f"{name} is lost\n{self.daemon.log()}"
                if known.state == "ready" and env.state == "starting":
                    env = client.call(m.Wait(target=known.id, until="ready", timeout=30.0)).env
                found = client.call(m.Inspect(target=known.id)).env
                assert (found.state, found.pid) == (known.state, known.pid), f"{name}: {found}\n{self.daemon.log()}"
            strays = {env.name for env in envs.values()} - {*self.known, self.making}
            strays = {name for name in strays if not name.startswith(tuple(self.families))}
            assert not strays, f"nobody asked for {strays}"
            for rule in self.rules:
                rule(client)


class Witness:
    """A connection through the router that is kept open over all deaths, and asked over and over."""

    def __init__(self, daemon: Daemon, name: str, expected: bytes) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        self.host = f"{name}.localhost:{daemon.port}"
        self.expected = expected

    def ask(self) -> None:
        """It must answer, on the same connection."""
        sock = self.connection.sock
        self.connection.request("GET", "/", headers={"Host": self.host})
        answer = self.connection.getresponse()
        assert (answer.status, answer.read()) == (200, self.expected)
        assert sock is None or self.connection.sock is sock, "the connection was closed"

    def close(self) -> None:
        """Close it."""
        self.connection.close()


def fates(seed: int, deaths: int, longest: int) -> Iterator[int | str]:
    """At which point each daemon dies; after so many deaths none does any more. Every third at an effect, before or after: each
    in its turn."""
    draw = random.Random(seed)
    effects = [f"{when} {perform.__qualname__} {effect.__name__}" for effect, perform in PERFORM.items() for when in WHEN]
    draw.shuffle(effects)
    for number in range(deaths):
        early = min(draw.randint(1, longest), draw.randint(1, longest))  # most in what is done after a death
        yield effects[number // 3 % len(effects)] if number % 3 == 2 else early
    while True:
        yield 0


def lives(story: Story, number: int) -> None:
    """One env of every kind through all that can be asked of it."""
    plain, pair, job = f"plain-{number}", f"pair-{number}", f"job-{number}"
    story.run(plain)
    story.verb(plain, m.Suspend(target=plain), "suspended")
    story.verb(plain, m.Resume(target=plain), "ready")
    story.verb(plain, m.Update(target=plain, limits={"memory": 1 << 30}), "ready")
    story.job(job)
    services = {
        "web": Service(command="sleep 1000", depends_on=["db"]),
        "db": Service(command="sleep 1000"),
    }
    story.run(pair, services=services)
    story.verb(pair, m.Restart(target=pair, timeout=0.2), "ready")
    story.verb(plain, m.Stop(target=plain, timeout=0.2), "stopped")
    story.verb(plain, m.Start(target=plain), "ready")
    story.verb(plain, m.Kill(target=plain), "stopped")
    for name in (pair, plain, job):
        story.remove(name)
