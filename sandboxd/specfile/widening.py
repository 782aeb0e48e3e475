"""What a spec lets an env do to the host, and what of it is more than another spec lets it do.

Pure; imports spec and msgspec. `sandbox.toml` may be changed by whoever writes to a project, a pull request for one, and a
person who types `up` again does not read it again. So what became less isolated, or reaches further, is told before it is
done.
"""

import msgspec

from sandboxd.spec import EnvSpec, Isolation, Mount, Network

LEVELS = ("none", "landlock", "full")
SHARES = ("private", None, "box", "link")
MODES = ("none", "private", "host")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a spec that opens something."""

    isolation: Isolation = Isolation()
    network: Network = Network()
    mounts: list[Mount] = []


def reach_of(spec: EnvSpec) -> Reach:
    """What a spec opens."""
    return Reach(isolation=spec.isolation, network=spec.network, mounts=spec.mounts)


def widened(before: Reach, after: Reach) -> list[str]:
    """What `after` opens and `before` did not, each in words that say it as the file does."""
    return [
        *of_isolation(before.isolation, after.isolation),
        *of_network(before.network, after.network),
        *of_mounts(before, after),
    ]


def in_force(accepted: list[str], now: Reach) -> list[str]:
    """What of that which was once accepted a spec still opens; said alike but for what it was before."""
    opened = {words.partition(" (was ")[0] for words in widened(Reach(), now)}
    return [words for words in dict.fromkeys(accepted) if words.partition(" (was ")[0] in opened]


def of_isolation(before: Isolation, after: Isolation) -> list[str]:
    """Walls that are lowered."""
    found = []
    if LEVELS.index(after.level) < LEVELS.index(before.level):
        found.append(f'isolation.level = "{after.level}" (was "{before.level}")')
    if after.home == "readonly" and before.home != "readonly":
        found.append('isolation.home = "readonly": your home, but for its secrets, can be read')
    if after.user == "root" and before.user != "root":
        found.append('isolation.user = "root"')
    if after.nested and not before.nested:
        found.append("isolation.nested = true: it may make namespaces, without Landlock")
    return found


def of_network(before: Network, after: Network) -> list[str]:
    """Ways out and in that were not there."""
    found = []
    if MODES.index(after.mode) > MODES.index(before.mode):
        found.append(f'network.mode = "{after.mode}" (was "{before.mode}")')
    known, asked = given(before), given(after)
    if asked == ["open"] and "open" not in known:
        found.append('network.egress = "open"')
    elif after.mode == "private":
        found += [f"network.egress: {rule}" for rule in asked if rule not in known and reaches_past(rule, known)]
    found += [f"network.forward: {port} of this host" for port in after.forward if port not in before.forward]
    if SHARES.index(after.share) > SHARES.index(before.share):
        found.append(f'network.share = "{after.share}"')
    for publish in after.publish:
        if publish not in before.publish and publish.address not in LOOPBACK:
            whom = "a file of yours" if publish.address.startswith("unix:") else "for other machines"
            found.append(f"network.publish: {publish.where}, {whom}")
    return found


def given(network: Network) -> list[str]:
    """The rules of a network's egress; nothing asked for is `open`, and so is `proxy` alone."""
    if network.egress is None or isinstance(network.egress, str):
        return [] if network.egress == "none" else ["open"]
    return [rule for rule in network.egress if rule != "proxy"] or (["open"] if network.egress else [])


def reaches_past(rule: str, known: list[str]) -> bool:
    """Whether a rule may give what is not given yet: of `open` all but what is this host's or private."""
    from sandboxd.egress import parse  # noqa: PLC0415 - most specs have no list, and ipaddress takes a while

    read = parse(rule)
    return not read.deny and ("open" not in known or read.word in ("lan", "host") or read.network is not None)


def of_mounts(before: Reach, after: Reach) -> list[str]:
    """Paths that were not shown, or not to be written."""
    found = []
    for mount in after.mounts:
        same = [known for known in before.mounts if known.source == mount.source]
        if not same:
            found.append(f"mounts: {mount.source}, {'read-only' if mount.readonly else 'to be written'}")
        elif not mount.readonly and all(known.readonly for known in same):
            found.append(f"mounts: {mount.source}, to be written")
    return found
