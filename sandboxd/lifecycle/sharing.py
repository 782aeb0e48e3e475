"""A daemon that serves every user of a box: whose an env is, what the name of its owner is in its URL, what is not shared yet.

Pure. Each user's envs are his own: others' ids and names are as if they were not there, and no name of one can be another's.
"""

import re
from typing import NamedTuple

from msgspec.structs import replace

from sandboxd.errors import NotOffered, PermissionDenied
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.spec import EnvSpec

LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
NUMBER = re.compile(r"u[0-9]+")
LOWEST_PORT = 1024


class Owner(NamedTuple):
    """Whose an env is to be. user: what stands for him in its URL; empty where all are one user's."""

    uid: int
    gid: int
    user: str = ""


def label(uid: int, name: str) -> str:
    """A user as a DNS label that no other user has: his name where it is one, else his number."""
    return name if LABEL.fullmatch(name) and not NUMBER.fullmatch(name) else f"u{uid}"


def of_one(record: EnvRecord, user: str) -> EnvRecord:
    """A record from when all envs were one user's, now that he is one of many: its plain name could be that of another user."""
    if record.user:
        return record
    return replace(record, user=user, template=f"{record.template}.{user}" if record.template else "")


def check(spec: EnvSpec, owner: Owner, base_domain: str) -> None:
    """What an env of an ordinary user cannot have from a daemon of root's; raises PermissionDenied, NotOffered."""
    if not owner.user or owner.uid == 0:
        return
    own = "run a daemon of your own for it: unset SANDBOXD_SOCKET, sandbox context use default"
    if spec.isolation.level != "full":
        raise NotOffered("a shared daemon gives full isolation only: below it users are not kept apart", hint=own)
    if spec.network.forward:
        # Its connections come from root, whom services of the host, and our own router, let in everywhere.
        raise NotOffered("a shared daemon forwards no service of the host", hint=own)
    low = [one.where for one in spec.network.publish if not one.address.startswith("unix:") and one.host_port < LOWEST_PORT]
    if low:
        raise PermissionDenied(f"{low[0]}: ports below {LOWEST_PORT} are root's", hint="publish a higher one")
    for rule in spec.routes:
        if rule.host is not None and not rule.host.endswith((f".{owner.user}.{base_domain}", f".{owner.user}.localhost")):
            raise PermissionDenied(
                f"routes: the name {rule.host} is not yours", hint=f"yours end with .{owner.user}.{base_domain}"
            )
