"""The daemon is killed before and after every effect, while envs live through all that can be asked of them.

So of sandboxd.daemon.adopt. CRASH_DEATHS and CRASH_SEED make the run longer, and another one.
"""

import contextlib
import os

import pytest

from tests.daemon.asking import SERVER
from tests.daemon.crash.story import Story, Witness, fates, lives

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
