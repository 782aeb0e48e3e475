"""Every state an env can be stuck in has an answer, in words that say what to do."""

from typing import Any

import pytest
from msgspec.structs import replace

from sandboxd.lifecycle.notebook import KEPT_DENIALS, KEPT_HITS, LONGEST, Notebook
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord, Wall
from sandboxd.lifecycle.states import ServiceState, State, Wanted
from sandboxd.lifecycle.why import answers, rules
from sandboxd.protocol.messages import Denial, LimitHit
from sandboxd.spec import EnvSpec, Limits, Network, Ready, Service, Workspace


def record(specs: dict[str, Service] | None = None, **changes: Any) -> EnvRecord:
    services = specs or {"main": Service(command=["serve"], port=3000)}
    given: dict[str, Any] = {
        "id": "0" * 32,
        "name": "shop",
        "owner": 1000,
        "group": 1000,
        "spec": EnvSpec(services=services),
        "services": {name: ServiceRecord(name=name, port=service.port) for name, service in services.items()},
        "created": 1.0,
        "state": State.STARTING,
        "init": Identity(pid=1, start_time=1, boot_id="b"),
    }
    return EnvRecord(**{**given, **changes})


def ended(**changes: Any) -> EnvRecord:
    return record(state=State.FAILED, init=None, started=2.0, **changes)


def only(found: EnvRecord, **unready: str) -> tuple[str, str, str]:
    (answer,) = answers(found, unready)
    return answer.topic, answer.text, answer.hint


def test_whom_a_bound_on_connections_keeps_waiting_or_sent_away() -> None:
    bounded = record(state=State.READY, overrides={"max_connections": 4})
    ready = {"main": ServiceRecord(name="main", port=3000, state=ServiceState.READY)}
    found = replace(bounded, services=ready)
    assert answers(found, {}, (), {"queued": 0, "refused": 0, "open": 4}) == []
    (told,) = answers(found, {}, (), {"queued": 2, "refused": 3})
    assert (told.topic, told.hint) == ("connections", "`sandbox update --max-connections 8 shop` allows more")
    assert "(max_connections = 4): 2 wait for one, 3 were answered 503 instead" in told.text
    assert answers(replace(found, overrides={}), {}, (), {"queued": 2, "refused": 3}) == []


# -- ended


def test_a_limit_that_ended_it_is_named_with_what_to_raise() -> None:
    told = answers(ended(cause="memory", reason="530MiB in use, the limit is 512MiB", exit_code=137), {})
    assert told[0].topic == "ended"
    assert "memory limit" in told[0].text
    assert "530MiB" in told[0].text
    assert "-m" in told[0].hint
    assert "nothing starts it again" in told[1].text
    assert "--ttl" in only(ended(cause="ttl", reason="its time to live of 5 s is over"))[2]


def test_what_could_not_start_says_the_refusal_and_its_fix() -> None:
    refused = ended(error=("WallUnavailable", "this host does not offer the user wall: quota", "sudo sysctl -w x=1"))
    assert only(replace(refused, started=None)) == (
        "start", "this host does not offer the user wall: quota", "sudo sysctl -w x=1"
    )  # fmt: skip
    no_hint = replace(refused, started=None, error=("WallUnavailable", "no wall", ""))
    assert only(no_hint)[2] == "sandbox doctor"
    assert only(ended(error=("CommandNotFound", "no such command: x", "")))[0] == "ended"


@pytest.mark.parametrize(
    ("code", "says"), [(3, "exit code 3"), (126, "executed"), (127, "not found"), (139, "SIGSEGV"), (137, "SIGKILL")]
)
def test_exit_codes_are_put_in_words(code: int, says: str) -> None:
    services = {"main": ServiceRecord(name="main", state=ServiceState.EXITED, exit_code=code)}
    topic, text, hint = only(ended(services=services, exit_code=code))
    assert topic == "ended"
    assert says in text
    assert "sandbox logs shop" in hint


def test_what_ended_well_or_was_asked_to_is_no_fault() -> None:
    well = {"main": ServiceRecord(name="main", state=ServiceState.EXITED, exit_code=0)}
    assert "by itself" in only(ended(services=well, exit_code=0))[1]
    assert "sandbox start shop" in only(ended(wanted=Wanted.STOPPED))[2]
    assert "init" in only(ended(reason="init was killed from outside"))[1]


def test_what_a_stop_waits_for() -> None:
    up = {"main": ServiceRecord(name="main", state=ServiceState.RUNNING, pid=2, port=3000)}
    topic, text, _ = only(record(state=State.STOPPING, services=up))
    assert (topic, "main" in text, "10s" in text) == ("ended", True, True)
    assert "no service" in only(record(state=State.STOPPING))[1]


# -- not ready


def test_a_service_that_waits_names_what_it_waits_for_and_why_that_is_not_ready() -> None:
    services = {
        "web": Service(command="serve", port=3000, depends_on=["db"]),
        "db": Service(command="postgres", port=5432),
    }
    states = {
        "web": ServiceRecord(name="web", port=3000),
        "db": ServiceRecord(name="db", state=ServiceState.RUNNING, pid=2, port=5432),
    }
    web, db = answers(record(services, services=states), {"db": "nothing listens on port 5432"})
    assert web.text == "web waits for db, which is running (nothing listens on port 5432)"
    assert db.text == "db runs but is not ready: nothing listens on port 5432"
    assert "listens on port 5432" in db.hint


