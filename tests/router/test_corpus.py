"""The corpus of requests, through the real router to three real servers, and straight to them.

So of sandboxd.routing.requests and sandboxd.routing.chunked. What the router lets pass, the server reads as the router did,
and as it reads the same bytes without a router; what it refuses, nobody sees. Never two requests seen where one was sent.
"""

import json
from collections.abc import Iterator

import pytest

from tests.require import require
from tests.router.corpus.backends import PORTS
from tests.router.corpus.harness import HOSTS, Stage, answers, exchange, straight
from tests.router.corpus.rows import ROWS

KINDS = tuple(HOSTS)

# Refused by that server itself; that is its right, and the router passes its refusal on.
OWN_REFUSALS = {
    "node": ("turns: a body longer than said", "heads: a method in small letters"),  # methods that it does not know
    "nginx": (
        *("turns: a body longer than said", "heads: a method in small letters"),
        *("plain: an encoded path", "plain: dots in a path", "plain: options of all"),
        "plain: tabs around a value",
    ),
}

# The router brings these to a form that all servers read alike; without it that server refuses them, or reads on elsewhere.
WITHOUT_US = {
    "h11": ("plain: an empty line before", "plain: http/1.0 that keeps alive", "turns: empty lines between"),
    "node": ("turns: an upgrade that is refused", "turns: h2c is not spoken"),
    "nginx": ("bodies: the coding behind a tab",),
}
REWRITTEN = ("absolute form", "a fragment in absolute form")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all rows: what one of them does must not harm the next."""
    require("userns", "node", "nginx")
    made = Stage(tmp_path_factory.mktemp("corpus"), "node", "nginx")
    yield made
    made.close()


def spelled(text: str) -> list[str]:
    """What a row's word says was seen."""
    method, target, *body = text.removeprefix("@").split(" ", 2)
    return [method, target, *body] if body else [method, target, ""]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROWS)
def test_what_passes_is_read_alike_and_what_does_not_is_seen_by_nobody(stage: Stage, name: str, kind: str) -> None:
    data, *verdict = ROWS[name]
    assert isinstance(data, bytes)
    for change in (str.lower, str.upper):
        data = data.replace(change("shop.").encode(), change(HOSTS[kind][:5]).encode())
    wanted = [word.replace("shop.localhost", HOSTS[kind]) if isinstance(word, str) else word for word in verdict]
    came = list(answers(exchange(stage.bench.connect(), data), [str(word).removeprefix("@").split(" ")[0] for word in wanted]))
    seen, by_other = stage.seen(kind), stage.seen_by_other()
    refused_by_it = name in OWN_REFUSALS.get(kind, ())
    expected = [spelled(word) for word in wanted if isinstance(word, str) and not word.startswith("@") and " " in word]
    assert seen == (expected[: len(seen)] if refused_by_it else expected)
    assert by_other == [spelled(word) for word in wanted if isinstance(word, str) and word.startswith("@")]
    if not refused_by_it:
        check_answers(came, [word for word in wanted if word != 0], kind)
    stage.sing()
    if not refused_by_it and all(isinstance(word, str) and " " in word and word[0] != "@" for word in wanted):
        exchange(straight(stage.shop, PORTS[kind][0]), data)
        alone = stage.seen(kind)
        if name not in WITHOUT_US[kind] and not any(word in name for word in REWRITTEN):
            assert alone == seen


def check_answers(came: list[tuple[int, bytes]], wanted: list[str | int], kind: str) -> None:
    """One answer to each, in turn, from who was meant."""
    assert [status for status, _ in came] == [200 if " " in str(word) else int(word) for word in wanted], came
    for (_, body), word in zip(came, wanted, strict=True):
        if " " in str(word) and body:
            who = "blog h11" if str(word).startswith("@") else f"shop {kind}"
            assert json.loads(body) == {"who": who, "what": spelled(str(word))}
