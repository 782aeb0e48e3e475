"""Namespaces and mounts on the real kernel, each in a fresh interpreter."""

import socket

import pytest

from sandboxd.kernel import mounts, namespaces
from tests.kernel.inside import run


@pytest.fixture(autouse=True)
def _userns(require) -> None:
    require("userns", "unprivileged")


def test_clone3_gives_a_pidfd_and_pid_1() -> None:
    assert run("""
signals.block_all()
read, write = os.pipe()
pid, fd = namespaces.clone3(namespaces.NEWUSER | namespaces.NEWPID)
if pid == 0:
    os.write(write, str(os.getpid()).encode())
    os._exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
found = [os.read(read, 10).decode(), status, fd > 2, os.get_inheritable(fd), pidfd.is_alive(fd)]
""") == ["1", 7, True, False, False]


def test_the_parent_maps_one_id() -> None:
    uid, inside, groups = run("""
signals.block_all()
here, there = socket.socketpair()
pid, fd = namespaces.clone3(namespaces.NEWUSER)
if pid == 0:
    there.recv(1)
    there.send(json.dumps([os.getuid(), os.getgid(), errno_of(os.setgroups, [])]).encode())
    os._exit(0)
namespaces.write_maps(pid, uid=(7, os.getuid()), gid=(8, os.getgid()))
here.send(b"g")
found = json.loads(here.recv(100))
os.waitpid(pid, 0)
""")
    assert (uid, inside, groups) == (7, 8, "EPERM")


def test_a_child_that_is_not_dumpable_cannot_be_mapped() -> None:
    """Why the order in the launcher is what it is."""
    assert run("""
signals.block_all()
here, there = socket.socketpair()
pid, fd = namespaces.clone3(namespaces.NEWUSER)
if pid == 0:
    capabilities.set_dumpable(False)
    there.send(b"x")
    there.recv(1)
    os._exit(0)
here.recv(1)
found = errno_of(namespaces.write_maps, pid, uid=(os.getuid(), os.getuid()), gid=(os.getgid(), os.getgid()))
here.send(b"g")
os.waitpid(pid, 0)
""") in ("EACCES", "EPERM")


def test_clone3_says_when_the_quota_is_used_up() -> None:
    number, hint = run(
        """
namespaces.write_proc("/proc/sys/user/max_net_namespaces", b"0")
signals.block_all()
try:
    namespaces.clone3(namespaces.NEWUSER | namespaces.NEWNET)
except KernelError as error:
    found = [errno.errorcode[error.errno], error.hint]
""",
        enter="NEWUSER",
    )
    assert number == "ENOSPC"
    assert "user.max_*_namespaces" in hint


def test_loopback_is_up_for_both_families() -> None:
    found = run(
        """
def connect(family, address):
    server = socket.socket(family)
    server.bind((address, 0))
    server.listen()
    client = socket.socket(family)
    client.settimeout(5)
    client.connect(server.getsockname())
before = errno_of(connect, socket.AF_INET, "127.0.0.1")
namespaces.loopback_up()
found = [before, errno_of(connect, socket.AF_INET, "127.0.0.1"), errno_of(connect, socket.AF_INET6, "::1")]
""",
        enter="NEWNET",
    )
    assert found[:2] == ["ENETUNREACH", "ok"]
    assert found[2] == ("ok" if socket.has_ipv6 else found[2])


def test_every_network_namespace_has_its_own_cookie() -> None:
    inside = run("found = namespaces.netns_cookie()", enter="NEWNET")
    assert inside not in (0, namespaces.netns_cookie())
    assert run("found = namespaces.netns_cookie()") == namespaces.netns_cookie()


def test_a_host_name_is_the_namespaces_own() -> None:
    assert run("namespaces.sethostname('shop')\nfound = os.uname().nodename", enter="NEWUTS") == "shop"
    assert socket.gethostname() != "shop"


def test_the_session_keyring_is_left() -> None:
    assert (
        run("""
def keyring():
    with open("/proc/keys") as keys:
        return [line.split()[0] for line in keys if " keyring " in line]
namespaces.leave_session_keyring()
found = "ok"
""")
        == "ok"
    )


SUBMOUNTS = """
mounts.mount("tmpfs", "/tmp", 0, "size=1m")
os.makedirs("/tmp/from/sub")
os.makedirs("/tmp/to")
mounts.mount("tmpfs", "/tmp/from", 0, "size=1m")
os.mkdir("/tmp/from/sub")
mounts.mount("tmpfs", "/tmp/from/sub", 0, "size=1m")
def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
root = os.open("/", os.O_PATH)
"""


def test_a_tree_becomes_read_only_with_all_that_is_mounted_in_it() -> None:
    found = run(
        SUBMOUNTS
        + """
place = mounts.openat2(root, "tmp/from", os.O_PATH, mounts.RESOLVE_NO_SYMLINKS)
tree = mounts.open_tree(place, recursive=True)
mounts.mount_setattr(tree, mounts.ATTR_RDONLY, recursive=True, propagation=mounts.MS_PRIVATE)
mounts.move_mount(tree, mounts.openat2(root, "tmp/to", os.O_PATH, mounts.RESOLVE_NO_SYMLINKS))
found = [errno_of(write, p) for p in ("/tmp/to/x", "/tmp/to/sub/x", "/tmp/from/x", "/tmp/from/sub/x")]
""",
        enter="NEWNS",
    )
    assert found == ["EROFS", "EROFS", "ok", "ok"]


