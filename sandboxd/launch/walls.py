"""The walls that a process lays upon itself, and the proof that each wall of an env holds.

Imports the standard library, `errors` and `kernel`. Steps of phase LANDLOCK and later depend on their own data alone. `prove`
is the last step: it tries each demanded wall from inside, or reads it back from the kernel, and what holds is what the daemon
is told; the first that does not ends the launch. A proof gives "" or, in words, what was seen instead.
"""

import _socket
import errno
import os

from sandboxd.errors import WallUnavailable
from sandboxd.kernel import capabilities, fds, landlock, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandboxd.launch.apply import Stage

    Proof = Callable[[Stage, bytes], str]

# Kernel's name of each namespace -> its number outside; filled in the launcher, which is the outside of all it forks.
OUTSIDE: dict[str, int] = {}
NAMES = {"user": "user", "mount": "mnt", "pid": "pid", "net": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
PROBE = "/.sandboxd/blank"  # ours and readable for all, beneath no Landlock rule that would allow it
EMPTY_SET = b"0" * 16
WAYS, WHOLE, LEFT = b"w", b"v", b"l"  # the stager's words
MOST_WAYS = 8
PRIORITY = 0x53424F58  # isolation/seccomp/policy.py, PROOF


def remember_outside() -> None:
    """Take down which namespaces are the host's; before the first child."""
    for name in NAMES.values():
        number = namespace(name)
        if number:
            OUTSIDE[name] = number


def namespace(name: str) -> int:
    """The number of our own namespace of that kind; 0 where the kernel has none."""
    try:
        return os.stat(f"/proc/self/ns/{name}").st_ino
    except OSError:
        return 0


# -- Landlock -------------------------------------------------------------------------------------------------------------


def prepare(stage: "Stage", fs: int, net: int, scoped: int, rules: list[tuple[str, int]]) -> None:
    """A ruleset, not entered yet. Half of what Landlock costs is opening places (measured: 8 of 15 microseconds a rule)."""
    stage.ruleset = landlock.create(fs, net, scoped)
    allow(stage.ruleset, rules)


def complete(stage: "Stage", rules: list[tuple[str, int]], ports: list[tuple[int, int]]) -> None:
    """What the plan adds to the ruleset."""
    allow(stage.ruleset, rules)
    for port, access in ports:
        landlock.allow_port(stage.ruleset, port, access)


def confine(stage: "Stage", flags: int) -> None:
    """Enter the domain of the ruleset."""
    landlock.restrict(stage.ruleset, flags)
    forget(stage)


def share(stage: "Stage", bridge: _socket.socket) -> None:
    """The stager's word to pid 1 that the view is whole, and the ruleset, whose rules name places in it."""
    fds.send(bridge, WHOLE, [stage.ruleset] if stage.ruleset >= 0 else [])


def share_ways(stage: "Stage", bridge: _socket.socket) -> None:
    """The stagehand's listeners for what goes out: pid 1's from here on."""
    fds.send(bridge, WAYS, [way.fileno() for way in stage.ways])


def take_ways(stage: "Stage") -> None:
    """In pid 1: they are there once the network is, and nobody can have reached for them yet."""
    if stage.bridge is not None:
        word, found = fds.recv(stage.bridge, 1, max_fds=MOST_WAYS)
        if word != WAYS:
            os._exit(1)
        stage.ways += [_socket.socket(fileno=fd) for fd in found]


def tell_left(bridge: _socket.socket) -> None:
    """And that nothing of the host's tree is left beneath it."""
    fds.send(bridge, LEFT)


def await_word(stage: "Stage", wanted: bytes) -> None:
    """In pid 1: wait for it. It never comes where the stager failed, which says so itself; after anything else this is the end.
    Nothing of the env may run before the last."""
    if stage.bridge is not None:
        word, found = fds.recv(stage.bridge, 1, max_fds=1)
        if word != wanted:
            os._exit(1)
        if found:
            stage.ruleset = found[0]
        if word == LEFT:
            stage.bridge.close()


def forget(stage: "Stage") -> None:
    """Close what is left of the ruleset."""
    if stage.ruleset >= 0:
        os.close(stage.ruleset)
        stage.ruleset = -1


def allow(ruleset: int, rules: list[tuple[str, int]]) -> None:
    """Rules on paths. No link is followed: what is named was resolved when it was planned."""
    for path, access in rules:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            landlock.allow_path(ruleset, place, access, subject=path)
        finally:
            os.close(place)


def rehearse(stage: "Stage") -> None:
    """Take the paths of the rules, to no effect."""
    if stage.ruleset >= 0:
        allow(stage.ruleset, [("/tmp", 1)])


def rehearse_proofs(stage: "Stage") -> None:
    """Try all there are, to no effect."""
    status = read_status()
    for proof in PROOFS.values():
        proof(stage, status)


# -- seccomp --------------------------------------------------------------------------------------------------------------


def sift(stage: "Stage", program: str, listener: bool) -> None:
    """Go under a filter of system calls."""
    stage.listener = seccomp.install(program, listener=listener)


# -- proofs ---------------------------------------------------------------------------------------------------------------


def prove(stage: "Stage", walls: list[str]) -> None:
    """Every demanded wall, one after another; raises WallUnavailable for the first that does not hold."""
    status = read_status() if OF_STATUS.intersection(walls) else b""
    for wall in walls:
        seen = PROOFS[wall](stage, status)
        if seen:
            raise WallUnavailable(f"the {wall} wall does not hold: {seen}", wall=wall, reason=seen)
        stage.proven.append(wall)


def read_status() -> bytes:
    """/proc/self/status: what the kernel itself says of our privileges."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)


def field(status: bytes, name: bytes) -> bytes:
    """One line of that, b"" where there is none. Not all of them taken apart: each object made is memory of pid 1's own."""
    return status.partition(b"\n" + name + b":\t")[2].partition(b"\n")[0]


def own_namespace(wall: str) -> "Proof":
    """A proof that this namespace is not the host's."""

    def proof(_: "Stage", __: bytes) -> str:
        number = namespace(NAMES[wall])
        return "" if number and number != OUTSIDE.get(NAMES[wall]) else "it is the host's own namespace"

    return proof


def own_view(stage: "Stage", status: bytes) -> str:
    """A mount namespace of its own, the host's tree let go, and neither root nor system to be written."""
    if stage.host != -1 or stage.handed:
        return "descriptors of the host's tree are still open"
    for place in ("/", "/usr"):
        seen = tried(os.open, place, os.O_WRONLY | os.O_TMPFILE, 0o600)
        if seen not in ("EROFS", "ENOENT"):
            return f"a file could be made in {place} ({seen})"
    return PROOFS["mount namespace"](stage, status)


def own_pids(stage: "Stage", status: bytes) -> str:
    """A pid namespace of its own, in which the first process is ours."""
    if field(status, b"NSpid").split()[-1:] != [b"%d" % os.getpid()] or not -1 < os.getppid() < 2:
        return "there are processes above"
    return PROOFS["pid namespace"](stage, status)


def own_proc(_: "Stage", __: bytes) -> str:
    """A procfs of this pid namespace: it knows us by the pid that we have here."""
    try:
        known = os.readlink("/proc/self")
    except OSError as error:  # ENOENT: to a procfs of another one we may be nobody
        known = str(error.strerror)
    return "" if known == str(os.getpid()) else f"/proc is of another pid namespace ({known})"


def no_capabilities(_: "Stage", status: bytes) -> str:
    """All five sets empty, and not dumpable, so that nobody of the same uid takes us over."""
    held = [
        name.decode() for name in (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb") if field(status, name) != EMPTY_SET
    ]
    if held:
        return f"{', '.join(held)} is not empty"
    return "the first process is dumpable" if capabilities.is_dumpable() else ""


def no_gain(_: "Stage", status: bytes) -> str:
    """Read back."""
    return "" if field(status, b"NoNewPrivs") == b"1" else "no_new_privs is not set"


def landlocked(_: "Stage", __: bytes) -> str:
    """A file that is ours to read, and that no rule allows; without a view of our own, the root."""
    seen = tried(os.open, PROBE, os.O_RDONLY | os.O_CLOEXEC)
    if seen == "ENOENT":
        seen = tried(os.open, "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return "" if seen == "EACCES" else f"what no rule allows could be read ({seen})"


def sifted(_: "Stage", __: bytes) -> str:
    """What only our filter answers. Nothing of which pid 1 would be told: it would wait for itself."""
    try:
        os.getpriority(PRIORITY, 0)
    except OSError as error:
        return "" if error.errno == errno.ENOTUNIQ else f"what it refuses was answered by the kernel ({error.strerror})"
    return "what it refuses was not refused"


def tried(action, *arguments) -> str:  # type: ignore[no-untyped-def]
    """ "ok", with the descriptor closed, or the errno's name."""
    try:
        os.close(action(*arguments))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "ok"


OF_STATUS = frozenset({"pid", "capabilities", "no_new_privs"})  # what is read there; the others do without

# One entry for each wall that can be demanded; a wall's proof is written by whoever builds the wall.
PROOFS: "dict[str, Proof]" = {
    **{wall: own_namespace(wall) for wall in ("user", "net", "ipc", "uts", "cgroup")},
    **{f"{wall} namespace": own_namespace(wall) for wall in ("mount", "pid")},
    "mount": own_view,
    "pid": own_pids,
    "proc": own_proc,
    "capabilities": no_capabilities,
    "no_new_privs": no_gain,
    "landlock": landlocked,
    "seccomp": sifted,
}
