"""The record of an env that is to be: of what was asked for, as it is before anything was done. Makes nothing."""

import os
import pwd
import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from sandboxd.config import with_usual_limits
from sandboxd.daemon.connection import Peer
from sandboxd.errors import NameInvalid, UsageError
from sandboxd.lifecycle.names import RESERVED
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.sharing import Owner, label
from sandboxd.network.ports import pick_free_port
from sandboxd.spec import EnvSpec
from sandboxd.specfile import check

HANDED_ON = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR", "HOME", "USER", "SHELL"})


def checked_spec(asked: EnvSpec, limits: Mapping[str, Any]) -> EnvSpec:
    """What was asked for, as it can be made; raises what `check` refuses. limits: those of whom says nothing of them."""
    spec = with_usual_limits(on_the_hosts_network(asked), limits)
    check_once(spec)
    if (spec.name or "").rpartition(".")[2] in RESERVED:
        raise NameInvalid(f"{spec.name!r} is a name of sandboxd's own", hint="choose another name")
    return spec


# Those that keep every rule, as bytes that tell all numbers apart: of one spec many envs are made.
_kept: dict[bytes, None] = {}
MOST_KEPT, LONGEST_KEPT = 64, 16 << 10


def check_once(spec: EnvSpec) -> None:
    """Raise as `check`, which is asked once of each spec."""
    try:
        key = msgspec.msgpack.encode(spec)
    except UnicodeEncodeError:  # which it will say
        key = b""
    if key in _kept:
        return
    check(spec)
    if 0 < len(key) <= LONGEST_KEPT:
        if len(_kept) >= MOST_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = None


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Of a caller's environment what an env gets; raises UsageError."""
    if any("\0" in key + value for key, value in environ.items()):
        raise UsageError("the environment has a NUL byte in it")
    return {key: value for key, value in environ.items() if key in HANDED_ON or key.startswith("LC_")}


def owner_of(peer: Peer, *, shared: bool) -> Owner:
    """Whose an env is that this peer asks for. Root may ask a user's daemon, whose envs are the user's all the same."""
    if not shared:
        return Owner(os.geteuid(), os.getegid())
    return Owner(peer.uid, peer.gid, user_of(peer.uid))


def user_of(uid: int) -> str:
    """What stands for that user in the URLs of his envs."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return label(uid, name)


def record_of(spec: EnvSpec, name: str, environ: Mapping[str, str], directory: str | None, owner: Owner) -> EnvRecord:
    """The record, without an id as yet. environ: as `handed_on` gives it."""
    on_host = spec.network.mode == "host" and all(service.port is None for service in spec.services.values())
    return EnvRecord(
        id="",
        name=name,
        owner=owner.uid,
        group=owner.gid,
        user=owner.user,
        token=secrets.token_urlsafe(24),
        spec=spec,
        given_port=pick_free_port() if on_host else None,
        environ=dict(environ),
        directory=directory,
        services={
            service_name: ServiceRecord(name=service_name, port=service.port) for service_name, service in spec.services.items()
        },
        created=time.time(),
    )


def on_the_hosts_network(spec: EnvSpec) -> EnvSpec:
    """The spec; below level full there is no network of its own to be had, and nobody asked for one by name."""
    if spec.isolation.level == "full" or spec.network.mode != "private":
        return spec
    return replace(spec, network=replace(spec.network, mode="host"))