def test_the_classic_remount_would_have_missed_the_submount() -> None:
    """The control of the one above, and why `mounts` does not offer it."""
    found = run(
        SUBMOUNTS
        + """
mounts.bind("/tmp/from", "/tmp/to")
mounts.mount(None, "/tmp/to", mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_REC | mounts.MS_RDONLY)
found = [errno_of(write, p) for p in ("/tmp/to/x", "/tmp/to/sub/x")]
""",
        enter="NEWNS",
    )
    assert found == ["EROFS", "ok"]


def test_attributes_can_be_cleared_of_one_mount_alone() -> None:
    found = run(
        SUBMOUNTS
        + """
place = os.open("/tmp/from", os.O_PATH)
mounts.mount_setattr(place, mounts.ATTR_RDONLY, recursive=True)
mounts.mount_setattr(place, 0, recursive=False, clear=mounts.ATTR_RDONLY)
found = [errno_of(write, p) for p in ("/tmp/from/x", "/tmp/from/sub/x")]
""",
        enter="NEWNS",
    )
    assert found == ["ok", "EROFS"]


def test_resolution_is_as_strict_as_asked() -> None:
    found = run(
        SUBMOUNTS
        + """
os.symlink("/tmp/from", "/tmp/absolute")
os.symlink("/proc/self/fd/0", "/tmp/to/magic")
here = os.open("/tmp", os.O_PATH)
found = [
    errno_of(mounts.openat2, here, "absolute", os.O_PATH, mounts.RESOLVE_NO_SYMLINKS),
    errno_of(mounts.openat2, here, "absolute", os.O_PATH, mounts.RESOLVE_IN_ROOT),
    errno_of(mounts.openat2, here, "../etc", os.O_PATH, mounts.RESOLVE_BENEATH),
    errno_of(mounts.openat2, root, "tmp/to/magic", os.O_PATH, mounts.RESOLVE_IN_ROOT | mounts.RESOLVE_NO_MAGICLINKS),
    errno_of(mounts.openat2, root, "tmp/from", os.O_PATH, mounts.RESOLVE_NO_SYMLINKS),
]
""",
        enter="NEWNS",
    )
    assert found == ["ELOOP", "ENOENT", "EXDEV", "ELOOP", "ok"]


def test_after_the_pivot_dotdot_leads_back_unless_no_link_is_followed() -> None:
    """A ".." that comes to the root steps onto the old root, which is mounted on it; a path without links has no ".."."""
    found = run(
        """
mounts.mount("tmpfs", "/tmp", 0, "size=1m")
os.chdir("/tmp")
mounts.pivot_root(".", ".")
os.chdir("/")
root = os.open("/", os.O_PATH)
os.mkdir("/a")
for path, text in (("/a/out", "../etc"), ("/above", "../../etc"), ("/absolute", "/etc")):
    os.symlink(text, path)
strict = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_MAGICLINKS | mounts.RESOLVE_NO_SYMLINKS
found = [sorted(os.listdir("/")), "usr" in os.listdir("/..")]
names = ("../etc", "above", "absolute", "a/out", "a")
found.append([errno_of(mounts.openat2, root, name, os.O_PATH, strict) for name in names])
found.append(errno_of(mounts.openat2, root, "above", os.O_PATH, mounts.RESOLVE_IN_ROOT))
found.append(errno_of(mounts.openat2, root, "a/out", os.O_PATH, mounts.RESOLVE_BENEATH))
mounts.umount("/", mounts.MNT_DETACH)
found += ["usr" in os.listdir("/.."), errno_of(mounts.umount, "/", mounts.MNT_DETACH) != "ok"]
""",
        enter="NEWNS",
    )
    names, stacked, refused, in_root, beneath, still, alone = found
    assert names == ["a", "above", "absolute"]
    assert stacked
    assert refused == ["EXDEV", "ELOOP", "ELOOP", "ELOOP", "ok"]
    assert (in_root, beneath) == ("ok", "ok"), "why neither of these alone will do"
    assert (still, alone) == (False, True)


def test_a_path_with_a_nul_or_odd_bytes_is_carried_or_refused() -> None:
    assert mounts.AT_EMPTY_PATH == 0x1000
    assert run("found = errno_of(mounts.openat2, os.open('/', os.O_PATH), '\\udcff', os.O_PATH, 0)") == "ENOENT"


def test_a_mount_becomes_read_only_while_somebody_writes_there() -> None:
    """Without another try it is refused now and then (EBUSY), as the first part shows."""
    refused, sealed = run(
        """
mounts.mount("tmpfs", "/mnt", 0, "size=65536")
root = os.open("/mnt", os.O_PATH)
writer = os.fork()
while writer == 0:
    try:
        os.close(os.open("/mnt/new", os.O_WRONLY | os.O_CREAT))
        os.unlink("/mnt/new")
    except OSError:
        pass
def open_again():
    mounts.mount_setattr(root, 0, recursive=False, clear=mounts.ATTR_RDONLY)
refused = 0
for _ in range(1_000_000):
    if refused := errno_of(mounts.mount_setattr, root, mounts.ATTR_RDONLY, recursive=False) == "EBUSY":
        break
    open_again()
sealed = []
for _ in range(100):
    open_again()
    mounts.make_read_only(root, "/mnt")
    sealed.append(errno_of(os.mkdir, "/mnt/more"))
os.kill(writer, signal.SIGKILL)
os.waitpid(writer, 0)
found = [refused, sorted(set(sealed))]
""",
        enter="NEWUSER|NEWNS",
    )
    assert (refused, sealed) == (True, ["EROFS"])
