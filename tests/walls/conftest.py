"""`walls`: a launcher for a module's tests, which make an env each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.require import require as require_facts
from tests.walls.envs import Walls


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walls]:
    """Without a pool: every launch is a cold one, and no descriptor comes or goes between tests."""
    require_facts("userns", "unprivileged")
    made = Walls(tmp_path_factory.mktemp("walls"))
    yield made
    made.close()


@pytest.fixture
def own_walls(tmp_path: Path) -> Iterator[Walls]:
    """A launcher of this test's own, with a pool."""
    require_facts("userns", "unprivileged")
    made = Walls(tmp_path, pool=2)
    yield made
    made.close()
