"""Start one program: check what is asked, fork, give it its stdio, exec, and say in words why that failed.

Runs inside pid 1 of an env. The parent half never waits: a
close-on-exec pipe ends when exec is done, or carries one JSON report of the step that failed. The child half runs between fork
and exec in a copy of pid 1, which is not dumpable, so siblings of the same uid cannot trace it or take its descriptors
(ptrace(2), "Ptrace access mode checking").
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in init.py
import errno
import fcntl
import os
import resource
import stat
import struct
import termios

from sandboxd.errors import CommandNotExecutable, CommandNotFound, LaunchFailed, SandboxdError, SpecInvalid
from sandboxd.kernel import seccomp
from sandboxd.kernel.namespaces import clone3
from sandboxd.launch import plain
from sandboxd.launch.apply import APPLY, Stage
from sandboxd.launch.walls import allow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sandboxd.launch.quick import Quick

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
REPORT_LIMIT = 16384  # JSON of 2 * WORDS characters, escaped, fits
WORDS = 1000
HEAD = 256  # BINPRM_BUF_SIZE: as much of a file as the kernel looks at for `#!`
NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
NOT_EXECUTABLE = (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ETXTBSY, errno.ELIBBAD, errno.EINVAL)


class Program:
    """What to execute, checked; raises SpecInvalid."""

    __slots__ = ("argv", "cols", "confine", "env", "rlimits", "rows", "stdin", "tty", "umask", "workdir")

    def __init__(self, given: object) -> None:
        asked = mapped(given, "a command to start")
        self.argv = [text(word) for word in listed(asked.get("argv"), "argv")]
        if not self.argv or not self.argv[0]:
            raise SpecInvalid("the command is empty", hint="name a program to run")
        self.env = {text(key): text(value) for key, value in mapped(asked.get("env"), "env").items()}
        self.workdir = text(asked.get("workdir") or "/")
        self.rlimits = {text(key): limits(key, value) for key, value in mapped(asked.get("rlimits"), "rlimits").items()}
        umask = asked.get("umask")
        self.umask = 0o022 if umask is None else number(umask, "umask", 0o777)
        self.confine = listed(asked.get("confine") or [], "confine")
        self.tty = bool(asked.get("tty"))
        self.stdin = bool(asked.get("stdin"))
        self.rows = number(asked.get("rows") or 24, "rows", 0xFFFF)
        self.cols = number(asked.get("cols") or 80, "cols", 0xFFFF)


def text(value: object) -> str:
    """A string without NUL, which execve(2) could not carry."""
    if not isinstance(value, str) or "\0" in value:
        raise SpecInvalid("arguments, paths and variables are strings without NUL")
    return value


def listed(value: object, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise SpecInvalid(f"{what} is a list")
    return value


def mapped(value: object, what: str) -> dict[Any, Any]:
    """An object; None is an empty one."""
    if value is not None and not isinstance(value, dict):
        raise SpecInvalid(f"{what} is an object")
    return value or {}


def number(value: object, what: str, ceiling: int) -> int:
    """A whole number from 0 to the ceiling."""
    if not isinstance(value, int) or not 0 <= value <= ceiling:
        raise SpecInvalid(f"{what} is a whole number from 0 to {ceiling}")
    return value


def limits(name: object, value: object) -> tuple[int, int]:
    """A known rlimit's soft and hard value; -1 is none."""
    pair = listed(value, f"rlimit {name}")
    if not hasattr(resource, f"RLIMIT_{name}") or len(pair) != 2 or not all(isinstance(part, int) for part in pair):
        raise SpecInvalid(f"rlimit {name} is no limit of this system with a soft and a hard value")
    return int(pair[0]), int(pair[1])


