"""The machine under a daemon that dies between any two effects: a model of the world that it acts on, and what must hold there.

The world is one env: its init, what init's services do, what init wrote down. A daemon has a queue, timers and effects not yet
done, and loses them all when it dies; the record that it journalled last stays, and the world goes on. The next one looks at
the world and tells the machine what it saw, by the same rules as sandboxd.daemon.adopt.
"""

import itertools
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord
from sandboxd.lifecycle.recovery import Ended, lost, told
from sandboxd.lifecycle.states import ALIVE, ENDED, UP, ServiceState, State, Wanted
from sandboxd.spec import EnvSpec, Lifecycle, Service

BOOT = "b"
SPECS = {
    "one": {"web": Service(command="serve")},
    "two": {"web": Service(command="serve", depends_on=["db"]), "db": Service(command="db")},
    "port": {"web": Service(command="serve", port=80)},
}

ASKED = {
    "stop": ev.StopAsked(),
    "restart": ev.StopAsked(again=True),
    "start": ev.StartAsked(),
    "kill": ev.KillAsked(),
    "suspend": ev.SuspendAsked(),
    "resume": ev.ResumeAsked(),
    "remove": ev.RemoveAsked(),
}


class World:
    """What is there whoever looks: an init with services (pid: exit code, None while it runs), the ends it wrote down."""

    def __init__(self):
        self.init = None
        self.pids = itertools.count(1)
        self.services = {}
        self.written = []
        self.stopped = False
        self.there = True
        self.executed = 0

    def execute(self, name):
        self.executed += 1
        self.services[name] = [next(self.pids), None]
        return self.services[name][0]

    def end_init(self):
        self.init, self.services, self.stopped = None, {}, False


