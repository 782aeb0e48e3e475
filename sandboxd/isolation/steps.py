"""Each step of building an env as data, with the words that dry runs, logs and errors share.

Pure. A step travels as a JSON array, its tag first, to the child that applies it (`launch.apply` has one function for each
tag). Every step has a phase, and a list of steps is only ever applied in the order of phases: mounts need the capabilities
that a later phase gives up, and each phase takes away what the ones before it used.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Path = Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4095)]
Origin = Literal["host", "inside", "handed"]


class Phase(enum.IntEnum):
    """In which order steps are applied; see the module."""

    VIEW = 1
    ROOT = 2
    CGROUP = 3
    SYSCTL = 4
    NFT = 5
    PRIVILEGES = 6
    SECCOMP = 7
    LANDLOCK = 8
    PROOF = 9


class Step(msgspec.Struct, frozen=True, array_like=True, tag=str.lower):
    """What every step shares. phase: when it may run. words: what it does, with its fields in braces."""

    phase: ClassVar[Phase] = Phase.VIEW
    words: ClassVar[str] = ""

    def describe(self) -> str:
        """The step in words, as an error quotes it."""
        return self.words.format_map({name: getattr(self, name) for name in self.__struct_fields__})


class Enter(Step, frozen=True):
    """Begin a new root on a fresh tmpfs; the host's tree stays below it, until `Leave`."""

    words: ClassVar[str] = "begin a new root on a tmpfs of {size} bytes"
    size: int


class Directories(Step, frozen=True):
    """Directories of ours in the new root."""

    words: ClassVar[str] = "make the directories {paths}"
    paths: list[Path]
    mode: int = 0o755


class Files(Step, frozen=True):
    """Small files of ours, (path, text), made or rewritten."""

    words: ClassVar[str] = "write our own files in the new root"
    files: list[tuple[Path, str]]


class Links(Step, frozen=True):
    """Symbolic links, (path, text)."""

    words: ClassVar[str] = "make the symbolic links {links}"
    links: list[tuple[Path, str]]


class System(Step, frozen=True):
    """The allow-list: trees of the host, and files of ours laid over them, (source, target); all of it read-only at once."""

    words: ClassVar[str] = "show the system's directories read-only: {trees}, {files}"
    trees: list[tuple[Path, Path]]
    files: list[tuple[Path, Path]]


class Devices(Step, frozen=True):
    """Harmless nodes of the host's /dev: mknod is not to be had in a user namespace."""

    words: ClassVar[str] = "show the devices {nodes}"
    nodes: list[Path]


class Tmpfs(Step, frozen=True):
    """A tmpfs with a ceiling in bytes; without one it may take half the RAM."""

    words: ClassVar[str] = "mount a tmpfs of {size} bytes on {target}"
    target: Path
    size: int
    mode: int


class Proc(Step, frozen=True):
    """A fresh procfs of this pid namespace, never a bind of the host's, which shows foreign processes. options: proc(5)."""

    words: ClassVar[str] = "mount procfs on {target}"
    target: Path
    options: str = ""


class Groups(Step, frozen=True):
    """The env's control groups, read-only: where programs look for their limits."""

    words: ClassVar[str] = "show the env's control groups at {target}"
    target: Path


class Devpts(Step, frozen=True):
    """Terminals of this env's own."""

    words: ClassVar[str] = "mount devpts on {target}"
    target: Path


class Queues(Step, frozen=True):
    """The env's own POSIX message queues: what mq_open(3) opens lies on this mount, and Landlock asks where a file lies."""

    words: ClassVar[str] = "show the env's message queues at {target}"
    target: Path


class Pivot(Step, frozen=True):
    """Make the new root the root; the host's tree is stacked upon it until `Leave`."""

    words: ClassVar[str] = "pivot into the new root"


class Resize(Step, frozen=True):
    """Another ceiling, in bytes, for a tmpfs."""

    words: ClassVar[str] = "resize the tmpfs on {target} to {size} bytes"
    target: Path
    size: int


class Bind(Step, frozen=True):
    """Show something at another place. origin: whose tree `source` is in; "handed": a tree that came as a descriptor.

    A missing target is made: a directory, or with `file` an empty file. Everything is nosuid and nodev.
    """

    words: ClassVar[str] = "show {source} at {target}, read-only={readonly}"
    source: Path
    target: Path
    readonly: bool = True
    file: bool = False
    origin: Origin = "host"


class Hostname(Step, frozen=True):
    """The env's host name."""

    words: ClassVar[str] = "set the host name {name}"
    name: str


class Loopback(Step, frozen=True):
    """127.0.0.1 and ::1 of the env's own network."""

    words: ClassVar[str] = "bring up the loopback interface"


