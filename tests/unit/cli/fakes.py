"""A client that answers from a table, and the whole of `sandbox` run on it. No socket, no daemon."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from sandboxd.cli.context import Cli
from sandboxd.cli.main import main
from sandboxd.errors import NotFound
from sandboxd.protocol import messages as m

NOW = 1_700_000_000.0
ID = "0123456789abcdef0123456789abcdef"


def env(**changes: Any) -> m.EnvInfo:
    given: dict[str, Any] = {
        "id": ID,
        "name": "shop",
        "state": "ready",
        "created": "2023-11-14T22:08:20Z",
        "started": "2023-11-14T22:11:20Z",
        "command": "npm run dev",
        "url": "http://shop.localhost:7070",
        "workspace": "/src/shop",
    }
    return m.EnvInfo(**{**given, **changes})


class Fake:
    """Answers by the type of the parameters: a reply, an error to raise, or a function of the parameters."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[m.Params] = []

    def answer(self, params: m.Params) -> Any:
        self.asked.append(params)
        name = type(params).__name__
        if name not in self.answers:
            raise NotFound(f"the fake has no answer to {params}")
        found = self.answers[name]
        found = found(params) if callable(found) else found
        if isinstance(found, BaseException):
            raise found
        return found

    def call(self, params: m.Params) -> Any:
        return self.answer(params)

    def stream(self, params: m.Params) -> Iterator[Any]:
        yield from self.answer(params)


class Done(NamedTuple):
    code: int
    out: str
    err: str
    asked: list[m.Params]


Sandbox = Callable[..., Done]


def runner(capsys: pytest.CaptureFixture[str]) -> Sandbox:
    def run(*argv: str, **answers: Any) -> Done:
        fake = Fake(**answers)
        code = main(argv, cli=Cli(fake))  # type: ignore[arg-type]
        out, err = capsys.readouterr()
        return Done(code, out, err, fake.asked)

    return run
