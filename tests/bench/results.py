"""What a bench hands back, and how it is shown: rows of numbers, their ratio to the best peer, a table or JSON lines.

A bench is a module of this package with `run(args) -> Iterable[Row]`; args has `count` (rounds asked for, or None for the
bench's own default) and `seconds` likewise. Peers run interleaved with ours in the same rounds, so that a noisy machine is
noisy for all.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One number of one subject. A peer is what ours is held against; units with "/s" are better when higher."""

    metric: str
    subject: str
    median: float
    p99: float
    unit: str
    peer: bool = False


def row(metric: str, subject: str, samples: Sequence[float], unit: str, *, peer: bool = False) -> Row:
    """Median and 99th percentile (nearest rank) of the samples; of rates the slowest per cent is what counts."""
    ordered = sorted(samples, reverse=unit.endswith("/s"))
    worst = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return Row(metric, subject, statistics.median(samples), worst, unit, peer)


def best_peer(rows: Sequence[Row], metric: str) -> float | None:
    """The median to beat; None where no peer ran."""
    peers = [one.median for one in rows if one.metric == metric and one.peer]
    if not peers:
        return None
    unit = next(one.unit for one in rows if one.metric == metric)
    return max(peers) if unit.endswith("/s") else min(peers)


def as_objects(bench: str, rows: Iterable[Row]) -> list[dict[str, object]]:
    """Rows as the objects that `--json` prints."""
    rows = list(rows)
    found = []
    for one in rows:
        peer = best_peer(rows, one.metric)
        ratio = round(one.median / peer, 3) if peer else None
        found.append(
            {
                "bench": bench,
                "metric": one.metric,
                "subject": one.subject,
                "median": float(f"{one.median:.5g}"),
                "p99": float(f"{one.p99:.5g}"),
                "unit": one.unit,
                "ratio_to_best_peer": ratio,
            }
        )
    return found


def as_json(objects: Iterable[Mapping[str, object]]) -> str:
    """One object a line."""
    return "".join(json.dumps(one) + "\n" for one in objects)


def as_table(objects: Sequence[Mapping[str, object]]) -> str:
    """Columns for people."""
    head = ("metric", "subject", "median", "p99", "unit", "ratio to best peer")
    lines = [head]
    for one in objects:
        ratio = one["ratio_to_best_peer"]
        numbers = (f"{one['median']:,.4g}", f"{one['p99']:,.4g}")
        lines.append((str(one["metric"]), str(one["subject"]), *numbers, str(one["unit"]), "" if ratio is None else f"{ratio}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    justify = (str.ljust, str.ljust, str.rjust, str.rjust, str.ljust, str.rjust)
    rows = [[fit(cell, width) for fit, cell, width in zip(justify, line, widths, strict=True)] for line in lines]
    return "".join("  ".join(cells).rstrip() + "\n" for cells in rows)
