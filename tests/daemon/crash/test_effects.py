"""The daemon is killed before and after every effect, while envs live through all that can be asked of them.

So of sandboxd.daemon.adopt. CRASH_DEATHS and CRASH_SEED make the run longer, and another one.
"""

import contextlib
import itertools
import os
import signal

import pytest

from sandboxd.protocol import messages as m
from tests.daemon.asking import SERVER, run
from tests.daemon.crash import kinds
from tests.daemon.crash.story import LOST, MORTAL, Story, Witness, fates, lives

DEATHS = int(os.environ.get("CRASH_DEATHS", "6"))
SEED = int(os.environ.get("CRASH_SEED", "1"))


@pytest.fixture
def served(daemon, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "index.html").write_text("alive")
    story = Story(daemon, place, fates(SEED, DEATHS, 300))
    story.run("anchor", [*SERVER, "3000"], path=place, port=3000)
    yield story
    daemon.kill()  # the last one may be meant to die yet, when it has said that it ends all
    daemon.module = "sandboxd"


def test_nothing_is_lost_or_left_whenever_the_daemon_dies(served, tmp_path):
    story = served
    with contextlib.closing(Witness(story.daemon, "anchor", b"alive")) as witness:
        story.witness = witness
        story.daemon.kill()
        story.revive()
        number = 0
        while story.deaths < DEATHS:
            lives(story, number)
            number += 1
    story.witness = None  # the last daemon may die yet
    story.remove("anchor")
    left = [name for name in os.listdir(story.daemon.dir / "envs") if not name.startswith(".ready-")]  # for envs to come
    assert left == []


# While `stop --all` is carried out, in turn; from the third on it has been answered, or soon will be.
ENDS = (
    "before Queries.shutdown Call",
    "before RouterHandle.dismiss",
    "after RouterHandle.dismiss",
    "after Queries.shutdown Call",
    "before leave",
    "before RouterHandle.stop",
    "after leave",
)


def test_what_was_told_to_be_over_is_over_whenever_the_daemon_dies(daemon, tmp_path):
    """Nothing is left to be found by a next daemon, as there may never be one."""
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait()
    for point in ENDS if len(ENDS) < DEATHS else ENDS[2::2]:
        daemon.module, daemon.environ["CRASH_AT"] = MORTAL, point
        daemon.start()
        with daemon.client() as client:
            run(client, "sleep 1000", name="last", path=tmp_path, exists="reuse")
            with contextlib.suppress(*LOST):
                client.call(m.Shutdown(all=True))
        assert daemon.process.wait() == -signal.SIGKILL, f"it ended by itself\n{daemon.log()}"
        if point not in ENDS[:2]:
            assert daemon.keeper.settle(10) == [], f"{point}\n{daemon.log()}"
    daemon.module, daemon.environ["CRASH_AT"] = "sandboxd", "0"


KINDS = {"keys": kinds.keys, "replicas": kinds.replicas, "sleep": kinds.sleep, "ways": kinds.ways}
# In a run of length each point that there is, as they come.
FEW = [
    ("keys", "after Journal.remove"),
    ("replicas", "before Scaling._remove Actor"),
    ("sleep", "after stop"),
    ("ways", "before Body.resume Resume"),
]


def points(story):
    """Every kind of point that a daemon meets in each kind of story."""
    for number, (kind, tell) in enumerate(KINDS.items()):
        met = story.place / f"met-{kind}"
        story.daemon.environ["CRASH_KINDS"] = str(met)
        story.daemon.kill()
        story.revive()
        tell(story, number)
        del story.daemon.environ["CRASH_KINDS"]
        yield from ((kind, point) for point in met.read_text().splitlines() if "dismiss" not in point)


def test_nothing_that_envs_do_by_themselves_is_done_twice_or_by_half(served, require):
    require("nft")
    story = served
    story.fates = itertools.repeat(0)
    with contextlib.closing(Witness(story.daemon, "anchor", b"alive")) as witness:
        story.witness = witness
        for number, (kind, point) in enumerate(list(points(story)) if len(ENDS) < DEATHS else FEW, len(KINDS)):
            deaths = story.deaths
            again = number % 50 if len(ENDS) < DEATHS else 0
            story.fates = itertools.chain([point, again], itertools.repeat(0))
            story.daemon.kill()
            try:
                story.revive()
                KINDS[kind](story, number)
            except BaseException as error:
                error.add_note(f"{kind}, {point}, then {again}")
                raise
            assert story.deaths > deaths + 1, f"{kind}: there is no point {point}"
