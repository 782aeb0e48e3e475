"""What time it is for envs: seconds that look like those of the epoch, and that nobody can set. Pure.

Records hold moments, and deadlines follow from them (time to live, idle). A wall clock that is set would end envs hours too
soon or too late. So from the first daemon of a boot on, time is counted by CLOCK_BOOTTIME, which only goes forward, also while
the machine sleeps; the offset to the epoch is kept with the boot's id for the daemons to come. After a reboot there is nothing
to count from, and the wall clock decides again. For people a moment is shown as far from now as it is.
"""

STEP = 1.0  # seconds; less is the clock being slewed, and not worth two times


def offset_of(kept: str, boot_id: str, wall: float, boottime: float) -> float:
    """What is to be added to CLOCK_BOOTTIME. kept: as an earlier daemon wrote it (`words`), or ""."""
    boot, _, number = kept.partition(" ")
    try:
        found = float(number)
    except ValueError:
        found = float("nan")
    return found if boot == boot_id and abs(found) < 1e12 else wall - boottime


def words(boot_id: str, offset: float) -> str:
    """To be kept."""
    return f"{boot_id} {offset!r}"


def ahead(wall: float, now: float) -> float:
    """How far the wall clock was set since, to be added to what is shown."""
    return wall - now if abs(wall - now) > STEP else 0.0
