"""`probe_host` on this kernel, and in user namespaces that are made to lack something."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandboxd.isolation.facts import WALLS, HostFacts
from sandboxd.launch import attempts
from sandboxd.launch.probes import look_at_layout, probe_host, where_it_ends
from tests.kernel.inside import ROOT

LACKING = """
import json, os, sys
from sandboxd.kernel import mounts, namespaces
uid, gid = os.getuid(), os.getgid()
namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
namespaces.write_proc("/proc/self/setgroups", b"deny")
namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
mounts.mount(None, "/", mounts.MS_REC | mounts.MS_PRIVATE)
{code}
import msgspec
from sandboxd.errors import WallUnavailable
from sandboxd.isolation.plan import plan
from sandboxd.launch.probes import probe_host
from tests.unit.isolation.hosts import place, spec
host = probe_host()
try:
    plan(spec(), id="x", name="x", host=host, place=place(), environ={{}}, uid=uid, gid=gid)
    refused = None
except WallUnavailable as error:
    refused = [error.message, error.hint, error.details]
print(json.dumps([msgspec.to_builtins(host), refused]))
"""


def lacking(code: str) -> tuple[HostFacts, Any]:
    """What is found, and how a plan is refused, where `code` has taken something away."""
    import msgspec

    command = [sys.executable, "-c", LACKING.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    host, refused = json.loads(done.stdout)
    return msgspec.convert(host, HostFacts), refused


@pytest.fixture(autouse=True)
def _userns(require: Any) -> None:
    require("userns", "unprivileged")


# As the filters of docker and podman have it for a container without CAP_SYS_ADMIN, whatever user namespace it is in.
NO_HOSTNAME = """
import base64, platform, struct
from sandboxd.kernel import capabilities, seccomp
number = {"x86_64": 170, "aarch64": 161}[platform.machine()]
program = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
capabilities.no_new_privs()
seccomp.install(base64.b64encode(b"".join(struct.pack("=HBBI", *one) for one in program)).decode(), listener=False)
"""


def test_a_namespace_that_can_be_made_but_not_used_is_not_offered() -> None:
    host, refused = lacking(NO_HOSTNAME)
    assert [wall for wall, offer in host.walls.items() if not offer.offered] == ["uts"]
    message, hint, details = refused
    assert "the uts wall: this host forbids it (EPERM), as the seccomp filters of containers do" in message
    assert "--security-opt seccomp=unconfined" in hint
    assert details["wall"] == "uts"


def test_this_host_offers_what_the_other_tests_use() -> None:
    host = probe_host()
    assert {wall: offer.offered for wall, offer in host.walls.items()} == dict.fromkeys(WALLS, True)
    assert host.proc == "full"
    assert host.kernel
    assert host.listener
    assert set(attempts.TRIALS) | set(attempts.PLAIN) <= {*WALLS, "subset", "listener", "egress"}


def test_without_user_namespaces_the_refusal_has_reason_and_fix() -> None:
    host, refused = lacking('namespaces.write_proc("/proc/sys/user/max_user_namespaces", b"0")')
    offered = {wall for wall, offer in host.walls.items() if offer.offered}
    assert offered == {"no_new_privs", "landlock", "seccomp"}, "which need no namespace"
    message, hint, details = refused
    assert message == "this host does not offer the user wall: user.max_user_namespaces is 0"
    assert hint.startswith("sudo sysctl -w user.max_user_namespaces=10000; or --isolation landlock")
    assert details == {"wall": "user", "reason": "user.max_user_namespaces is 0"}


def test_a_single_quota_of_0_is_found() -> None:
    host, refused = lacking('namespaces.write_proc("/proc/sys/user/max_net_namespaces", b"0")')
    assert [wall for wall, offer in host.walls.items() if not offer.offered] == ["net"]
    assert refused[1].startswith("sudo sysctl -w user.max_net_namespaces=10000")


def test_a_masked_procfs_is_refused_naming_the_cause() -> None:
    host, refused = lacking(
        'mounts.mount("tmpfs", "/proc/sys", 0, "size=4k")\nmounts.mount("tmpfs", "/proc/irq", 0, "size=4k")'
    )
    assert not host.walls["proc"].offered
    assert host.proc in ("subset", "none")
    assert "masks parts of /proc" in refused[0]
    assert refused[2]["wall"] == "proc"


def test_the_layout_is_an_allow_list_of_what_is_there() -> None:
    layout = look_at_layout()
    shown = [path for path, _ in layout.directories] + [path for path, _ in layout.links]
    assert "/usr" in shown
    assert "/etc" in shown
    assert not {"/var", "/run", "/srv", "/root", "/home", "/boot", "/mnt"} & set(shown)
    assert "/dev/null" in layout.nodes
    assert layout.memory > 1 << 20


def test_links_of_etc_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert where_it_ends(str(tmp_path / "link")) == "", "nothing of this is shown inside"
    (tmp_path / "resolved").symlink_to("/run/nobody/made/this")
    assert where_it_ends(str(tmp_path / "resolved")) == "/run/nobody/made/this"
    assert where_it_ends("/etc/none-of-this") == ""
    assert where_it_ends("/etc/hosts") != ""
