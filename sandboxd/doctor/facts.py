"""What the doctor saw, as data. Pure; `look` and `asking` fill it in, `diagnosis` reads it.

A part that could not be looked at is left at its default, and `failed` says why: one broken corner must not hide the others.
"""

import msgspec

from sandboxd.isolation.facts import HostFacts, LimitFacts


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One of our directories. mode, uid: of what is there (None: nothing). kind: of its file system; free, inodes: left."""

    path: str
    mode: int | None = None
    uid: int | None = None
    is_directory: bool = True
    writable: bool = True
    kind: str = ""
    options: list[str] = []
    free: int | None = None
    inodes: int | None = None
    error: str = ""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address the router is to listen on. error: why it cannot be bound; holder: who has it, where that can be known."""

    address: str
    error: str = ""
    holder: str = ""
    ours: bool = False


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon of these settings. state: none, stale (a socket nobody answers on), alive, stuck, foreign."""

    state: str = "none"
    socket: str = ""
    said: str = ""
    pid: int | None = None
    version: str = ""
    listen: list[str] = []
    envs: dict[str, int] = {}
    controllers: list[str] = []
    uncontrolled: str = ""
    control: str = ""
    others: list[str] = []  # other daemons of ours, as "pid 123 in /dir"
    strays: list[str] = []  # env directories without a record
    orphans: list[str] = []  # envs that live without a daemon


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """How one resolver answered for NAME.localhost. version: of the program ("": it is not there); answer: what it said."""

    program: str
    version: str = ""
    resolved: bool | None = None
    answer: str = ""


class NameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How names resolve. nsswitch: the words of its hosts line; myhostname: the plug-in's library is there."""

    lookups: list[Lookup] = []
    nsswitch: list[str] = []
    myhostname: bool = False


class AppArmorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """AppArmor, and our profile for the copied interpreter. copy: "" (none), "good", or what is wrong with it.

    source: the interpreter that would be copied; trusted: it is root's alone. label: what a process of the copy runs as.
    """

    enabled: bool = False
    parser: bool = False
    profile: bool = False
    copy: str = ""
    copy_path: str = ""
    source: str = ""
    trusted: bool = False
    label: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. settings: sysctls ("" where there is none). features: name -> errno of a trial (0: it works).
    powerless: it is root that looks, and it lacks CAP_SYS_ADMIN."""

    version: str
    uid: int
    user: str
    root: bool = False
    command: str = "sandbox"
    kernel: str = ""
    system: str = ""
    family: str = ""
    container: str = ""
    nested: bool = False
    powerless: bool = False
    host: HostFacts | None = None
    limits: LimitFacts | None = None
    settings: dict[str, str] = {}
    features: dict[str, int] = {}
    pressure: str = ""
    rlimits: dict[str, int] = {}
    systemd: bool = False
    manager: bool = False
    linger: bool | None = None
    runtime: str = ""
    state: Place | None = None
    runtime_place: Place | None = None
    addresses: list[Address] = []
    daemon: DaemonFacts = DaemonFacts()
    names: NameFacts = NameFacts()
    apparmor: AppArmorFacts = AppArmorFacts()
    peers: dict[str, str] = {}
    clock: float = 0.0
    newest: float = 0.0
    failed: dict[str, str] = {}
