"""`python -m tests.bench NAME [--json]`: measure one thing against its peers on this machine, now.

Run by root with `--as USER`, the bench runs as that user and only its readings of other processes' memory (which the kernel
keeps from everybody else, since pid 1 of an env is not dumpable) are done by root.
"""

import argparse
import importlib
import sys

from tests.bench.memory import run_as
from tests.bench.results import as_json, as_objects, as_table

BENCHES = (
    "spawn",
    "ready",
    "router",
    "idle",
    "suspend",
    "wake",
    "bombs",
    "limits",
    "cli",
    "scale-out",
    "soak",
    "spike",
    "restart",
    "egress",
)


def main() -> int:
    """Parse, run, show."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHES, "all"])
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--count", type=int, help="rounds (envs, for idle and suspend); each bench has its own default")
    parser.add_argument("--seconds", type=float, help="length of one measurement, where one has a length")
    parser.add_argument("--as", dest="user", help="run as this user, when started by root")
    parser.add_argument("--guest", action="store_true", help="in the systemd guest of tests/vm (as root: it makes the image)")
    args = parser.parse_args()
    if args.guest:
        return int(importlib.import_module("tests.bench.guest").run(args))
    return run_as(args.user, lambda: show(args))


def show(args: argparse.Namespace) -> int:
    """Run what was asked for and print it."""
    for name in BENCHES if args.name == "all" else [args.name]:
        objects = as_objects(name, importlib.import_module(f"tests.bench.{name.replace('-', '_')}").run(args))
        if args.json:
            sys.stdout.write(as_json(objects))
        else:
            sys.stdout.write(f"{name}\n{as_table(objects)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
