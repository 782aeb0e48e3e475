"""Fixtures of the tests that need a kernel: `init_env` starts a real pid 1."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.inits import Env


@pytest.fixture
def init_env(tmp_path: Path, require: Callable[..., None]) -> Iterator[Callable[..., Env]]:
    """`init_env({service: plan}, ...)`: an env of that init; it must have nothing to complain of at the end."""
    require("userns", "unprivileged")
    made: list[Env] = []

    def start(services: dict[str, dict[str, Any]] | None = None, **given: Any) -> Env:
        made.append(Env(tmp_path / f"env{len(made)}", services or {}, **given))
        return made[-1]

    yield start
    complaints = [env.stderr.read_text() for env in made]
    for env in made:
        env.close()
    assert not any(complaints), complaints
