"""Process trees for tests: a Python program as "init", and under it what the program makes."""

import contextlib
import os
import signal
import subprocess
import sys
from types import TracebackType


class Tree:
    """Runs a program; `line()` waits for what it prints; everything below it is killed with it, being of its process group."""

    def __init__(self, code: str, *arguments: str) -> None:
        prelude = (
            "import ctypes, mmap, os, signal, sys, time\n"
            "def child(work):\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        try: work()\n"
            "        finally: os._exit(0)\n"
            "    return pid\n"
            "def say(*words):\n"
            "    os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
        )
        command = [sys.executable, "-I", "-S", "-c", prelude + code, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self.pid = self.process.pid

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        found = self.process.stdout.readline().decode().split()
        assert found, "the program ended early"
        return found

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()
