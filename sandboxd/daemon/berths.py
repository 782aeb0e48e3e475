"""Places for envs to come: an id, its directory, its bound sockets, made ahead like the launcher's parked children.

None of it depends on the spec, and together it is a dozen changes to a directory, which a busy disk makes `run` wait for.
Filled again one by one while nothing else is to be done; what is left over goes when the daemon leaves, or with the next one.
"""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable

import msgspec

from sandboxd.errors import StoreFailed
from sandboxd.kernel import fds
from sandboxd.launch.doorway import InitSockets, bind_sockets
from sandboxd.store.rundir import RunDir

log = logging.getLogger(__name__)
PAUSE = 0.02
SPARE = 4  # beyond one for each parked child, which takes 200 times as much: who comes when none is parked finds a place
LOGS = (0, 1)  # the two files of a service's log
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Berth(msgspec.Struct, frozen=True):
    """One place. Whoever takes it closes its descriptors."""

    sockets: InitSockets
    exits: int
    logs: tuple[int, ...] = ()  # of a service without a name as yet

    def close(self) -> None:
        """Close what is held; the directory stays."""
        self.sockets.close()
        fds.close_all([self.exits, *self.logs])


class Berths:
    """The places made ahead, by id. is_crowded: whether so many envs start that whoever waits for one would wait for this."""

    def __init__(self, rundir: RunDir, wanted: int, is_crowded: Callable[[], bool] = lambda: False) -> None:
        self._rundir = rundir
        self._wanted = wanted
        self._is_crowded = is_crowded
        self._ready: dict[str, Berth] = {}
        self._taken: dict[str, Berth] = {}
        self._filling: asyncio.TimerHandle | None = None

    def resize(self, wanted: int) -> None:
        """Keep that many ready from now on; those that are too many are given up."""
        self._wanted = wanted
        for env_id in list(self._ready)[self._wanted :]:
            self._ready.pop(env_id).close()
            self._rundir.remove_prepared(env_id)
        self.fill_soon()

    def take_id(self) -> str:
        """The unguessable id of a new env, with a place if one is ready."""
        env_id = next(iter(self._ready), None)
        if env_id is None:
            env_id = secrets.token_hex(16)
        else:
            self._taken[env_id] = self._ready.pop(env_id)
        self.fill_soon()
        return env_id

    @property
    def ready(self) -> int:
        """How many are there."""
        return len(self._ready)

    def ids(self) -> set[str]:
        """Those that have a place and no directory of their own as yet."""
        return {*self._ready, *self._taken}

    def claim(self, env_id: str) -> Berth | None:
        """The place that goes with an id, once; its directory is where an env's belongs from here on."""
        berth = self._taken.pop(env_id, None)
        if berth is not None:
            self._rundir.create_env_dir(env_id)
        return berth

    def give_up(self, env_id: str) -> None:
        """That env will not be launched: if its place is still held, it goes."""
        berth = self._taken.pop(env_id, None)
        if berth is not None:
            berth.close()
            self._rundir.remove_prepared(env_id)

    def fill_soon(self) -> None:
        """Make what is missing, a little later."""
        if self._filling is None and len(self._ready) < self._wanted:
            self._filling = asyncio.get_running_loop().call_later(PAUSE, self._fill)

    def _fill(self) -> None:
        self._filling = None
        if self._is_crowded():
            self.fill_soon()
            return
        env_id = secrets.token_hex(16)
        try:
            path = self._rundir.prepare_env_dir(env_id)
            sockets = bind_sockets(path)
            opened: list[int] = []
            try:
                for name in ("exits", *map(unnamed, LOGS)):
                    opened.append(os.open(path / name, APPEND, 0o600))
            except OSError:
                sockets.close()
                fds.close_all(opened)
                raise
        except (StoreFailed, OSError) as error:
            log.warning("no place could be made ahead: %s", error)  # whoever needs one makes it, and is told
            with contextlib.suppress(OSError):  # else the janitor takes it
                self._rundir.remove_prepared(env_id)
            return
        self._ready[env_id] = Berth(sockets, opened[0], tuple(opened[1:]))
        self.fill_soon()

    def close(self) -> None:
        """Give up what was not used."""
        if self._filling is not None:
            self._filling.cancel()
        for berth in (*self._ready.values(), *self._taken.values()):
            berth.close()
        self._ready.clear()
        self._taken.clear()
        self._rundir.remove_prepared()


def log_name(service: str, which: int) -> str:
    """Where one of a service's two log files is, in an env's directory."""
    return f"logs/{service}.{which}.log"


def unnamed(which: int) -> str:
    """The same, before there is a service. No service's name begins with a dot."""
    return f"logs/.{which}"
