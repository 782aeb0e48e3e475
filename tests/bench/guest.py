"""`--guest`: a bench in the systemd guest of tests/vm, where cgroup v2 is delegated and `systemd-run --user` is a peer.

The guest is emulated where there is no KVM, so its times are many times a machine's own: only ratios mean something there, and
sizes. The bench runs in a delegated scope, half of which the daemon is given to divide among envs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.vm import guests

# The kernel limits no group below one that has processes: so the bench moves into a group of its own first.
DIVIDE = """
group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir "$group/bench" "$group/envs"
echo $$ >"$group/bench/cgroup.procs"
echo "+cpu +memory +pids" >"$group/cgroup.subtree_control"
export SANDBOXD_CGROUP=$group/envs
exec python3 -m tests.bench "$@"
"""


def run(args: argparse.Namespace) -> int:
    """The bench there, its output here."""
    if why := guests.unavailable():
        sys.stderr.write(f"{why}\n")
        return 1
    words = [args.name, *(["--json"] if args.json else [])]
    words += ["--count", str(args.count)] if args.count else []
    words += ["--seconds", str(args.seconds)] if args.seconds else []
    with tempfile.TemporaryDirectory(prefix="bench-") as out:
        done = guests.command_in(guests.Variant(session="scope"), ["sh", "-ec", DIVIDE, "sh", *words], Path(out))
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode
