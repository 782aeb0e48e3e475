"""Isolation landlock on a host without user namespaces: what works, what is closed, and that nothing stays behind."""

from typing import Any

from tests.require import missing

VARIANTS = ("no-userns",)

PROBE = """
import os, pathlib, socket, sys
def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return error.errno
    return 0
home = pathlib.Path(sys.argv[1])
print(tried(os.listdir, home), tried(os.listdir, "/"), tried(socket.socket, socket.AF_UNIX))
print(tried(os.kill, int(sys.argv[2]), 0), tried(open, "/etc/passwd"), tried(open, "own", "w"))
print(tried(os.listdir, os.environ["HOME"]))
"""


def test_full_is_refused_and_landlock_holds(host: Any) -> None:
    assert not missing("landlock")
    host.sandbox("ps", check=False)  # a busy machine's guest may take longer for a first start than a client waits
    refused = host.sandbox("run", "-w", host.place(), "--", "true", check=False)
    assert refused.returncode == 125
    assert "user.max_user_namespaces is 0" in refused.stderr
    assert "--isolation landlock works here" in refused.stderr
    outside = host.run("sh", "-c", "echo $PPID").stdout.strip()
    argv = ["python3", "-c", PROBE, str(host.state.parent.parent.parent), outside]
    done = host.sandbox("run", "--isolation", "landlock", "-w", host.place(), "--", *argv)
    home, root, unix, kill, *own = done.stdout.split()
    assert (home, root, unix, kill) == ("13", "13", "1", "1")
    assert own == ["0", "0", "0"]


def test_it_serves_and_ends_whole(host: Any) -> None:
    strays = "(setsid sh -c 'setsid sleep 600 & sleep 600' &) ; exec python3 -m http.server $PORT"
    host.sandbox("run", "-d", "--isolation", "landlock", "--wait", "--name", "t1", "-w", host.place(), "--", "sh", "-c", strays)
    found = host.inspect("t1")
    assert {wall for wall, info in found["walls"].items() if info["enforced"]} == {"no_new_privs", "landlock", "seccomp"}
    assert host.fetch("t1") == 200
    assert host.run("pgrep", "-c", "sleep").stdout.strip() == "2"
    host.sandbox("rm", "-f", "t1")
    assert host.run("pgrep", "-c", "sleep", check=False).stdout.strip() == "0"