@pytest.mark.parametrize(
    ("ready", "says"),
    [(Ready(http="/health"), "GET /health"), (Ready(command="pg_isready"), "`pg_isready`"), (None, "listens on port 3000")],
)
def test_the_hint_says_when_it_would_be_ready(ready: Ready | None, says: str) -> None:
    services = {"main": Service(command="serve", port=3000, ready=ready)}
    states = {"main": ServiceRecord(name="main", state=ServiceState.RUNNING, pid=2, port=3000)}
    assert says in only(record(services, services=states), main="no")[2]


def test_a_restart_says_when_and_after_what() -> None:
    states = {"main": ServiceRecord(name="main", port=3000, failures=3, exit_code=1)}
    topic, text, _ = only(record(services=states))
    assert topic == "restart"
    assert "exit code 1" in text
    assert "400ms" in text


def test_queued_and_running_well() -> None:
    assert only(record(state=State.QUEUED))[0] == "queued"
    fine = {"main": ServiceRecord(name="main", state=ServiceState.READY, pid=2, port=3000)}
    assert answers(record(state=State.READY, services=fine), {}) == []


# -- no URL, walls, rules


@pytest.mark.parametrize(
    ("service", "network", "says"),
    [
        (Service(command=["sleep", "9"]), Network(), "listens on no port"),
        (Service(command=["x"], port=1, expose="tcp"), Network(), "not HTTP"),
        (Service(command=["x"], port=1), Network(mode="none"), "--network none"),
    ],
)
def test_no_url_has_its_reason(service: Service, network: Network, says: str) -> None:
    ready = {"main": ServiceRecord(name="main", state=ServiceState.READY, pid=2, port=service.port)}
    found = record(state=State.READY, services=ready, spec=EnvSpec(services={"main": service}, network=network))
    topic, text, hint = only(found)
    assert (topic, says in text, bool(hint)) == ("url", True, True)


def test_no_url_on_the_hosts_network_names_the_port_it_was_given() -> None:
    ready = {"main": ServiceRecord(name="main", state=ServiceState.READY, pid=2)}
    spec = EnvSpec(services={"main": Service(command=["x"])}, network=Network(mode="host"))
    assert "34567" in only(record(state=State.READY, services=ready, spec=spec, given_port=34567))[1]


def test_a_wall_that_does_not_hold_is_said() -> None:
    ready = {"main": ServiceRecord(name="main", state=ServiceState.READY, pid=2, port=3000)}
    walls = {"landlock": Wall(offered=True, demanded=True, enforced=False, reason="nested")}
    topic, text, hint = only(record(state=State.READY, services=ready, walls=walls))
    assert (topic, hint) == ("wall", "sandbox doctor")
    assert "landlock" in text


def test_rules_promise_only_what_is_enforced() -> None:
    spec = EnvSpec(
        services={"main": Service(command=["x"])}, workspace=Workspace(path="/src/shop"), limits=Limits(memory=512 << 20)
    )
    walls = {
        "mount": Wall(offered=True, demanded=True, enforced=True),
        "pid": Wall(offered=True, demanded=True, enforced=False),
        "net": Wall(offered=True, demanded=False, enforced=False, reason="--network host shares the host's network"),
    }
    told = "\n".join(rules(record(spec=spec, walls=walls)))
    assert "/src/shop is writable" in told
    assert "memory 512MiB" in told
    assert "the system is read-only" in told
    assert "its own processes only" not in told
    assert "its own, open to the internet" in told
    assert "net: not asked for" in told


# -- what is kept


def denial(number: int = 0, **changes: Any) -> Denial:
    return Denial(
        **{"time": "2026-01-01T00:00:00.000Z", "wall": "seccomp", "what": f"call {number}", "program": "a", **changes}
    )


def test_one_kind_of_denial_is_one_entry_and_the_newest_word_counts() -> None:
    kept = Notebook()
    kept.denied(denial(count=1))
    kept.denied(denial(1))
    kept.denied(denial(count=7))
    assert [(one.what, one.count) for one in kept.denials] == [("call 1", 1), ("call 0", 7)]


def test_the_notebook_is_bounded_whatever_comes() -> None:
    kept = Notebook()
    for number in range(KEPT_DENIALS + 50):
        kept.denied(denial(number, program="p" * 5000))
        kept.hit(LimitHit(time="", limit=f"l{number}"))
    assert len(kept.denials) == KEPT_DENIALS
    assert kept.denials[-1].what == f"call {KEPT_DENIALS + 49}"
    assert len(kept.denials[0].program) == LONGEST
    assert len(kept.limits) == KEPT_HITS
    kept.begin()
    assert kept.denials == []
    assert len(kept.limits) == KEPT_HITS


def test_the_last_answer_of_a_check_stands_until_it_holds() -> None:
    kept = Notebook()
    kept.probed("web", "nothing listens")
    assert kept.unready == {"web": "nothing listens"}
    kept.probed("web", "")
    assert kept.unready == {}
