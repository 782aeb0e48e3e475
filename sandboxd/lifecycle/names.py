"""Which env is meant, and what a new one is called. Pure: chance is an argument."""

from collections.abc import Callable, Collection, Iterable, Sequence

from sandboxd.errors import Ambiguous, NotFound
from sandboxd.lifecycle.records import EnvRecord

ADJECTIVES = (
    "amber", "ample", "apt", "autumn", "bold", "brave", "brisk", "calm", "civil", "clear", "cool", "coral", "crisp", "deft",
    "dry", "eager", "early", "easy", "fair", "fast", "fine", "firm", "fleet", "fond", "free", "fresh", "gentle", "glad",
    "gold", "good", "grand", "green", "happy", "hardy", "ideal", "jolly", "keen", "kind", "late", "lean", "light", "live",
    "lucid", "lucky", "merry", "mild", "neat", "new", "nimble", "noble", "open", "plain", "proud", "quick", "quiet", "rapid",
    "ready", "rosy", "royal", "sharp", "short", "silent", "silver", "smart", "snug", "solid", "still", "sunny", "swift",
    "tall", "tame", "tidy", "true", "vivid", "warm", "wide", "wise", "young",
)  # fmt: skip
NOUNS = (
    "acorn", "alder", "anchor", "apple", "aspen", "badger", "bay", "beacon", "birch", "bird", "brook", "canyon", "cedar",
    "cliff", "cloud", "clover", "comet", "cove", "crane", "creek", "delta", "dune", "eagle", "elm", "ember", "falcon", "fern",
    "field", "finch", "fir", "fjord", "fox", "garden", "glade", "grove", "harbor", "hare", "hawk", "hazel", "heron", "hill",
    "island", "ivy", "lagoon", "lake", "lark", "leaf", "linden", "lynx", "maple", "marsh", "meadow", "moon", "moss", "oak",
    "ocean", "otter", "owl", "peak", "pine", "pond", "prairie", "rain", "raven", "reef", "ridge", "river", "robin", "sage",
    "shore", "sky", "sparrow", "spring", "star", "stone", "swan", "thicket", "tide", "valley", "wave", "willow", "wren",
)  # fmt: skip
RESERVED = frozenset({"sandboxd", "localhost", "all"})


def draw_name(used: Collection[str], choose: Callable[[Sequence[str]], str]) -> str:
    """A free two-word name; with a number behind it once chance has failed often enough."""
    pair = ""
    for _ in range(20):
        pair = f"{choose(ADJECTIVES)}-{choose(NOUNS)}"
        if pair not in used:
            return pair
    return next(f"{pair}-{n}" for n in range(2, len(used) + 3) if f"{pair}-{n}" not in used)


def host_clash(new: EnvRecord, named: Callable[[str], EnvRecord | None]) -> EnvRecord | None:
    """An env with which a new one would share a host name: SERVICE.NAME of one is the name BRANCH.PROJECT of the other.
    named: the env of its owner that has a name."""
    service, _, name = new.name.partition(".")
    other = named(name) if name else None
    if other is not None and service in other.services:
        return other
    return next(filter(None, (named(f"{service}.{new.name}") for service in new.services)), None)


def find(records: Iterable[EnvRecord], target: str, directory: str | None = None) -> EnvRecord:
    """The env of that id, name, or unique id prefix, in this order; without a target the newest one of that directory.

    Raises NotFound or Ambiguous.
    """
    known = list(records)
    if not target:
        return of_directory(known, directory)
    named = [record for record in known if target in (record.id, record.name, record.host)]
    if len(named) == 1:
        return named[0]
    if named:  # root, or an admin, sees those of several users
        names = ", ".join(sorted(record.host for record in named))
        raise Ambiguous(
            f"{target!r} is the name of {len(named)} envs: {names}",
            hint="say whose: NAME.USER",
            matches=[record.id for record in named],
        )
    matches = [record for record in known if record.id.startswith(target)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{record.id[:12]} ({record.name})" for record in matches[:5])
        raise Ambiguous(
            f"{target!r} is the beginning of {len(matches)} ids: {names}",
            hint="give more of the id, or the name",
            matches=[record.id for record in matches],
        )
    raise NotFound(f"no env {target!r}", hint="`sandbox ps -a` lists them all", target=target)


def of_directory(records: Iterable[EnvRecord], directory: str | None) -> EnvRecord:
    """The env whose workspace is that directory or the nearest one above it; of several, the newest."""
    best: EnvRecord | None = None
    depth = -1
    for record in records:
        place = record.spec.workspace.path
        if directory is None or place is None or record.replica_of or not is_within(directory, place):
            continue
        if len(place) > depth or (len(place) == depth and best is not None and record.created > best.created):
            best, depth = record, len(place)
    if best is None:
        raise NotFound(f"no env of {directory or 'this directory'}", hint="name one, or start one here with `sandbox up`")
    return best


def is_within(path: str, place: str) -> bool:
    """Whether path is place or lies below it."""
    return path == place or path.startswith(place.rstrip("/") + "/")
