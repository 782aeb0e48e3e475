"""`sandbox(ARGS, Method=answer, …)`: the CLI on a fake client."""

import pytest

from tests.unit.cli.fakes import Sandbox, runner


@pytest.fixture
def sandbox(capsys: pytest.CaptureFixture[str]) -> Sandbox:
    return runner(capsys)
