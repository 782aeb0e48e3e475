"""What the doctor says: checks, the tier that holds, and the fixes. Data and the one decision over it: is all well?

Pure. A check is `ok`; `fail` where the isolation level that was asked about demands what is missing, or no daemon could run;
`warn` where something will not work that is not demanded; `note` where there is something to know.
"""

from typing import Literal

import msgspec

Status = Literal["ok", "fail", "warn", "note"]
GROUPS = {
    "walls": "Walls",
    "limits": "Limits",
    "host": "This machine",
    "features": "Features",
    "daemon": "Daemon",
    "names": "Names",
    "programs": "Programs",
}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. offered: whether this host gives it (None: that is no question here). fix: what to type.

    fixable: "" (not by us), "user" (`--fix` does it), "root" (`--fix` does it, as root).
    """

    id: str
    group: str
    name: str
    status: Status = "ok"
    offered: bool | None = None
    reason: str = ""
    fix: str = ""
    fixable: Literal["", "user", "root"] = ""


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One of the tiers, and whether this host is there. missing: ids of the checks that keep it from T0."""

    id: str
    name: str
    holds: bool
    missing: list[str] = []


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """Something `--fix` can do. kind: which act; target: on what; value: to what. root: needs root. before, after: what it did.

    command: the same by hand. error: why it could not be done.
    """

    id: str
    kind: Literal["sysctl", "apparmor", "mode", "socket", "linger"]
    target: str
    value: str = ""
    root: bool = False
    title: str = ""
    command: str = ""
    done: bool = False
    before: str = ""
    after: str = ""
    error: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. level: the isolation level that was asked about; well: nothing that it demands is missing."""

    version: str
    level: str
    tier: str
    well: bool
    tiers: list[Tier]
    checks: list[Check]
    fixes: list[Fix] = []


def is_well(checks: list[Check]) -> bool:
    """Whether nothing that was demanded is missing."""
    return all(check.status != "fail" for check in checks)
