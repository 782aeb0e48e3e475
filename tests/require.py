"""What a test needs of the host: a skip that says the fact, or a failure where `SANDBOXD_REQUIRE` demands it.

`SANDBOXD_REQUIRE=userns,redis-server` in CI turns skips for want of these into failures, so that it cannot go quietly blind.
A fact is `userns`, `nft`, `landlock`, `unprivileged`, `ipv6`, `pypi`, `npm-registry`, `vm` (tests/vm), or a program's name.
"""

import functools
import os
import shutil
import socket
import subprocess
import sys
from typing import NoReturn

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import landlock
from sandboxd.launch.probes import probe_features

# As the launcher does it: user namespace, id map, then the rest; a kernel or profile that refuses says so here with its errno.
TRY_NAMESPACES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
uid = os.getuid()
if libc.unshare(0x10000000 | 0x00020000 | 0x40000000):
    raise SystemExit("unshare: " + os.strerror(ctypes.get_errno()))
open("/proc/self/uid_map", "w").write(f"{uid} {uid} 1")
if libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
    raise SystemExit("mount: " + os.strerror(ctypes.get_errno()))
"""


@functools.cache
def missing(fact: str) -> str:
    """Why this host lacks the fact; empty when it does not."""
    if fact == "userns":
        tried = subprocess.run([sys.executable, "-I", "-S", "-c", TRY_NAMESPACES], capture_output=True, text=True, check=False)
        return tried.stderr.strip() and f"no unprivileged user namespaces here ({tried.stderr.strip().splitlines()[-1]})"
    if fact == "nft":
        failed = probe_features()["nft"]
        return f"no nf_tables in user namespaces here ({os.strerror(failed)})" if failed else ""
    if fact == "unprivileged":
        return "" if os.geteuid() else "runs as root, whom rlimits and modes do not bind"
    if fact == "ipv6":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            return f"no IPv6 loopback here ({error})"
        return ""
    if fact == "landlock":
        try:
            landlock.abi()
        except KernelError as error:
            return f"no Landlock here ({error})"
        return ""
    return "" if shutil.which(fact, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") else f"{fact} is not installed"


def require(*facts: str) -> None:
    """Skip the test unless the host has every fact; fail it where SANDBOXD_REQUIRE names the one that is missing."""
    for fact in facts:
        why = missing(fact)
        if why:
            unmet(fact, why)


def unmet(fact: str, why: str) -> NoReturn:
    """The test cannot run for want of a fact: skip, or fail where SANDBOXD_REQUIRE names it."""
    if fact in os.environ.get("SANDBOXD_REQUIRE", "").split(","):
        pytest.fail(f"SANDBOXD_REQUIRE={fact}, but {why}")
    pytest.skip(why)
