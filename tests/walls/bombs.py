"""Programs that take all they can get of one thing, and say on stdout what stopped them: run inside an env, with limits.

Each goes on for SECONDS after it was stopped, trying again and again. `python -m tests.bench bombs` measures what a neighbour
and the daemon notice of it; test_bombs.py holds that each is stopped by the named error and that nothing stays.
"""

from typing import NamedTuple

# The neighbour.
SERVE = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True # head and body go in two writes: else the second waits 40 ms for an answer to the first
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Answer).serve_forever()
"""
HEAD = """
import ctypes, errno, os, resource, select, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
kept, until, patience, said = [], time.monotonic() + {seconds}, time.monotonic() + {seconds} + 20, set()
def stopped(why):
    global until
    if not said:
        until = time.monotonic() + {seconds}
    if why not in said:
        said.add(why)
        print("stopped:", why, len(kept), flush=True)
    if time.monotonic() > until:
        os._exit(0)
    time.sleep(0.01)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")
    return result
def again(action):
    while True:
        try:
            kept.append(action())
        except OSError as error:
            stopped(errno.errorcode.get(error.errno, str(error)))
        except (RuntimeError, MemoryError) as error:
            stopped(type(error).__name__)
        if time.monotonic() > (until if said else patience):  # a busy machine takes its time to come to what stops it
            stopped("nothing")
"""


class Bomb(NamedTuple):
    """stopped: what it comes to, words joined by |; `killed` ends the env by that limit. flags: the limits it runs with."""

    code: str
    stopped: str
    flags: tuple[str, ...] = ()
    killed: str = ""


LIMITS = ("-m", "128m", "--pids-limit", "64", "--ulimit", "nofile=256")
FORK = """
def fork():
    pid = os.fork()
    if pid == 0:
        while time.monotonic() < until:
            try:
                os.fork()
            except OSError:
                time.sleep(0.01)
        os._exit(0)
    return pid
again(fork)
"""
THREAD = """
def thread():
    made = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    made.start()
    return made
again(thread)
"""
FILL = """
def fill():
    file = open({place!r} + "/" + str(len(kept)), "wb", buffering=0)
    file.write(bytes(1 << 20))
    return file.close()
again(fill)
"""
INODES = """
os.makedirs("/tmp/many", exist_ok=True)
again(lambda: os.close(os.open("/tmp/many/" + str(len(kept)), os.O_CREAT | os.O_WRONLY)))
"""
SHM = """
libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
again(lambda: checked(libc.shmget(0, 4096, 0o1600)))
"""
QUEUE = """
again(lambda: checked(libc.mq_open(b"/q%d" % len(kept), os.O_CREAT | os.O_RDWR, 0o600, None)))
"""
IN_FLIGHT = """
def send():
    a, b = socket.socketpair()
    a.setblocking(False)
    zero = os.open("/dev/zero", os.O_RDONLY)
    for _ in range(64):
        socket.send_fds(a, [b"x"], [zero] * 250)
    return a, b, os.close(zero)
again(send)
"""
CONNECT = """
server = socket.create_server(("127.0.0.1", 0), backlog=4096)
again(lambda: socket.create_connection(server.getsockname(), timeout=1))
"""
LOG = """
while time.monotonic() < until:
    os.write(1, b"x" * 1023 + b"\\n")
"""
LINES = """
while time.monotonic() < until:
    os.write(1, b"\\n" * 4096)
"""
SIGNALS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
value = ctypes.c_void_p(0)
again(lambda: checked(libc.sigqueue(os.getpid(), 40, value)))
"""
EXEC = """
def execute():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
while time.monotonic() < until:
    execute()
"""

CORES = """
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
except ValueError as error:
    stopped(type(error).__name__)
ballast = bytes(8 << 20)
while time.monotonic() < until:
    pid = os.fork()
    if pid == 0:
        os.abort()
    os.waitpid(pid, 0)
print("stopped:", *[name for name in os.listdir(".") if "core" in name] or ["no-core"], len(kept), flush=True)
"""
ONE_FILE = """
file = open("big", "wb", buffering=0)
again(lambda: file.write(bytes(1 << 20)))
"""
HOARD = """
for _ in range(200):
    kept.append(os.memfd_create("hoard"))
    os.write(kept[-1], bytes(1 << 20))
time.sleep(60)
"""
SEGMENTS = """
libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
for _ in range(200):
    at = libc.shmat(checked(libc.shmget(0, 1 << 20, 0o1600)), None, 0)
    ctypes.memset(at, 1, 1 << 20)
    checked(libc.shmdt(at))
time.sleep(60)
"""
AT_HOME = """
for number in range(64):
    with open(os.path.expanduser("~/") + str(number), "wb") as file:
        file.write(bytes(1 << 20))
time.sleep(60)
"""

BOMBS: dict[str, Bomb] = {
    "memory": Bomb("again(lambda: bytearray(os.urandom(1 << 16) * 64))", "", LIMITS, "memory"),
    "memory that nobody has mapped": Bomb(HOARD, "", LIMITS, "memory"),
    "shared memory that nobody has attached": Bomb(SEGMENTS, "", LIMITS, "memory"),
    "fork": Bomb(FORK, "EAGAIN", LIMITS),
    "threads": Bomb(THREAD, "RuntimeError", LIMITS),
    "descriptors": Bomb("again(lambda: os.open('/dev/null', os.O_RDONLY))", "EMFILE", LIMITS),
    "inotify": Bomb("again(lambda: checked(libc.inotify_init1(0)))", "EMFILE"),
    "terminals": Bomb("again(lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))", "ENOSPC"),
    "pipes": Bomb("again(os.pipe)", "EMFILE", LIMITS),
    "connections": Bomb(CONNECT, "EMFILE", LIMITS),
    "in flight": Bomb(IN_FLIGHT, "ETOOMANYREFS"),
    "tmp": Bomb(FILL.format(place="/tmp"), "ENOSPC", ("-m", "32m")),
    "dev shm": Bomb(FILL.format(place="/dev/shm"), "ENOSPC", ("-m", "32m")),
    "run": Bomb(FILL.format(place="/run"), "ENOSPC"),
    "inodes": Bomb(INODES, "ENOSPC", ("-m", "32m")),
    "cores": Bomb(CORES, "no-core"),
    "one file of the workspace": Bomb(ONE_FILE, "EFBIG", ("--disk", "32m")),
    "files at home": Bomb(AT_HOME, "", ("--disk", "32m"), "disk"),
    "shared memory": Bomb(SHM, "ENOSPC"),
    "message queues": Bomb(QUEUE, "EMFILE|ENOSPC|ENOMEM"),
    "signals": Bomb(SIGNALS, "EAGAIN"),
    "log": Bomb(LOG, ""),
    "lines": Bomb(LINES, ""),
    "processes one after another": Bomb(EXEC, ""),
}


def program(name: str, seconds: float) -> str:
    """The code of a bomb."""
    return HEAD.replace("{seconds}", str(seconds)) + BOMBS[name].code
