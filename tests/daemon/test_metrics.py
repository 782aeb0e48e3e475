"""The daemon as numbers: over the control socket, over the router, for whom (sandboxd.daemon.metering, sandboxd.daemon.web)."""

import time

from prometheus_client.parser import text_string_to_metric_families

from sandboxd.protocol import messages as m
from tests.daemon.asking import SERVER, remove, run
from tests.daemons import PATIENCE, Daemon


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values) -> value."""
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "id")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_through_the_router_shows_the_env_that_it_serves(daemon: Daemon, tmp_path) -> None:
    (tmp_path / "index.html").write_text("hello")
    with daemon.client() as client:
        run(client, [*SERVER, "3000"], wait="ready", name="shop", path=tmp_path, port=3000)
        for _ in range(3):
            assert daemon.request("shop")[0] == 200
        assert daemon.request("nobody")[0] == 404
        status, body = daemon.request("sandboxd", "/metrics")
        assert status == 200
        seen = numbers(body.decode())
        assert seen["sandboxd_envs", "ready"] == 1
        assert seen["sandboxd_env_memory_bytes", "shop"] > 1 << 20
        assert seen["sandboxd_env_pids", "shop"] >= 1
        assert seen["sandboxd_env_events_total", "created"] == 1
        assert seen[("sandboxd_env_start_duration_seconds_count",)] == 1
        assert seen[("process_open_fds",)] > 5
        remove(client, "shop")
        over = numbers(client.call(m.Metrics()).text)
        assert over["sandboxd_envs", "ready"] == 0
        assert over["sandboxd_env_events_total", "removed"] == 1
        assert ("sandboxd_env_memory_bytes", "shop") not in over
    assert daemon.request("sandboxd", "/")[0] == 404
    assert "# TYPE sandboxd_envs gauge" in daemon.sandbox("metrics").stdout


def test_requests_and_pages_are_counted(daemon: Daemon, tmp_path) -> None:
    (tmp_path / "index.html").write_text("hello")
    with daemon.client() as client:
        run(client, [*SERVER, "3000"], wait="ready", name="shop", path=tmp_path, port=3000)
        for _ in range(3):
            daemon.request("shop")
        daemon.request("nobody")
        deadline = time.monotonic() + PATIENCE
        wanted = {("sandboxd_router_pages_total", "404"): 1, ("sandboxd_env_requests_total", "shop"): 3}
        seen = numbers(client.call(m.Metrics()).text)
        while wanted.items() - seen.items() and time.monotonic() < deadline:
            time.sleep(0.1)  # each worker of the router tells once a second, and nobody is told of that
            seen = numbers(client.call(m.Metrics()).text)
        assert {which: seen.get(which) for which in wanted} == wanted


def test_it_can_be_switched_off() -> None:
    daemon = Daemon(SANDBOXD_METRICS="0").start()
    try:
        assert daemon.request("sandboxd", "/metrics")[0] == 404
        assert daemon.sandbox("metrics").stdout.startswith("# HELP")
    finally:
        daemon.close()
