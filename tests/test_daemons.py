"""What watches the tests is tested too: an orphan, however it hides, is seen below the keeper, and ends with it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.daemons import Keeper, read_line
from tests.require import missing

# A grandchild in a session of its own whose parent ends at once: what a daemon's detached processes look like.
ORPHAN = """
import os, time
pid = os.fork()
if pid:
    print(pid)
else:
    os.setsid()
    time.sleep(600)
"""


@pytest.fixture
def keeper():
    keeper = Keeper()
    yield keeper
    keeper.close()


def test_an_orphan_is_seen_and_ends(keeper: Keeper) -> None:
    done = keeper.run([sys.executable, "-c", ORPHAN], dict(os.environ))
    pid = int(done.stdout)
    left = keeper.settle(0)
    assert [entry[0] for entry in left] == [pid]
    assert "os.fork()" in left[0][2]
    os.kill(pid, signal.SIGKILL)
    assert keeper.settle(30) == []


def test_an_orphan_does_not_outlive_the_keeper() -> None:
    keeper = Keeper()
    pid = int(keeper.run([sys.executable, "-c", ORPHAN], dict(os.environ)).stdout)
    keeper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_status_output_and_input_come_back(keeper: Keeper) -> None:
    done = keeper.run(["sh", "-c", "cat; echo err >&2; exit 7"], dict(os.environ), stdin="given")
    assert (done.returncode, done.stdout, done.stderr) == (7, "given", "err\n")
    assert keeper.run(["sh", "-c", "kill -TERM $$"], dict(os.environ)).returncode == -signal.SIGTERM
    with pytest.raises(OSError, match="No such file"):
        keeper.run(["/no/such/program"], dict(os.environ))


def test_a_descriptor_is_handed_on_by_name(keeper: Keeper) -> None:
    mine, theirs = os.pipe()
    with open(os.devnull, "r+b") as nothing:
        stdio = [nothing.fileno()] * 3
        kept = keeper.spawn(["sh", "-c", 'eval "echo ready >&$READY"'], dict(os.environ), stdio, extra={"READY": theirs})
    os.close(theirs)
    assert read_line(mine, 30) == "ready"
    assert kept.wait() == 0
    os.close(mine)


@pytest.mark.parametrize(
    ("leak", "said"), [("os.pipe()", "descriptors left open"), ("os.fork() or os._exit(0)", "children left")]
)
def test_a_leaking_test_fails(pytester: pytest.Pytester, leak: str, said: str) -> None:
    pytester.makeconftest("from tests.conftest import no_leaks")
    pytester.makepyfile(f"import os\ndef test_it(): {leak}")
    env = {**os.environ, "PYTHONPATH": os.getcwd() + ":" + ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout
    assert said in done.stdout


def test_a_demand_makes_a_skip_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.require import require

    monkeypatch.delenv("SANDBOXD_REQUIRE", raising=False)
    assert missing("no-such-program")
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        require("no-such-program")
    monkeypatch.setenv("SANDBOXD_REQUIRE", "userns,no-such-program")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        require("no-such-program")


AT_ONCE = """
import os, time, pytest

@pytest.mark.parametrize("n", range(20))
def test_it(n):
    os.mkdir(f"busy-{os.getpid()}")
    time.sleep(0.01)
    os.rmdir(f"busy-{os.getpid()}")
"""
ALONE = AT_ONCE.replace("def test", "@pytest.mark.alone\ndef test").replace("time.sleep(0.01)", "assert len(os.listdir()) == 1")


def test_who_is_to_be_alone_is(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import pytest_runtest_protocol")
    pytester.makeini("[pytest]\nmarkers = alone")
    place = pytester.mkdir("place")
    pytester.makepyfile(test_one=AT_ONCE, test_two=ALONE)
    env = {**os.environ, "PYTHONPATH": os.getcwd() + ":" + ":".join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", str(pytester.path)]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert "40 passed" in done.stdout, done.stdout + done.stderr
