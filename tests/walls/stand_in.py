"""A stand-in for init: says on the log what it was given and what it has, then sleeps. Names it by `init="stand_in"`."""

import json
import os
import select
import sys


def run(config, fds):
    """Tell, and wait to be killed."""
    fds["enter"]()
    fds["launched"]()
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    own = [fds["control"], fds["dial"], fds["exits"], *(fd for pair in fds["logs"].values() for fd in pair)]
    own += [fd for ends in fds["attach"].values() for fd in ends.values()]
    own += [fds["refused"], *(way.fileno() for way in fds["ways"])]
    ahead = [*fds["quick"].stdio.child, *fds["quick"].stdio.ours.values()] if fds["quick"] is not None else []
    own += ahead
    with open("/proc/self/cmdline", "rb") as file:
        title = file.read().rstrip(b"\0").decode()
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    found = {
        "descriptors": descriptors,
        "own": own,
        "ways": len(fds["ways"]),
        "ahead": len(ahead),
        "inherited": [fd for fd in own if os.get_inheritable(fd)],
        "title": title,
        "path": [sys.path, sys.meta_path],
        "modules": sorted(sys.modules),
        "status": {key: status[key] for key in ("SigBlk", "SigCgt", "Groups", "Uid", "Gid", "NoNewPrivs")},
        "session": os.getsid(0),
        "environ": dict(os.environ),
        "config": config,
    }
    os.write(fds["attach"]["web"]["stdout"], json.dumps(found).encode() + b"\n")
    for fd in own:
        os.close(fd)
    while True:
        select.select([], [], [])
