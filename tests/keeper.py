"""The foster parent of everything a test starts: a subreaper, so that whatever is orphaned ends up here and is counted.

Run as `python -I -S keeper.py FD`; requests come as JSON on that SOCK_SEQPACKET socket. `run`: spawn argv with the passed
descriptors as 0, 1, 2 (then those named in `extra`, whose numbers go into the environment) and write pid and wait status to
the last one. `settle`: answer once no descendant is left, or with those that are after so many seconds. The end of the
socket kills them all. It also does for a host without an init what pid 1 does elsewhere: it reaps.
"""

import array
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def descendants(root):
    """Every process below root, found by one walk: [pid, state, name]."""
    found = []
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as file:
                    waiting.extend(int(pid) for pid in file.read().split())
        if parent != root:
            found.append([parent, *describe(parent)])
    return found


def describe(pid):
    """State letter and name of a process; ["?", ""] when it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ["?", ""]
    return [text[text.rindex(")") + 2], f"{text[text.index('(') + 1 : text.rindex(')')]}: {words[:120]}"]


class Keeper:
    def __init__(self, channel):
        self.channel = channel
        self.results = {}
        self.settling = None

    def serve(self):
        wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self.channel, select.POLLIN)
        while True:
            ready = poll.poll(self.patience())
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            self.reap()
            self.answer()
            if any(fd == self.channel.fileno() for fd, _ in ready) and not self.take():
                return self.kill_all()

    def patience(self):
        return max(0, int((self.settling - time.monotonic()) * 1000)) + 1 if self.settling else None

    def take(self):
        data, ancillary, _, _ = self.channel.recvmsg(1 << 20, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        fds = array.array("i")
        for _, _, body in ancillary:
            fds.frombytes(body)
        request = json.loads(data)
        if "run" in request:
            self.run(request, list(fds))
        else:
            self.settling = time.monotonic() + request["settle"]
            self.answer()
        return True

    def run(self, request, fds):
        result = fds.pop()
        env = request["env"]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds[:3])]
        for name, fd in zip(request["extra"], fds[3:], strict=True):
            os.set_inheritable(fd, True)
            env[name] = str(fd)
        try:
            os.chdir(request["cwd"])
            pid = os.posix_spawnp(
                request["run"][0],
                request["run"],
                env,
                file_actions=actions,
                setsid=request["session"],
                setsigdef=[signal.SIGHUP],  # which nohup(1) has the whole run ignore
            )
            os.write(result, b"%d\n" % pid)
            self.results[pid] = result
        except OSError as error:
            os.write(result, f"! {error}\n".encode())
            os.close(result)
        for fd in fds:
            os.close(fd)
        os.chdir("/")

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            result = self.results.pop(pid, None)
            if result is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(result, b"%d\n" % status)
                os.close(result)

    def answer(self):
        if self.settling is None:
            return
        left = descendants(os.getpid())
        if not left or time.monotonic() >= self.settling:
            self.settling = None
            self.channel.send(json.dumps(left).encode())

    def kill_all(self):
        while True:
            for pid, _, _ in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Keeper(socket.socket(fileno=int(sys.argv[1]))).serve()
