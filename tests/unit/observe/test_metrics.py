"""sandboxd.observe.metrics and sandboxd.observe.tally: numbers in Prometheus's format, by its own parser and its own linter."""

import json
import re
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sandboxd.observe.metrics import EnvReading, Reading, exposition
from sandboxd.observe.tally import BOUNDS, Histogram, Tally
from tests.daemons import ROOT
from tests.require import require


def reading(tally: Tally, **given) -> Reading:
    counts = {"requests": 7, "bytes_out": 9, "queued": 2, "refused": 5}
    env = EnvReading(id="f" * 32, name="shop", cpu_seconds=1.5, memory_bytes=4096, pids=3, **counts)
    usual = {"states": {"ready": 1, "stopped": 0}, "envs": [env], "unlisted": 0, "pool": 3, "pool_wanted": 4, "pages": {404: 2}}
    return Reading(version="1.2", started=5.0, tally=tally, **{**usual, **given})


def told() -> Tally:
    tally = Tally()
    tally.note("queued", "a", 0.0)
    tally.note("starting", "a", 2.0)
    tally.note("ready", "a", 2.3)
    tally.count("limits", "memory", 1)
    tally.count("denials", "seccomp", 5)
    return tally


def test_every_number_comes_back_through_the_parser():
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition(reading(told())).decode())
        for sample in family.samples
    }
    assert samples["sandboxd_envs", ("state", "ready")] == 1
    assert samples["sandboxd_env_requests_total", ("env", "shop"), ("id", "f" * 12)] == 7
    assert samples["sandboxd_env_memory_bytes", ("env", "shop"), ("id", "f" * 12)] == 4096
    assert samples["sandboxd_env_queued_requests", ("env", "shop"), ("id", "f" * 12)] == 2
    assert samples["sandboxd_env_refused_requests_total", ("env", "shop"), ("id", "f" * 12)] == 5
    assert samples["sandboxd_router_pages_total", ("code", "404")] == 2
    assert samples["sandboxd_env_events_total", ("event", "ready")] == 1
    assert samples["sandboxd_denials_total", ("wall", "seccomp")] == 5
    assert samples[("sandboxd_env_start_duration_seconds_count",)] == 1
    assert samples["sandboxd_env_start_duration_seconds_bucket", ("le", "0.25")] == 0
    assert samples["sandboxd_env_start_duration_seconds_bucket", ("le", "0.5")] == 1
    assert samples[("sandboxd_env_queue_duration_seconds_sum",)] == 2.0
    assert samples["sandboxd_build_info", ("version", "1.2")] == 1
    assert samples[("process_resident_memory_bytes",)] > 0


def test_promtool_has_nothing_to_say():
    require("promtool")
    done = subprocess.run(["promtool", "check", "metrics"], input=exposition(reading(told())), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    bad = b"# TYPE sandboxdMs counter\nsandboxdMs 1\n"
    assert subprocess.run(["promtool", "check", "metrics"], input=bad, capture_output=True, check=False).returncode != 0


def test_the_dashboard_shows_every_number():
    panels = json.loads((ROOT / "examples/monitoring/dashboard.json").read_text())["panels"]
    shown = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    families = text_string_to_metric_families(exposition(reading(told())).decode())
    names = {family.name for family in families if family.name.startswith("sandboxd_")}
    assert len(names) > 15
    assert [name for name in sorted(names) if not re.search(rf"\b{name}(_total|_bucket|_info)?\b", shown)] == []


@given(st.lists(st.floats(min_value=-1, max_value=1e6)))
def test_a_histogram_counts_each_once_and_never_falls(durations):
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(seconds)
    counts = [count for _, count in histogram.cumulative()]
    assert counts == sorted(counts)
    assert counts[-1] == len(durations)
    for bound, count in zip(BOUNDS, counts, strict=False):
        assert count == sum(1 for seconds in durations if seconds <= bound)


def test_an_env_that_never_becomes_ready_leaves_nothing():
    tally = Tally()
    for event in ("queued", "starting", "failed", "starting", "stopped", "waking", "removed"):
        tally.note(event, "a", 1.0)
    assert tally._since == {}
    assert tally.started.cumulative()[-1][1] == 0


def test_a_wake_ends_with_the_first_word_that_it_runs():
    tally = Tally()
    tally.note("waking", "a", 1.0)
    tally.note("resumed", "a", 1.004)
    tally.note("waking", "b", 1.0)
    tally.note("starting", "b", 1.1)
    tally.note("ready", "b", 3.0)
    assert tally.woken.cumulative()[-1][1] == 2
    assert 2.003 < tally.woken.sum < 2.005
