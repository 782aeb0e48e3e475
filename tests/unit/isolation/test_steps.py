import msgspec
import pytest

from sandboxd.isolation import steps
from sandboxd.isolation.steps import AnyStep, Bind, Capabilities, Leave, Phase, Prove, Seal, Sysctl, in_order, kinds

SAMPLES = {
    "size": 1 << 20, "mode": 0o755, "paths": ["/x"], "files": [("/x", "/y")], "links": [("/x", "y")], "trees": [("/x", "/y")],
    "nodes": ["/dev/null"], "limits": [("CORE", 0, 0)], "cpus": [0], "walls": ["net"], "listener": True,
    "rules": [("/x", 1)], "ports": [(80, 1)],
    "sealed": ["/x"], "kept": ["/x"], "hidden": [("/x", "/y")],
    **dict.fromkeys(["fs", "net", "scoped", "flags"], 1),
}  # fmt: skip


def sample(kind: type[steps.Step]) -> steps.Step:
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            values[field.name] = SAMPLES.get(field.name, "/x")
    return kind(**values)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_travels_and_has_words(kind: type[steps.Step]) -> None:
    step = sample(kind)
    sent = msgspec.json.encode(step)
    assert sent.startswith(b'["' + kind.__name__.lower().encode())
    assert msgspec.json.decode(sent, type=AnyStep) == step
    assert step.describe()
    assert "{" not in step.describe()


def test_every_kind_is_in_the_union() -> None:
    assert set(kinds()) == set(AnyStep.__args__)


def test_the_words_name_what_is_shown() -> None:
    assert Bind("/a", "/b").describe() == "show /a at /b, read-only=True"


def test_order_is_by_phase() -> None:
    assert in_order([Bind("/a", "/a"), Seal(), Leave(), Capabilities(), Prove([])])
    assert not in_order([Capabilities(), Bind("/a", "/a")])
    assert not in_order([Sysctl("a", "b"), Leave()])
    assert in_order([])


def test_later_walls_have_their_places_between() -> None:
    assert (
        Phase.ROOT < Phase.CGROUP < Phase.SYSCTL < Phase.NFT < Phase.PRIVILEGES < Phase.SECCOMP < Phase.LANDLOCK < Phase.PROOF
    )


@pytest.mark.parametrize("path", ["relative", "/nul\x00byte", ""])
def test_a_path_on_the_wire_is_absolute(path: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(Bind(path, "/b")), type=AnyStep)
