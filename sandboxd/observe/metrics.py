"""The daemon in Prometheus's text format: names, units and types as its rules want them.

A scrape is rendered from one `Reading` of plain values by `prometheus-client`, whose import is 50 ms and 6 MB: so it is
imported by the first scrape, not by the daemon's start. Invariant: labels are bounded; of more envs than `MOST_ENVS` only
the sums are told, and how many were left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from sandboxd.observe.tally import Histogram, Tally

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_ENVS = 200


class EnvReading(msgspec.Struct, frozen=True, kw_only=True):
    """One env now: CPU seconds and memory bytes of all its processes; open connections, requests and bytes of the router's;
    queued, refused: requests that wait for one of its connections, and those that waited in vain or could not."""

    id: str
    name: str
    cpu_seconds: float
    memory_bytes: int
    pids: int
    connections: int = 0
    queued: int = 0
    refused: int = 0
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    restarts: int = 0
    out_open: int = 0
    out_begun: int = 0
    out_denied: int = 0
    out_sent: int = 0
    out_received: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """All that a scrape shows. states: envs by state. pages: the router's own answers by status. started: epoch seconds.
    replicas: of envs that have some: name, id, how many are wanted and how many are ready."""

    version: str
    started: float
    states: Mapping[str, int]
    envs: list[EnvReading]
    unlisted: int
    pool: int
    pool_wanted: int
    pages: Mapping[int, int]
    tally: Tally
    replicas: Sequence[tuple[str, str, int, int]] = ()


def exposition(reading: Reading) -> bytes:
    """The text of one scrape."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see the module
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415
    from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Daemon(Collector):
        def collect(self) -> "Iterator[Metric]":
            yield from of_daemon(reading)
            yield from of_tally(reading.tally)
            yield from of_envs(reading.envs)

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Daemon())
    return generate_latest(registry)


def of_daemon(reading: Reading) -> "Iterator[Metric]":
    """What there is one of."""
    from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily  # noqa: PLC0415

    yield InfoMetricFamily("sandboxd_build", "Version of the daemon.", {"version": reading.version})
    yield gauge("sandboxd_start_time_seconds", "When this daemon started, in seconds since the epoch.", reading.started)
    states = GaugeMetricFamily("sandboxd_envs", "Envs by state.", labels=["state"])
    for state, count in reading.states.items():
        states.add_metric([state], count)
    yield states
    yield gauge("sandboxd_envs_unlisted", "Envs without series of their own, for there are too many.", reading.unlisted)
    yield gauge("sandboxd_pool_parked", "Namespaces made ahead and ready to be taken.", reading.pool)
    yield gauge("sandboxd_pool_wanted", "Namespaces to be kept ready.", reading.pool_wanted)
    wanted = GaugeMetricFamily("sandboxd_replicas_wanted", "Replicas that an env is to have.", labels=["env", "id"])
    ready = GaugeMetricFamily("sandboxd_replicas_ready", "Replicas of an env that take requests.", labels=["env", "id"])
    for name, env_id, many, there in reading.replicas[:MOST_ENVS]:
        wanted.add_metric([name, env_id[:12]], many)
        ready.add_metric([name, env_id[:12]], there)
    yield wanted
    yield ready
    pages = {str(status): count for status, count in reading.pages.items()}
    yield counter("sandboxd_router_pages", "Requests the router answered by itself, by HTTP status.", "code", pages)


def of_tally(tally: Tally) -> "Iterator[Metric]":
    """What happened so far."""
    yield counter("sandboxd_env_events", "What happened to envs, as `sandbox events` tells it.", "event", tally.events)
    yield counter("sandboxd_limit_hits", "Limits that envs ran into.", "limit", tally.limits)
    yield counter("sandboxd_denials", "Things that a wall denied.", "wall", tally.denials)
    yield counter("sandboxd_leaks", "What belonged to no env any more: left by a removal, or found later.", "kind", tally.leaks)
    yield histogram("sandboxd_env_start_duration_seconds", "From the start of an env until it is ready.", tally.started)
    yield histogram("sandboxd_env_queue_duration_seconds", "How long envs waited for their turn.", tally.queued)
    yield histogram("sandboxd_env_wake_duration_seconds", "From a request for a sleeping env until it runs.", tally.woken)


def of_envs(envs: list[EnvReading]) -> "Iterator[Metric]":
    """What each env uses, and what the router does for it."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    labels = ["env", "id"]
    memory = GaugeMetricFamily("sandboxd_env_memory_bytes", "Memory of all processes of an env.", labels=labels)
    pids = GaugeMetricFamily("sandboxd_env_pids", "Processes and threads of an env.", labels=labels)
    connections = GaugeMetricFamily("sandboxd_env_connections", "Connections the router has to an env.", labels=labels)
    queued = GaugeMetricFamily("sandboxd_env_queued_requests", "Requests that wait for a connection to an env.", labels=labels)
    refused = CounterMetricFamily("sandboxd_env_refused_requests", "Requests that got none of its connections.", labels=labels)
    cpu = CounterMetricFamily("sandboxd_env_cpu_seconds", "CPU time of all processes of an env.", labels=labels)
    requests = CounterMetricFamily("sandboxd_env_requests", "Requests the router passed to an env.", labels=labels)
    received = CounterMetricFamily("sandboxd_env_received_bytes", "Bytes the router passed to an env.", labels=labels)
    sent = CounterMetricFamily("sandboxd_env_sent_bytes", "Bytes the router passed on from an env.", labels=labels)
    restarts = CounterMetricFamily("sandboxd_env_restarts", "Restarts of an env and its services.", labels=labels)
    families: list[tuple[GaugeMetricFamily | CounterMetricFamily, str]] = [
        (memory, "memory_bytes"), (pids, "pids"), (connections, "connections"), (cpu, "cpu_seconds"),
        (requests, "requests"), (received, "bytes_in"), (sent, "bytes_out"), (restarts, "restarts"),
        (queued, "queued"), (refused, "refused"), *going_out(labels),
    ]  # fmt: skip
    for family, field in families:
        for env in envs:
            family.add_metric([env.name, env.id[:12]], getattr(env, field))
        yield family


def going_out(labels: list[str]) -> "list[tuple[GaugeMetricFamily | CounterMetricFamily, str]]":
    """Of what goes out of envs."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    name = "sandboxd_env_egress"
    counted = {
        "out_begun": ("connections", "Connections made out of an env."),
        "out_denied": ("denied", "Connections and names that an env was denied."),
        "out_sent": ("sent_bytes", "Bytes that went out of an env."),
        "out_received": ("received_bytes", "Bytes that came back to an env."),
    }
    opened = GaugeMetricFamily(f"{name}_open", "Connections out of an env now.", labels=labels)
    return [(opened, "out_open"), *((CounterMetricFamily(f"{name}_{of}", words, labels=labels), field)
                                    for field, (of, words) in counted.items())]  # fmt: skip


def gauge(name: str, words: str, value: float) -> "GaugeMetricFamily":
    """One number."""
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    return GaugeMetricFamily(name, words, value=value)


def counter(name: str, words: str, label: str, values: Mapping[str, int]) -> "CounterMetricFamily":
    """One number for each value of one label; the format adds `_total`."""
    from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily(name, words, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def histogram(name: str, words: str, values: Histogram) -> "Metric":
    """Durations in seconds."""
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415

    return HistogramMetricFamily(name, words, buckets=values.cumulative(), sum_value=values.sum)
