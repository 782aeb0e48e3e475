"""Every bench runs from end to end and says what it measured, in the form that was promised. No number is judged here."""

import json
import math
import subprocess
import sys

import pytest

from tests.bench.results import Row, as_objects, as_table, row
from tests.daemons import ROOT
from tests.require import require

KEYS = ["bench", "metric", "subject", "median", "p99", "unit", "ratio_to_best_peer"]
SMALL = {
    "spawn": ["--count", "2"],
    "ready": ["--count", "2"],
    "router": ["--count", "1", "--seconds", "0.2"],
    "idle": ["--count", "3", "--seconds", "0.5"],
    "suspend": ["--count", "3"],
    "wake": ["--count", "2"],
    "bombs": ["--count", "2", "--seconds", "0.2"],
    "limits": ["--count", "1"],
    "cli": ["--count", "2"],
    "scale-out": ["--count", "4", "--seconds", "0.2"],
    "soak": ["--count", "4"],
    "spike": ["--count", "3"],
    "restart": ["--count", "1", "--seconds", "0.2"],
}


def test_a_time_is_held_against_the_fastest_and_a_rate_against_the_highest() -> None:
    rows = [
        row("time", "ours", [2.0, 3.0, 10.0], "ms"),
        row("time", "slow", [30.0], "ms", peer=True),
        row("time", "fast", [6.0], "ms", peer=True),
        row("rate", "ours", [50.0, 100.0, 200.0], "req/s"),
        row("rate", "low", [10.0], "req/s", peer=True),
        row("rate", "high", [80.0], "req/s", peer=True),
        Row("alone", "ours", 1.0, 1.0, "MB"),
    ]
    objects = as_objects("b", rows)
    assert [list(one) for one in objects] == [KEYS] * len(rows)
    found = {(one["metric"], one["subject"]): one for one in objects}
    assert found["time", "ours"]["ratio_to_best_peer"] == 0.5
    assert found["time", "ours"]["p99"] == 10.0
    assert found["rate", "ours"]["ratio_to_best_peer"] == 1.25
    assert found["rate", "ours"]["p99"] == 50.0
    assert found["alone", "ours"]["ratio_to_best_peer"] is None
    assert as_table(objects).splitlines()[1].split() == ["time", "ours", "3", "10", "ms", "0.5"]


@pytest.mark.slow
@pytest.mark.alone  # it takes all CPUs
@pytest.mark.parametrize("bench", SMALL)
def test_a_bench_runs(bench: str) -> None:
    require("userns", "unprivileged", "busybox")
    if bench == "router":
        require("nginx", "haproxy", "wrk")
    command = [sys.executable, "-m", "tests.bench", bench, "--json", *SMALL[bench]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert objects
    for one in objects:
        assert list(one) == KEYS
        assert one["bench"] == bench
        assert math.isfinite(one["median"])
