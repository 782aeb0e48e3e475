"""Plans that were damaged on their way to the child: refused by name, never a crash, never an env behind fewer walls.

The daemon is the only one that writes plans, so whatever is wrong with one is a mistake of ours, or of another version of us:
the child takes nothing on trust all the same.
"""

import json
import os
import random
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from sandboxd.errors import LaunchFailed, WallUnavailable
from sandboxd.isolation.plan import LaunchPlan
from sandboxd.launch import client
from tests.walls.envs import PYTHON, Inside, Walls, program

CHECK = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
found = [tried(write, "/usr/x"), tried(read, given["secret"]), status["CapEff"].strip("0"), status["CapBnd"].strip("0"),
         status["NoNewPrivs"], status["Seccomp"], tried(os.kill, given["pid"], 0), tried(call, "unshare", 0x10000000)]
"""
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 40,
    1 << 70,
    1.5,
    "",
    "/",
    "/..",
    "x" * 5000,
    "/\0",
    "\ud800",
    [],
    {},
    [[]],
    ["enter"],
    "prove",
]
DEPTH = 12
MOMENT = 0.5  # seconds


def places(tree: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in keys:
        yield tree, key
        if depth < DEPTH:
            yield from places(value, depth + 1)


def mangled(body: bytes, seed: int) -> bytes:
    """One to three things of it are gone, odd, doubled, exchanged; or its bytes are cut or turned."""
    chance = random.Random(seed)
    if chance.random() < 0.1:
        at = chance.randrange(len(body))
        return body[:at] if chance.random() < 0.5 else body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]
    tree = json.loads(body)
    for _ in range(chance.randint(1, 3)):
        everywhere = list(places(tree))
        container, key = chance.choice(everywhere)
        try:
            match chance.randrange(5):
                case 0:
                    del container[key]
                case 1:
                    container[key] = chance.choice(ODD)
                case 2:
                    other, its = chance.choice(everywhere)
                    container[key], other[its] = other[its], container[key]
                case 3 if isinstance(container, list):
                    container.insert(chance.randint(0, len(container)), container[key])
                case _:
                    container[key] = chance.choice(ODD)
        except (KeyError, IndexError):  # what was there went with something else
            continue
    try:
        return json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # a container in itself, or a lone surrogate
        return json.dumps(None).encode()


@pytest.fixture
def damage(walls: Walls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Has the next plan's half damaged by that seed; -1: nothing is."""
    chosen: list[tuple[str, int]] = [("", -1)]

    def through(name: str) -> None:
        real = getattr(client, name)

        def half(*arguments: Any) -> tuple[bytes, list[int]]:
            body, descriptors = real(*arguments)
            which, seed = chosen[0]
            return (mangled(body, seed), descriptors) if which == name and seed >= 0 else (body, descriptors)

        monkeypatch.setattr(client, name, half)

    through("stager_half")
    through("init_half")

    def choose(which: str, seed: int) -> None:
        chosen[0] = (which, seed)

    yield choose
    # Pid 1 says what it cannot read (a service, the words for refused calls) and goes on; it does not break down. What damaged
    # limits let nobody load may say so there, too.
    said = walls.log.read_text().splitlines()
    assert [
        line
        for line in said
        if not line.startswith(("sandboxd-init: ", f"{PYTHON}: ")) or line.startswith("sandboxd-init: ending")
    ] == []
    walls.log.write_text("")


def attempted(walls: Walls, planned: LaunchPlan) -> Inside | None:
    """An env, or None: it was refused, by name."""
    try:
        return walls.launch(planned)
    except (LaunchFailed, WallUnavailable) as refused:
        message = refused.message
    assert message
    assert "the child died" not in message, "it said nothing of why"
    return None


def heard(stdout: int) -> list[str]:
    """What comes for a moment: of a damaged plan may come an env that starts nothing, and says nothing."""
    text = b""
    while select.select([stdout], [], [], MOMENT)[0] and (data := os.read(stdout, 65536)):
        text += data
    return text.decode(errors="replace").splitlines()


@settings(
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(which=st.sampled_from(["stager_half", "init_half"]), seed=st.integers(0, 1 << 32))
@example(which="", seed=-1)
def test_it_is_refused_by_name_or_has_all_its_walls(
    walls: Walls, damage: Callable[[str, int], None], which: str, seed: int
) -> None:
    secret = walls.home / ".ssh-id"
    secret.touch()
    damage(which, seed)
    planned = walls.planned(program(CHECK, {"secret": str(secret), "pid": walls.launcher.pid}))
    env = walls.launch(planned) if seed < 0 else attempted(walls, planned)
    if env is None:
        return
    try:
        for line in env.lines() if seed < 0 else heard(env.ends["stdout"]):
            if line.startswith("[") and '"' in line:
                refused = json.loads(line)[-1]  # a filter that was damaged may refuse in another way
                assert refused in ("EPERM", "ENOSYS", "EINVAL")
                assert json.loads(line) == ["EROFS", "ENOENT", "", "", "1", "2", "ESRCH", refused]
    finally:
        env.close()
