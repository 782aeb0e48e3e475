"""What a hostile env leaves for the daemon to stumble over: no path of its choice is read or written, nothing hangs or stays.

Each env really plants these things in what it can write (its home, its workspace, its logs through pid 1); then the verbs that
touch them are used, and after each the daemon must answer.
"""

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.protocol.messages import Logs, Status
from sandboxd.store.removal import remove_tree
from tests.daemons import Daemon
from tests.walls.envs import PYTHON

PLANT = """
import os, socket, sys
victim, home = sys.argv[1], os.path.expanduser("~")
os.chdir(home)
os.symlink(victim, "link"); os.symlink("loop", "loop"); os.symlink("/proc/self/root" + victim, "magic")
os.symlink("../" * 40 + victim[1:], "climb")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
with open("sparse", "wb") as file:
    file.truncate(1 << 42)
for name in (b"new\\nline", b"\\xff\\xfe", b"-rf", b" ", b"x" * 255, b"\\x1b[2J", b"*"):
    os.mkdir(name)
    open(os.path.join(name, b"\\xff"), "w").close()
os.mkdir("shut"); open("shut/in", "w").close(); os.mkdir("shut/deeper"); os.chmod("shut", 0)
os.mkdir("unwritable"); open("unwritable/in", "w").close(); os.chmod("unwritable", 0o500)
os.mkdir("deep"); os.chdir("deep")
for level in range(1000):
    os.mkdir("d" * 20); os.chdir("d" * 20)
os.symlink(victim, "victim")
"""


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A workspace, and a victim beside it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "victim" / "dir").mkdir(parents=True)
    (tmp_path / "victim" / "file").write_text("mine")
    return tmp_path


def unharmed(ground: Path) -> None:
    """The victim is as it was."""
    assert sorted(path.name for path in (ground / "victim").iterdir()) == ["dir", "file"]
    assert (ground / "victim" / "file").read_text() == "mine"
    assert stat.S_IMODE((ground / "victim" / "dir").stat().st_mode) & 0o700 == 0o700


def answers(daemon: Daemon) -> None:
    """The daemon answers within the time a client gives it."""
    with daemon.client() as client:
        assert client.call(Status()).pid


def test_whatever_lies_in_a_home_is_removed_and_nothing_else(shared_daemon: Daemon, ground: Path) -> None:
    (ground / "shop" / "plant.py").write_text(PLANT)
    run = ("run", "--name", "planter", "--", PYTHON, "plant.py", ground / "victim")
    shared_daemon.sandbox(*run, cwd=ground / "shop")
    (planted,) = (path for path in (shared_daemon.dir / "envs").glob("*/home") if (path / "sparse").exists())
    assert (planted / "link").is_symlink()
    assert (planted / "fifo").is_fifo()
    shared_daemon.sandbox("restart", "planter")  # the home is shown again, with all that is in it
    shared_daemon.sandbox("wait", "planter", check=False)
    shared_daemon.sandbox("rm", "-f", "planter", timeout=120)
    assert not planted.parent.exists()
    assert not [path for path in (shared_daemon.dir / "envs").iterdir() if not path.name.startswith(".ready-")]
    unharmed(ground)


