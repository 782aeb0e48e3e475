"""What a scrape shows, read off the daemon as it is now: nothing here is kept between two scrapes.

Reading what an env uses means walking its processes, so the loop is let go between two of them: a scrape of 200 envs must
not make a request wait.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sandboxd import __version__
from sandboxd.errors import SandboxdError
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, State
from sandboxd.observe.metrics import MOST_ENVS, EnvReading, Reading, exposition

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor
    from sandboxd.daemon.watch import Watch


async def scrape(supervisor: "Supervisor", watch: "Watch") -> bytes:
    """The daemon and its envs in Prometheus's text format."""
    # Rendering is milliseconds for 200 envs, and the first one imports the library.
    return await asyncio.to_thread(exposition, await read(supervisor, watch))


async def read(supervisor: "Supervisor", watch: "Watch") -> Reading:
    """Everything that is told."""
    records = [actor.record for actor in supervisor.actors.values()]
    states = dict.fromkeys((state.value for state in State if state is not State.REMOVED), 0)
    for record in records:
        states[record.state.value] = states.get(record.state.value, 0) + 1
    alive = sorted(
        (record for record in records if record.init is not None and record.state in ALIVE), key=lambda record: record.created
    )
    envs = []
    for record in alive[:MOST_ENVS]:
        with contextlib.suppress(SandboxdError, OSError):  # it ended meanwhile
            envs.append(reading_of(record, supervisor, watch))
        await asyncio.sleep(0)
    return Reading(
        version=__version__,
        started=supervisor.started,
        states=states,
        envs=envs,
        unlisted=max(0, len(alive) - MOST_ENVS),
        pool=supervisor.launcher.pool,
        pool_wanted=supervisor.launcher.wanted,
        pages=supervisor.router.pages,
        tally=supervisor.tally,
        replicas=[
            (record.name, record.id, info.wanted, info.ready) for record in alive if (info := supervisor.scaling.info(record))
        ],
    )


OUT = ("out_open", "out_begun", "out_denied", "out_sent", "out_received")


def reading_of(record: EnvRecord, supervisor: "Supervisor", watch: "Watch") -> EnvReading:
    """One env; raises KernelError when it is gone."""
    sample = watch.look(record, traffic=False)
    traffic = supervisor.router.counts.get(record.id, {})
    return EnvReading(
        id=record.id,
        name=record.name,
        cpu_seconds=sample.cpu_seconds,
        memory_bytes=sample.memory,
        pids=sample.pids,
        connections=traffic.get("open", 0),
        queued=traffic.get("queued", 0),
        refused=traffic.get("refused", 0),
        requests=traffic.get("requests", 0),
        bytes_in=traffic.get("bytes_in", 0),
        bytes_out=traffic.get("bytes_out", 0),
        **{field: traffic.get(field, 0) for field in OUT},
        restarts=record.restarts + sum(service.restarts for service in record.services.values()),
    )