def set_window(fd: int, rows: int, cols: int) -> None:
    """TIOCSWINSZ (ioctl_tty(2)); the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


class Stdio:
    """A program's three descriptors and our ends of them: {"pty"} or {"stdin" if it has one, "stdout", "stderr"}."""

    __slots__ = ("child", "ours", "terminal")

    def __init__(self, program: Program) -> None:
        self.child: list[int] = []
        self.ours: dict[str, int] = {}
        self.terminal = ""  # the slave's path
        try:
            self.open(program)
        except OSError as error:
            self.close()
            raise failed("terminal" if program.tty else "pipe", error, program.argv[0]) from error

    def open(self, program: Program) -> None:
        """Make them; what was made stays listed when one fails."""
        if program.tty:
            self.ours["pty"], slave = os.openpty()
            self.child.append(slave)
            self.terminal = os.ttyname(slave)
            set_window(slave, program.rows, program.cols)
            os.set_blocking(self.ours["pty"], False)
            return
        if program.stdin:
            theirs, self.ours["stdin"] = os.pipe2(os.O_CLOEXEC)
            self.child.append(theirs)
        else:
            self.child.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for stream in ("stdout", "stderr"):
            self.ours[stream], theirs = os.pipe2(os.O_CLOEXEC)
            self.child.append(theirs)

    def three(self) -> tuple[int, int, int]:
        """What becomes 0, 1 and 2."""
        if len(self.child) == 1:
            return (self.child[0],) * 3
        return self.child[0], self.child[1], self.child[2]

    def move(self, places: tuple[int, ...]) -> None:
        """Have the program's ends be these descriptors, of which none is open."""
        for index, place in enumerate(places):
            os.dup2(self.child[index], place, inheritable=False)
            os.close(self.child[index])
            self.child[index] = place

    def close_child(self) -> None:
        """The program has its own copies now."""
        child, self.child = self.child, []
        for fd in child:
            os.close(fd)

    def close(self) -> None:
        """Close all that is still ours."""
        self.close_child()
        ours, self.ours = self.ours, {}
        for fd in ours.values():
            os.close(fd)


class Birth:
    """How programs are born. group: the descriptor of their control group, or -1. sift: pid 1's own filter of system calls
    leaves it clone3, which alone can make a process in a group; programs are kept from that by one more."""

    __slots__ = ("group", "sift")

    def __init__(self, group: int = -1, *, sift: bool = False) -> None:
        self.group = group
        self.sift = sift


PLAIN = Birth()


def fork(program: Program, stdio: Stdio, birth: Birth = PLAIN, *, quick: Quick | None = None) -> tuple[int, int]:
    """Start it: (pid, descriptor that ends at exec or carries the report). Raises LaunchFailed; `stdio` is closed then.

    quick: a faster way, where there is one. Where it fails, the fork says why.
    """
    try:
        report, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        stdio.close()
        raise failed("pipe", error, program.argv[0]) from error
    try:
        pid = quick.start() if quick is not None else 0
        pid = pid or (os.fork() if birth.group < 0 else born_in(birth.group))
    except OSError as error:
        stdio.close()
        os.close(report)
        os.close(ours)
        raise failed("fork", error, program.argv[0]) from error
    if pid == 0:
        become(program, stdio.three(), ours, birth)
    os.close(ours)
    stdio.close_child()
    return pid, report


def born_in(group: int) -> int:
    """fork(2) into a control group; to move there later would cost 10 ms and leave memory charged to where it was. For
    posix_spawn(3) it can be said from glibc 2.39 on, and for Python's never."""
    pid, process = clone3(0, group)
    if pid:
        os.close(process)
    return pid


def become(program: Program, stdio: tuple[int, int, int], report: int, birth: Birth) -> NoReturn:
    """The child: turn into the program or report why not. Nothing of pid 1 may run on in it."""
    step = "session"
    found: dict[str, Any] = {}
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.setsid()
        if program.tty:
            fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
        step = "stdio"
        for target, source in enumerate(stdio):  # pid 1 keeps 0, 1 and 2 taken, so no source is overwritten
            os.dup2(source, target)
        os.dup2(report, 3, inheritable=False)
        report = 3
        os.closerange(4, 1 << 30)
        os.umask(program.umask)
        for name, pair in program.rlimits.items():
            step = f"rlimit {name}"
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), pair)
        step = "workdir"
        os.chdir(os.fsencode(program.workdir))
        step = "walls"
        confine(program)
        if birth.sift:
            seccomp.install(seccomp.NO_CLONE3, listener=False)
        step = "exec"
        execute(program, found)
    except OSError as error:
        found.update(step=step, errno=error.errno or errno.EIO)
    except ValueError as error:  # how setrlimit says EPERM
        found.update(step=step, errno=errno.EPERM, why=str(error))
    except BaseException as error:
        found.update(step=step, errno=errno.EINVAL, why=repr(error)[:200])
    finally:
        try:
            os.write(report, plain.encode(found)[:REPORT_LIMIT])
        finally:
            os._exit(127)


def confine(program: Program) -> None:
    """Walls that each program takes upon itself, where init stands outside of them: then its own terminal is its to reopen."""
    stage = Stage()
    for tag, *arguments in program.confine:
        APPLY[tag](stage, *arguments)  # type: ignore[operator]
        if tag == "ruleset" and program.tty:
            allow(stage.ruleset, [(os.ttyname(0), access) for path, access in arguments[-1] if path == "/dev/tty"])


