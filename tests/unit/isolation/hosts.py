"""Facts of an imagined host and place, for planners."""

from typing import Any

from sandboxd.isolation.facts import WALLS, HostFacts, Layout, Offer, PlaceFacts
from sandboxd.spec import EnvSpec, Service

LAYOUT = Layout(
    directories=[("/usr", "/usr"), ("/etc", "/etc"), ("/opt", "/data/opt")],
    links=[("/bin", "usr/bin"), ("/lib", "usr/lib")],
    system=["/sys/devices/system"],
    nodes=["/dev/null", "/dev/zero"],
    resolv_conf="/run/systemd/resolve/stub-resolv.conf",
    hosts="/etc/hosts",
    home="/home/ada",
    memory=8 << 30,
)


WAY = Offer(offered=True)


def host(**refused: Offer) -> HostFacts:
    """A host that offers every wall but those given."""
    return HostFacts(
        walls={**{wall: Offer(offered=True) for wall in WALLS}, **refused}, proc="full", layout=LAYOUT, landlock=7, egress=WAY
    )


def place(**facts: Any) -> PlaceFacts:
    """A place with a workspace below the home."""
    given = {"home": "/home/ada", "env_home": "/state/envs/x/home", "user": "ada", "workspace": "/home/ada/src/shop"}
    return PlaceFacts(**{**given, **facts})


def spec(**parts: Any) -> EnvSpec:
    """A spec with one service."""
    return EnvSpec(**{"services": {"web": Service(command=["serve"])}, **parts})
