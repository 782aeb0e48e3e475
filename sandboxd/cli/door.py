"""The one door by which errors leave: `sandbox: MESSAGE`, `hint: …` on stderr, and the error's exit code.

Imports errors only. Invariant: no traceback ever reaches the terminal; one that nobody foresaw goes to a file,
and its path is said.
"""

import os
import sys

from sandboxd.errors import EXIT_SANDBOXD, SandboxdError

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_PIPE = 141  # 128 + SIGPIPE: what a program that does not catch the signal leaves with


def printable(text: str) -> str:
    """A message without control characters but line ends: it may quote what came from an env or a file."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def complain(message: str, hint: str = "") -> None:
    """The two lines on stderr."""
    try:
        sys.stdout.flush()
    except OSError:
        quiet_stdout()
    text = f"sandbox: {printable(message)}\n"
    if hint:
        text += f"hint: {printable(hint)}\n"
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads it; the exit code still says it


def report(error: BaseException) -> int:
    """Say what went wrong, and give the exit code for it."""
    if isinstance(error, SandboxdError):
        complain(error.message, error.hint)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        quiet_stdout()  # a reader that stands still (`| less`) must not hold us on the way out
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        quiet_stdout()
        return EXIT_PIPE
    return unforeseen(error)


def unforeseen(error: BaseException) -> int:
    """A fault of ours: the traceback goes to a file, its path to the terminal."""
    path = write_down(error)
    where = f"the traceback is in {path}" if path else "its traceback could not be written down"
    complain(f"internal error: {type(error).__name__}: {error}", f"this is a fault of sandbox itself; {where}")
    return EXIT_SANDBOXD


def write_down(error: BaseException) -> str | None:
    """Append the traceback to cli.log in the state directory; None where that cannot be."""
    import traceback  # noqa: PLC0415 - only a fault of ours pays for it

    from sandboxd.settings import Settings  # noqa: PLC0415

    try:
        path = Settings.from_environ(os.environ, os.getuid()).state_dir / "cli.log"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as log:
            if log.tell() > 1 << 20:
                log.truncate(0)
            log.write(f"--- sandbox {' '.join(sys.argv[1:2])}\n")  # no more: arguments may hold secrets
            log.writelines(traceback.format_exception(error))
    except (OSError, SandboxdError):
        return None
    return str(path)


def quiet_stdout() -> None:
    """Point stdout nowhere, so that Python's flush at exit neither fails on a reader that left nor waits for one."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
