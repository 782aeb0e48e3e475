"""What a row of the tables is: an attempt to get out, and its two controls.

`blocked`: what it must come to inside. `without`, `works`: where that one wall is missing, and what the same attempt comes to
there: if it came to the same, the row would prove nothing. `neighbour`: the nearest legitimate thing, which must work inside.
In arguments `{name}` stands for a path, port or pid of the world that test_attempts.py builds. `wall`: skipped, with the
reason, where the env does not have that wall.
"""

from typing import Any, NamedTuple

# Where a wall is missing: outside, in namespaces with every capability (or these and a route, which not every host has), beside
# another env's services, or in an env with flags.
OUTSIDE = ("outside",)
CAPABLE = ("capable",)
ROUTED = ("routed",)
OTHER = ("other",)
NO_WALLS = ("--isolation", "none")
NESTED = ("--nested",)
HOST_NETWORK = ("--network", "host")
SHOWN = ("-v", "{home}:{home}", "-v", "{sockets}:{sockets}")


class Attempt(NamedTuple):
    """One row; `blocked` and `works` are words joined by |."""

    name: str
    act: list[Any]
    blocked: str
    without: tuple[str, ...]
    works: str
    neighbour: list[Any]
    wall: str = ""


def filled(value: Any, world: dict[str, Any]) -> Any:
    """The row's value with names of the world in it; a lone `{name}` keeps its type."""
    if isinstance(value, list | tuple):
        return [filled(part, world) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith("{") and value.endswith("}") and value[1:-1] in world:
        return world[value[1:-1]]
    for name, meant in world.items():
        value = value.replace("{" + name + "}", str(meant))
    return value


def told(value: object) -> str:
    """An outcome as a word of the table."""
    return value if isinstance(value, str) else repr(value)
