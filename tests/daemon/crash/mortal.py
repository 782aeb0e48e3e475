"""The daemon, dying by SIGKILL at a point of its work: `python -m tests.daemon.crash.mortal`, which one in CRASH_AT: the N-th,
or by name the first of its kind.

A point is the moment before or after each effect of the state machine, each write to the journal, each order to router,
launcher or parked child, and each change to an env's directory. Everything behind a point is the real thing. Where it died is
appended to the file that CRASH_LOG names; CRASH_AT=0 only counts, and writes each kind of point it meets to CRASH_KINDS.
"""

import functools
import inspect
import os
import signal
from typing import Any

from sandboxd.daemon import (
    body,
    building,
    demand,
    freezing,
    idling,
    linking,
    main,
    passing,
    queries,
    scales,
    scaling,
    supervisor,
    templates,
)
from sandboxd.launch import parked
from sandboxd.launch.client import Launcher
from sandboxd.router.handle import RouterHandle
from sandboxd.router.ways import Ways
from sandboxd.store import removal
from sandboxd.store.journal import Journal
from sandboxd.store.rundir import RunDir


class Fate:
    """Counts points; the one that is meant is the last."""

    def __init__(self) -> None:
        self.at = os.environ.get("CRASH_AT", "0")
        self.count = 0
        self.log = os.environ.get("CRASH_LOG", "")
        self.kinds = os.environ.get("CRASH_KINDS", "")
        self.met: set[str] = set()

    def point(self, name: str) -> None:
        """Here it may end."""
        self.count += 1
        if self.kinds and name not in self.met:
            self.met.add(name)
            note(self.kinds, name)
        if self.at not in (str(self.count), name):
            return
        if self.log:
            note(self.log, f"{self.count} {name}")
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def note(path: str, line: str) -> None:
    """Append it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)


FATE = Fate()


def named(function: Any, arguments: tuple[Any, ...]) -> str:
    """The function, and for an effect or an order which one."""
    kinds = [type(argument).__name__ for argument in arguments[1:2] if type(argument).__module__.startswith("sandboxd.")]
    return " ".join([function.__qualname__, *kinds])


def mortal(function: Any) -> Any:
    """The same, with a point before and one after."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def slow(*args: Any, **kwargs: Any) -> Any:
            FATE.point(f"before {named(function, args)}")
            result = await function(*args, **kwargs)
            FATE.point(f"after {named(function, args)}")
            return result

        return slow

    @functools.wraps(function)
    def quick(*args: Any, **kwargs: Any) -> Any:
        FATE.point(f"before {named(function, args)}")
        result = function(*args, **kwargs)
        FATE.point(f"after {named(function, args)}")
        return result

    return quick


def doom(owner: Any, *names: str) -> None:
    """Give these functions of a class or a module their points."""
    for name in names:
        setattr(owner, name, mortal(getattr(owner, name)))


doom(Journal, "put", "remove", "put_fact", "add_events", "put_template", "remove_template")
doom(RouterHandle, "push", "change", "deny", "_order", "dismiss", "stop")
doom(Ways, "push")
doom(queries.Queries, "shutdown")
doom(templates.TemplateRequests, "register", "unregister", "ensure")
doom(demand.Demand, "register", "end", "_unregister", "asked", "obtain", "_make")
doom(scales.ScaleRequests, "scale")
doom(scaling.Scaling, "_start", "_end", "_remove", "dissolve")
doom(idling.Idling, "_step", "_suspend")
doom(freezing, "stop", "resume")
doom(passing.NetRequests, "allow")
doom(main, "leave")
doom(Launcher, "launch")
doom(parked.Parked, "begin", "launch", "release")
doom(RunDir, "create_env_dir", "prepare_env_dir", "remove_env_dir", "remove_prepared")
doom(removal, "remove_tree")
doom(building, "publish", "first_fds", "open_logs")
doom(supervisor.Supervisor, "start_launcher", "start_router")
doom(body.Body, "let_go")
doom(linking, "meet", "greet", "adopt")
for effect, perform in list(body.PERFORM.items()):
    body.PERFORM[effect] = mortal(perform)

if __name__ == "__main__":
    main.main()