def test_directories_swapped_for_links_while_they_are_removed(ground: Path) -> None:
    """Somebody of the same uid swaps, as fast as they can, what is about to be emptied for a link to the victim."""
    for _ in range(5):
        tree = ground / "tree"
        for number in range(60):
            (tree / f"d{number}" / "in").mkdir(parents=True)
            (tree / f"d{number}" / "in" / "file").touch()
        stop = threading.Event()
        racer = threading.Thread(target=swap, args=(tree, ground / "victim", stop))
        racer.start()
        parent = os.open(ground, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # the racer makes things anew: that it is not empty may be said
                remove_tree(parent, "tree")
        finally:
            stop.set()
            racer.join()
            with contextlib.suppress(OSError):
                remove_tree(parent, "tree")
            os.close(parent)
        unharmed(ground)


def swap(tree: Path, victim: Path, stop: threading.Event) -> None:
    """Directories away, links in their places."""
    number = 0
    while not stop.is_set():
        number = (number + 1) % 60
        with contextlib.suppress(OSError):
            os.rename(tree / f"d{number}", tree / f"gone{number}")
            os.symlink(victim, tree / f"d{number}")


# What an env can make of its own workspace, where its next start looks for toolchains and guards.
TRAPS = {
    "fifo for pyvenv.cfg": "mkfifo .venv/pyvenv.cfg",
    "link for pyvenv.cfg": "ln -s /dev/zero .venv/pyvenv.cfg",
    "link to a terminal": "ln -s /dev/tty .venv/pyvenv.cfg",
    "huge pyvenv.cfg": "truncate -s 1T .venv/pyvenv.cfg",
    "secrets by pyvenv.cfg": "echo home = $HOME/.ssh/bin > .venv/pyvenv.cfg",
    "links by the thousand": """exec python3 -c 'import os; [os.symlink("/", f".venv/bin/l{n}") for n in range(600)]'""",
    "fifo for git": "rm -rf .git; mkfifo .git",
    "modules by the thousand": "mkdir -p .git/modules; cd .git/modules; seq 3000 | xargs mkdir",
    "modules in a circle": "mkdir -p .git; ln -s . .git/modules",
    "fifo for a hook": "mkdir -p .git; mkfifo .git/config .git/commondir",
    "link for hooks": "mkdir -p .git; ln -s ../../victim .git/hooks",
    "link for the spec": "ln -s ../victim/file sandbox.toml",
    "names that are no text": "mkdir -p .git/modules; cd .git/modules; mkdir $(printf '\\377'); touch $(printf '\\377')/HEAD",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_next_start_is_not_trapped(shared_daemon: Daemon, ground: Path, trap: str) -> None:
    """The caller's PATH leads into the workspace, as it does wherever a virtual environment is active."""
    shop = ground / "shop"
    (shop / ".venv" / "bin").mkdir(parents=True)
    before = dict(shared_daemon.environ)
    shared_daemon.environ |= {"HOME": str(ground), "PATH": f"{shop}/.venv/bin:{before['PATH']}"}
    try:
        shared_daemon.sandbox("run", "--rm", "--name", "trapper", "--", "sh", "-c", TRAPS[trap], cwd=shop)
        done = shared_daemon.sandbox("run", "--rm", "--name", "next", "--", "echo", "here", cwd=shop, check=False)
        assert done.stdout == "here\n" or "link" in trap or "text" in trap, done.stderr
        answers(shared_daemon)
    finally:
        shared_daemon.environ = before
    unharmed(ground)
    assert not list((ground / "victim" / "dir").iterdir())


@pytest.fixture
def shop(shared_daemon: Daemon, ground: Path) -> Iterator[Path]:
    """A running env; the directory of its logs."""
    shared_daemon.sandbox("run", "-d", "--name", "talker", "--", "sh", "-c", "echo hello; sleep 600", cwd=ground / "shop")
    shared_daemon.sandbox("wait", "--for", "ready", "talker")
    yield next(path for path in (shared_daemon.dir / "envs").glob("*/logs") if list(path.iterdir()))
    shared_daemon.sandbox("rm", "-f", "talker")


@pytest.mark.parametrize("how", [("--tail", "5"), ("--since", "1h"), ()])
def test_a_log_that_pid_1_made_huge_is_read_without_end_or_wait(
    shared_daemon: Daemon, shop: Path, how: tuple[str, ...]
) -> None:
    """Pid 1 holds the files by descriptor; taken over, it could make one a terabyte of holes, which costs it nothing."""
    for log in shop.iterdir():
        os.truncate(log, 1 << 40)
    reading = threading.Thread(target=shared_daemon.sandbox, args=("logs", *how, "talker"))
    reading.start()
    for _ in range(20):
        answers(shared_daemon)
    reading.join()
    with shared_daemon.client() as client:
        following = client.stream(Logs(target="talker", follow=True))
        next(following)
        answers(shared_daemon)
        following.close()


@pytest.mark.parametrize("name", ["control.sock", "init.sock", "dial.sock"])
def test_garbage_at_each_socket_harms_nobody(shared_daemon: Daemon, shop: Path, name: str) -> None:
    place = shared_daemon.dir / name if name == "control.sock" else shop.parent / name
    kind = socket.SOCK_SEQPACKET if name == "dial.sock" else socket.SOCK_STREAM
    for garbage in (b"\0", b"\xff" * 4096, b"{}\0" * 1000, b"[" * 65536, b'{"method":"io.sandboxd.Control.Status"}' * 100):
        with socket.socket(socket.AF_UNIX, kind) as peer:
            peer.settimeout(1)  # an init that has its daemon leaves others waiting
            peer.connect(f"/proc/self/fd/{(directory := os.open(place.parent, os.O_PATH))}/{place.name}")
            os.close(directory)
            with contextlib.suppress(OSError):
                peer.sendall(garbage)
                peer.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while peer.recv(65536):
                    pass
    answers(shared_daemon)
    assert shared_daemon.sandbox("exec", "talker", "--", "echo", "well").stdout == "well\n"


def test_a_process_names_itself_what_it_likes(shared_daemon: Daemon, ground: Path) -> None:
    """stat(5)'s second field is the name, blanks and brackets included; and names reach terminals."""
    code = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, b') R 1 1\\n\\x1b[2J(', 0, 0, 0); print(flush=True); time.sleep(600)"
    )
    shared_daemon.sandbox("run", "-d", "--name", "named", "--", PYTHON, "-c", code, "\x1b[31mred", cwd=ground / "shop")
    try:
        assert "\x1b" not in shared_daemon.sandbox("top", "named").stdout
        (row,) = shared_daemon.json("stats", "--no-stream", "named")
        assert row["pids"] >= 1
        assert "\x1b" not in shared_daemon.sandbox("ps").stdout
        done = shared_daemon.sandbox("exec", "named", "--", "\x1b[31mred", check=False)
        assert "\x1b" not in done.stderr
    finally:
        shared_daemon.sandbox("rm", "-f", "named")
