"""Which daemon is meant: this machine's, or that of a box reached by ssh; and the contexts, names that people give to boxes.

As docker's: --host, then SANDBOX_HOST, then SANDBOX_CONTEXT, then the context in use. SANDBOXD_SOCKET and SANDBOXD_DIR name a
daemon of this machine, and win over the context in use. Imports next to nothing: every `sandbox ps` asks.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from sandboxd.errors import NotFound, StoreFailed, UsageError

LOCAL = "default"
CAP = 1 << 20
# No word may begin with a hyphen: ssh would take it for a flag. Not compiled here: most name no box.
SSH = (
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^\0\n]*)?"
)
HINT = "as ssh://USER@BOX, ssh://USER@BOX:PORT/PATH/OF/control.sock or unix:///PATH/OF/control.sock"


class Remote(NamedTuple):
    """A box. path: its daemon's control socket, where it is not the user's own there."""

    user: str
    name: str
    port: str
    path: str

    def __str__(self) -> str:
        """As it is written."""
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"ssh://{user}{self.name}{port}{self.path}"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A box under a name."""

    host: str
    description: str = ""


class Contexts(msgspec.Struct, kw_only=True):
    """All of them, and the one that is in use where nothing else is said."""

    current: str = LOCAL
    contexts: dict[str, Context] = {}

    def host(self, name: str) -> str:
        """Where a context leads; raises NotFound. Empty: to this machine."""
        if name == LOCAL:
            return ""
        if name not in self.contexts:
            known = ", ".join([LOCAL, *self.contexts])
            raise NotFound(f"there is no context {name!r}", hint=f"there are: {known}; `sandbox context create` makes one")
        return self.contexts[name].host


def contexts_file(environ: Mapping[str, str]) -> str:
    """Where contexts are kept."""
    config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or os.path.expanduser('~')}/.config"
    return f"{config}/sandboxd/contexts.json"


def read_contexts(environ: Mapping[str, str]) -> Contexts:
    """All contexts; raises StoreFailed."""
    path = contexts_file(environ)
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(CAP), type=Contexts)
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except (OSError, msgspec.DecodeError) as error:
        raise StoreFailed(f"cannot read {path}: {error}", hint=f"mend it, or remove it: rm {path}") from error


def chosen(environ: Mapping[str, str], host: str = "") -> Remote | str:
    """The box that is meant, or the path of a control socket, or "" for this machine's; raises UsageError, NotFound."""
    host = host or environ.get("SANDBOX_HOST", "")
    if not host:
        named = environ.get("SANDBOX_CONTEXT", "")
        if not named and ("SANDBOXD_SOCKET" in environ or "SANDBOXD_DIR" in environ):
            return ""
        contexts = read_contexts(environ)
        host = contexts.host(named or contexts.current)
    return parse_host(host) if host else ""


def parse_host(text: str) -> Remote | str:
    """A box, or the path of a control socket of this machine; raises UsageError."""
    if text.startswith("unix:///") and "\0" not in text:
        return text.removeprefix("unix://")
    found = re.fullmatch(SSH, text)
    if found is None or (found["port"] and not 1 <= int(found["port"]) <= 65535):
        raise UsageError(f"{text!r} is no host", hint=HINT)
    path = found["path"] or ""
    return Remote(found["user"] or "", found["name"], found["port"] or "", path if path != "/" else "")
