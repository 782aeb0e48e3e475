"""What every verb is given: the client, made on first use, and where the user stands.

The only place of the CLI that makes a `Client`; tests hand in another one. Imports the client late: `--help` needs none.
"""

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from sandboxd.errors import UsageError

if TYPE_CHECKING:
    from sandboxd.client import Client
    from sandboxd.client.hosts import Remote


COMPLETE = "_SANDBOX_COMPLETE"
"""The variable by which the script of `sandbox completion` asks."""


class Cli:
    """One run of `sandbox`."""

    def __init__(self, client: "Client | None" = None) -> None:
        self._client = client
        self.host = ""  # as --host or --context says; empty: as the environment does

    @property
    def client(self) -> "Client":
        """The client, safe for threads; its first call starts a daemon when there is none."""
        if self._client is None:
            self._client = made(self.host, autostart=True)
        return self._client

    @property
    def visitor(self) -> "Client":
        """The client of a verb that must not start a daemon."""
        if self._client is None:
            self._client = made(self.host, autostart=False)
        return self._client

    @property
    def remote(self) -> "Remote | None":
        """The box that is meant, if it is one."""
        from sandboxd.client.hosts import chosen  # noqa: PLC0415 - as `made`

        found = chosen(os.environ, self.host)
        return None if isinstance(found, str) else found

    @property
    def directory(self) -> str:
        """Where the user stands, absolute; on a box nowhere in particular. Raises UsageError when that directory is gone."""
        if self.remote is not None:
            return "/"
        try:
            return os.getcwd()
        except FileNotFoundError as error:
            raise UsageError("the current directory does not exist any more", hint="cd somewhere that does") from error

    @property
    def home(self) -> str:
        """The user's home."""
        if self.remote is not None:
            return "/"
        return os.path.expanduser("~")


def made(host: str, *, autostart: bool) -> "Client":
    """A client of the daemon that the environment names."""
    from sandboxd.client import Client  # noqa: PLC0415 - `--help`, `completion` and usage errors need no client

    return Client(autostart=autostart, host=host)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """A verb's flags and arguments under click's names; each verb has its own kind."""


class Chosen(Flags, frozen=True, kw_only=True):
    """Flags of a verb about several envs (`options.targets`)."""

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    yes: bool = False


def is_terminal(stream: int) -> bool:
    """Whether that descriptor is a terminal."""
    return os.isatty(stream)


def may_prompt() -> bool:
    """Whether somebody is there to answer: a terminal on both ends, and no CI."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")
