"""What of a spec says how it reaches outside: rules of `egress`, entries of `forward`. Called by `rules`.

Pure. `sandboxd.egress` is imported only for specs that have any: with ipaddress it is more than all the rest of a check takes.
"""

from collections.abc import Iterator

from sandboxd.errors import SpecInvalid
from sandboxd.spec import EnvSpec
from sandboxd.specfile.lines import Path

Found = tuple[Path, str, str]


def outward(spec: EnvSpec) -> Iterator[Found]:
    """Where, what is wrong, and what to do."""
    yield from egress(spec)
    yield from forwards(spec)


def egress(spec: EnvSpec) -> Iterator[Found]:
    """Rules that can be meant."""
    if spec.network.egress is None or isinstance(spec.network.egress, str):
        return
    from sandboxd.egress import parse as parse_rule  # noqa: PLC0415 - most specs have no list, and ipaddress takes a while

    for index, text in enumerate(spec.network.egress):
        if text == "proxy":
            continue
        try:
            parse_rule(text)
        except SpecInvalid as error:
            yield ("network", "egress", index), error.message, error.hint


def forwards(spec: EnvSpec) -> Iterator[Found]:
    """Places that can be meant, each at a port of its own."""
    if not spec.network.forward:
        return
    from sandboxd.egress import forward as parse_forward  # noqa: PLC0415 - as above

    taken: dict[int | str, str] = {
        service.port: f"service {name}" for name, service in spec.services.items() if service.port is not None
    }
    for index, entry in enumerate(spec.network.forward):
        path: Path = ("network", "forward", index)
        try:
            place = parse_forward(entry)
        except SpecInvalid as error:
            yield path, error.message, error.hint
            continue
        at = place.port or place.path
        if at in taken:
            what = f"port {at}" if place.port else str(at)
            yield (path, f"{what} inside is that of {taken[at]}", f"name another port inside, as in 15432:{entry}")
        taken[at] = f"forward {entry}"
