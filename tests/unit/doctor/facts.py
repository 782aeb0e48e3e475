"""Facts of a machine on which all is well; a test takes one thing away."""

from typing import Any

from sandboxd.doctor.facts import Facts, Lookup, NameFacts, Place
from sandboxd.doctor.report import Check, Report
from sandboxd.isolation.facts import WALLS, HostFacts, Layout, LimitFacts, Offer


def host(**missing: Offer) -> HostFacts:
    walls = {name: Offer(offered=True) for name in WALLS}
    layout = Layout(directories=[], links=[], system=[], nodes=[])
    return HostFacts(walls={**walls, **missing}, proc="full", layout=layout, listener=True)


def place(path: str = "/home/dev/.local/state/sandboxd", **changes: Any) -> Place:
    return Place(**{"path": path, "mode": 0o700, "uid": 1000, "kind": "ext4", "free": 1 << 40, "inodes": 1 << 20, **changes})


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {
        "version": "1.2.3",
        "uid": 1000,
        "user": "dev",
        "command": "/venv/bin/sandbox",
        "kernel": "6.8.0-31-generic",
        "system": "Ubuntu 24.04 LTS",
        "family": "ubuntu debian",
        "host": host(),
        "limits": LimitFacts(controllers=["cpu", "io", "memory", "pids"], reason="", cpus=[0, 1, 2, 3], devices=["8:0"]),
        "features": {"overlay": 0, "nft": 0},
        "pressure": "yes",
        "rlimits": {"nofile": 1048576},
        "runtime": "/run/user/1000",
        "state": place(),
        "runtime_place": place("/run/user/1000/sandboxd", kind="tmpfs"),
        "names": NameFacts(
            lookups=[Lookup(program="getaddrinfo", resolved=True, answer="127.0.0.1")], nsswitch=["files", "dns"]
        ),
        "clock": 2e9,
        "newest": 1e9,
    }
    return Facts(**{**given, **changes})


def check(report: Report, id: str) -> Check:
    (found,) = [check for check in report.checks if check.id == id]
    return found
