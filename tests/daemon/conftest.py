"""What several tests of a whole daemon begin with."""

import pytest

from tests.daemon.asking import SERVER, inspect, run
from tests.daemon.box import box, groups, made, shared

__all__ = ["box", "groups", "made", "served", "shared"]


@pytest.fixture
def served(daemon, tmp_path):
    """A daemon, an env of its that answers `alive`, and the pid of that env's pid 1."""
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        env = run(client, [*SERVER, "3000"], name="web", path=tmp_path, port=3000, wait="ready")
        pid = inspect(client, env.id).pid
    return daemon, env, pid