def execute(program: Program, found: dict[str, Any]) -> NoReturn:
    """execve(2), with execvp(3)'s search of the env's own PATH; tells in `found` what a file is that would not run."""
    env = {os.fsencode(key): os.fsencode(value) for key, value in program.env.items()}
    argv = [os.fsencode(word) for word in program.argv]
    name = argv[0]
    places = [name]
    if b"/" not in name:
        search = os.fsencode(program.env.get("PATH", DEFAULT_PATH)).split(b":")
        places = [(place or b".") + b"/" + name for place in search]
    refused: OSError | None = None
    for path in places:
        try:
            os.execve(path, argv, env)
        except OSError as error:
            if error.errno in NOT_THERE and not os.path.exists(path):
                continue
            if error.errno in (errno.EACCES, *NOT_THERE):
                if refused is None:
                    refused = error
                    found.update(path=os.fsdecode(path)[:WORDS], **look_at(path))
                continue
            found.update(path=os.fsdecode(path)[:WORDS], **look_at(path))
            raise
    raise refused or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def look_at(path: bytes) -> dict[str, str]:
    """What a file that the kernel would not execute is: its interpreter, or its kind."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return {"kind": "directory"}
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return {}
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return {"kind": "script", "interpreter": os.fsdecode(words[0]) if words else ""}
    if head.startswith(b"\x7fELF"):
        return {"kind": "elf"}
    return {"kind": "file", "mode": oct(stat.S_IMODE(mode))}


def failed(step: str, error: OSError, command: str) -> LaunchFailed:
    """A step before exec that the kernel refused."""
    number = error.errno or errno.EIO
    hint = ""
    if number == errno.EAGAIN:
        hint = "the env is at its limit of processes: end some, or raise limits.pids"
    elif number in (errno.EMFILE, errno.ENFILE):
        hint = "too many open descriptors: close sessions"
    reason = os.strerror(number)
    return LaunchFailed(f"cannot start {command or 'a program'}: {step}: {reason}", hint=hint, step=step, errno=number)


def error_of(report: bytes, program: Program) -> SandboxdError:
    """What a child reported before it gave up, as an error for people."""
    try:
        found = plain.decode(report)
        number, step = int(found["errno"]), str(found["step"])
    except (ValueError, KeyError, TypeError):
        return LaunchFailed(f"cannot start {program.argv[0]}: its report is cut off", step="report", errno=errno.EIO)
    if step == "exec":
        return exec_error(number, found, program)
    reason = os.strerror(number)
    if step == "workdir":
        hint = "name a directory that is there and readable inside the env"
        return LaunchFailed(
            f"cannot enter the working directory {program.workdir}: {reason}", hint=hint, step=step, errno=number
        )
    why = f" ({found['why']})" if "why" in found else ""
    return LaunchFailed(f"cannot start {program.argv[0]}: {step}: {reason}{why}", step=step, errno=number)


def exec_error(number: int, found: dict[str, Any], program: Program) -> SandboxdError:
    """Why execve(2) refused, naming the file or interpreter that is really at fault."""
    path, kind = found.get("path", program.argv[0]), found.get("kind", "")
    if number in NOT_THERE:
        message, hint = missing(path, kind, found.get("interpreter", ""), program)
        return CommandNotFound(message, hint=hint, command=program.argv[0], errno=number)
    reason = os.strerror(number)
    if number not in NOT_EXECUTABLE:
        return LaunchFailed(f"cannot execute {path}: {reason}", step="exec", errno=number)
    hint = ""
    if kind == "directory":
        reason = "it is a directory"
    elif number == errno.ENOEXEC:
        reason = "no format that the kernel knows"
        hint = "a script starts with a line like #!/bin/sh; a binary must be of this machine's kind"
    elif number == errno.EACCES and kind == "script":
        hint = f"chmod +x {path}, and see that its interpreter {found.get('interpreter')} is executable"
    elif number == errno.EACCES:
        hint = f"chmod +x {path}, unless its file system is mounted noexec"
    return CommandNotExecutable(f"cannot execute {path}: {reason}", hint=hint, command=program.argv[0], errno=number)


def missing(path: str, kind: str, interpreter: str, program: Program) -> tuple[str, str]:
    """Message and hint for what is not there: the command, or what the command needs to be executed."""
    command = program.argv[0]
    if kind == "script":
        hint = f"install {interpreter} or correct the first line of {path}"
        return f"cannot execute {path}: its interpreter {interpreter} is not there", hint
    if kind == "elf":
        return f"cannot execute {path}: the loader it was linked for is not there", "it is of another system or C library"
    if "/" in command:
        return f"{command}: no such file in the env", f"looked from {program.workdir}"
    return f"{command}: no such command in the env", f"PATH in the env is {program.env.get('PATH', DEFAULT_PATH)}"
