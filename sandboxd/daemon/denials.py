"""What an env's filter refused, from init's numbers to the words that `why` shows: written into the env's notebook.

Imports `isolation` and what the daemon holds; decides nothing. Init lives inside the env: what it tells is capped and shown,
and nothing else ever follows from it.
"""

from typing import TYPE_CHECKING

from sandboxd.isolation.seccomp.refusals import in_words
from sandboxd.launch.initevents import Refused
from sandboxd.lifecycle.view import rfc3339
from sandboxd.protocol.messages import Denial

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor

NO_LISTENER = "which system calls its filter refuses: a filter above sandboxd's has the only listener there can be"


def note(actor: "Actor", rows: list[Refused]) -> None:
    """Write down refused system calls, and whether they can be known at all."""
    host, notebook = actor.supervisor.host, actor.body.notebook
    if not host.listener and NO_LISTENER not in notebook.unknown:
        notebook.unknown.append(NO_LISTENER)
    for row in rows:
        told = in_words(host.machine, row.call, row.args)
        when = rfc3339(row.time) or ""
        notebook.denied(
            Denial(time=when, wall="seccomp", what=told.what, program=row.program, count=row.times, option=told.option)
        )