class Seal(Step, frozen=True):
    """Make the root itself read-only; what is mounted on it stays as it is."""

    words: ClassVar[str] = "make the root read-only"


class Leave(Step, frozen=True):
    """Detach the host's tree; what a plan shows of it comes as detached mounts."""

    phase: ClassVar[Phase] = Phase.ROOT
    words: ClassVar[str] = "detach the host's file system"


class Sysctl(Step, frozen=True):
    """A setting of the env's own namespaces, by its path below /proc/sys. One that this kernel lacks is no error."""

    phase: ClassVar[Phase] = Phase.SYSCTL
    words: ClassVar[str] = "set /proc/sys/{name} to {value}"
    name: str
    value: str


class Mask(Step, frozen=True):
    """What of /proc is the kernel's, not the env's: `sealed` is read-only but for `kept`; `hidden`: (ours, what it hides).

    Modes keep an ordinary user from most of it, but not who is root outside (core_pattern is then a program run as root).
    """

    phase: ClassVar[Phase] = Phase.SYSCTL
    words: ClassVar[str] = "make {sealed} read-only and hide {hidden}"
    sealed: list[Path]
    kept: list[Path]
    hidden: list[tuple[Path, Path]]


class Way(Step, frozen=True):
    """The way out: an address of the env's own, a default route, and rules that lead all that goes out to the relay."""

    phase: ClassVar[Phase] = Phase.NFT
    words: ClassVar[str] = "open the way out to the relay (nf_tables)"


class Listen(Step, frozen=True):
    """Pid 1's listeners for what goes out: of its network, kept by it, served by the relay."""

    phase: ClassVar[Phase] = Phase.PRIVILEGES
    words: ClassVar[str] = "listen for what goes out, as a proxy at port {proxy}"
    proxy: int = 0


class Capabilities(Step, frozen=True):
    """Give up every capability."""

    phase: ClassVar[Phase] = Phase.PRIVILEGES
    words: ClassVar[str] = "give up all capabilities"


class Rlimits(Step, frozen=True):
    """Ceilings of each process, (name without RLIMIT_, soft, hard): init's own, so that all it starts has them."""

    phase: ClassVar[Phase] = Phase.PRIVILEGES
    words: ClassVar[str] = "set the limits {limits}"
    limits: list[tuple[str, int, int]]


class Affinity(Step, frozen=True):
    """The CPUs that init and all it starts run on. It is a limit only behind a wall that keeps an env from changing them."""

    phase: ClassVar[Phase] = Phase.PRIVILEGES
    words: ClassVar[str] = "run on the CPUs {cpus}"
    cpus: list[int]


class Ruleset(Step, frozen=True):
    """A Landlock ruleset in the making: fs, net and scoped are what it handles, then rules that do not depend on a plan."""

    words: ClassVar[str] = "prepare the Landlock rules {rules}"
    fs: int
    net: int
    scoped: int
    rules: list[tuple[Path, int]]


class Rules(Step, frozen=True):
    """What the plan adds to the ruleset."""

    phase: ClassVar[Phase] = Phase.ROOT
    words: ClassVar[str] = "add the Landlock rules {rules}, ports {ports}"
    rules: list[tuple[Path, int]]
    ports: list[tuple[int, int]]


class Landlock(Step, frozen=True):
    """Enter the domain of the ruleset; flags of landlock_restrict_self(2). One domain: pid 1's, and all that it starts."""

    phase: ClassVar[Phase] = Phase.LANDLOCK
    words: ClassVar[str] = "confine by Landlock"
    flags: int


class Seccomp(Step, frozen=True):
    """Go under a filter of system calls, a BPF program in base64. listener: what it refuses is told to pid 1, which answers."""

    phase: ClassVar[Phase] = Phase.SECCOMP
    words: ClassVar[str] = "install the filter of system calls, listener={listener}"
    program: str
    listener: bool


class Prove(Step, frozen=True):
    """Try each of these walls from inside, or read it back: what holds is what is reported. The last step."""

    phase: ClassVar[Phase] = Phase.PROOF
    words: ClassVar[str] = "prove that the walls hold: {walls}"
    walls: list[str]


AnyStep = (
    Enter | Directories | Files | Links | System | Devices | Tmpfs | Proc | Devpts | Pivot | Resize | Bind | Hostname | Loopback
    | Groups | Queues | Rlimits | Affinity | Seal | Leave | Sysctl | Mask | Way | Ruleset | Rules | Capabilities
    | Landlock | Listen | Seccomp | Prove
)  # fmt: skip


def kinds() -> list[type[Step]]:
    """Every kind of step there is."""
    return Step.__subclasses__()


def in_order(steps: Sequence[Step]) -> bool:
    """Whether no step comes after one of a later phase."""
    phases = [step.phase for step in steps]
    return phases == sorted(phases)