class Crashes(RuleBasedStateMachine):
    """See above."""

    @initialize(kind=st.sampled_from(sorted(SPECS)), policy=st.sampled_from(["no", "on-failure", "always"]), calm=st.booleans())
    def create(self, kind, policy, calm):
        self.now = 100.0
        self.world = World()
        spec = EnvSpec(services=SPECS[kind], lifecycle=Lifecycle(restart=policy))
        services = {name: ServiceRecord(name=name, port=service.port) for name, service in spec.services.items()}
        record = EnvRecord(id="0" * 32, name="shop", owner=1, group=1, spec=spec, services=services, created=1.0)
        self.calm = calm  # nothing ends by itself: what is to run then runs
        self.begin(record, [ev.Enqueue()])

    def begin(self, record, effects):
        """A daemon with this record."""
        self.record = record
        self.queue = deque()
        self.timers = {}
        self.effects = deque(effects)

    # -- what the daemon does, one thing at a time

    def work(self):
        """The next effect, else the next event; False: there is nothing to do."""
        if self.effects:
            self.perform(self.effects.popleft())
        elif self.queue and self.record.state is not State.REMOVED:
            self.record, effects = step(self.record, self.queue.popleft(), self.now)
            self.effects.extend(effects)
        else:
            return False
        return True

    def perform(self, effect):
        world = self.world
        match effect:
            case ev.Enqueue():
                world.written = []
                self.queue.append(ev.Admitted())
            case ev.Launch():
                assert world.init is None, "two inits"
                world.init = next(world.pids)
                found = [ev.ServiceStarted(service=name, pid=world.execute(name)) for name in effect.start]
                identity = Identity(pid=world.init, start_time=1, boot_id=BOOT)
                self.queue.extend([ev.Launched(init=identity, walls={}), *found])
            case ev.StartService() if world.init:
                running = world.services.get(effect.service)
                assert running is None or running[1] is not None, f"{effect.service} runs twice"
                self.queue.append(ev.ServiceStarted(service=effect.service, pid=world.execute(effect.service)))
            case ev.Probe() if world.init:
                self.queue.append(ev.ServiceReady(service=effect.service, port=80))
            case ev.SignalService() if not world.stopped:
                self.exit(effect.service, 143)
            case ev.KillInit() | ev.EndInit():
                world.end_init()
                self.queue.append(ev.InitGone())
            case ev.Suspend() if world.init:
                world.stopped = True
            case ev.Resume():
                world.stopped = False
            case ev.Arm():
                self.timers[effect.timer] = effect.event
            case ev.Disarm():
                for name in [effect.timer] if effect.timer else list(self.timers):
                    self.timers.pop(name, None)
            case ev.Discard():
                world.there = False

    def exit(self, name, code):
        """A service's process ends; init writes that down, and tells whoever listens."""
        process = self.world.services.get(name)
        if process is not None and process[1] is None:
            process[1] = code
            self.world.written.append(Ended(name, process[0], code))
            self.queue.append(ev.ServiceExited(service=name, pid=process[0], exit_code=code))

    # -- what may happen

    @rule(times=st.integers(1, 12))
    def go_on(self, times):
        self.go_on_for(times)

    def go_on_for(self, times):
        for _ in range(times):
            self.work()

    @rule()
    def time_passes(self):
        if self.timers:
            self.now += 1.0
            self.queue.append(self.timers.pop(sorted(self.timers)[0]))

    @precondition(lambda self: not self.calm)
    @rule(name=st.sampled_from(["web", "db"]), code=st.sampled_from([0, 3]))
    def service_ends(self, name, code):
        if not self.world.stopped:
            self.exit(name, code)

    @precondition(lambda self: self.world.init and not self.calm)
    @rule()
    def init_is_killed(self):
        self.world.end_init()
        self.queue.append(ev.InitGone())

    @rule(asked=st.sampled_from(sorted(ASKED)), times=st.integers(0, 12))
    def somebody_asks(self, asked, times):
        self.queue.append(ASKED[asked])
        self.go_on_for(times)

    @rule()
    def the_daemon_dies(self):
        """What is journalled is the record; the world stays. Another one comes and looks."""
        record, world = self.record, self.world
        self.begin(record, [ev.Settle(), ev.Discard()] if record.state is State.REMOVED else [])
        if record.state not in ALIVE:
            self.queue.append(ev.Adopted())
        elif world.init is None or (record.init is not None and record.init.pid != world.init):
            self.queue.extend(lost(record, world.written, BOOT))
        else:
            if record.init is None:
                identity = Identity(pid=world.init, start_time=1, boot_id=BOOT)
                self.queue.append(ev.Launched(init=identity, walls={}))
            news = {name: told(record, name, pid, code) for name, (pid, code) in world.services.items()}
            self.queue.append(ev.Adopted(begun=[name for name, events in news.items() if events]))
            for events in news.values():
                self.queue.extend(events)

    # -- what must hold

    def drain(self):
        """Let it come to rest, timers too."""
        for _ in range(400):
            if not self.work():
                pending = [name for name in self.timers if name.startswith(("restart", "grace"))]
                if not pending:
                    return
                self.now += 100.0
                self.queue.append(self.timers.pop(pending[0]))
        raise AssertionError(f"it never comes to rest: {self.record}")

    def teardown(self):
        if not hasattr(self, "record"):
            return
        self.drain()
        record, world = self.record, self.world
        if record.state in ENDED:
            assert world.init is None, f"it has ended, and its init lives: {record}"
            assert not any(service.state in UP for service in record.services.values())
        else:
            assert world.init is not None, f"it is {record.state}, and has no init"
            running = {name for name, (_, code) in world.services.items() if code is None}
            up = {name for name, service in record.services.items() if service.state in UP}
            assert up == running, f"{up} are up as far as is known, {running} run"
            assert not any(service.state is ServiceState.STARTING for service in record.services.values())
            assert world.stopped == (record.state is State.SUSPENDED)
        assert (record.state is State.REMOVED) == (not world.there)
        if record.wanted is Wanted.REMOVED:
            assert record.state is State.REMOVED, f"it is to be removed, and is {record.state}"
        elif self.calm:
            assert (record.state in ENDED) == (record.wanted is not Wanted.RUNNING), f"what was asked was lost: {record}"


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=max(400, settings().max_examples), stateful_step_count=30)


@pytest.mark.parametrize("asked", ["resume", "start", "stop"])
def test_what_was_to_run_again_runs_though_the_daemon_died_just_then(asked):
    """Chance seldom comes by here."""
    state = Crashes()
    state.create(calm=True, kind="one", policy="no")
    state.go_on(times=12)
    state.somebody_asks(asked="suspend", times=12)
    assert state.world.stopped
    state.somebody_asks(asked=asked, times=1)
    state.the_daemon_dies()
    if asked == "stop":
        state.go_on(times=3)
        assert not state.world.stopped, "its services have the grace to end by themselves"
    state.teardown()
