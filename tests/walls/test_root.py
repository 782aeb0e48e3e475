"""A daemon that is root: its envs are nobody's, before any path is resolved. Runs as root only."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.errors import LaunchFailed, PermissionDenied, WorkspaceInvalid
from sandboxd.isolation.plan import Profile
from sandboxd.launch.launcher import Order
from sandboxd.launch.talk import ORDER
from sandboxd.spec import Isolation
from tests.walls.attempts import filled
from tests.walls.envs import Walls, outside

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.fixture
def rootly() -> Iterator[Walls]:
    """A launcher of root's, in a directory that nobody can enter but for the workspace."""
    root = Path(subprocess.check_output(["mktemp", "-d", "/var/tmp/sandboxd-root-XXXXXX"], text=True).strip())
    root.chmod(0o755)
    walls = Walls(root, pool=1)
    walls.state.chmod(0o700)
    os.chown(walls.shop, NOBODY, NOBODY)
    yield walls
    walls.close()
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_an_env_of_roots_is_nobodys(rootly: Walls) -> None:
    code = """
found = [os.getuid(), os.getgid(), os.getgroups(), tried(read, "/etc/shadow")]
found += [tried(write, given["here"]), tried(write, given["home"])]
"""
    directory = rootly.env_dir()
    here, home = str(rootly.shop / "x"), str(rootly.home / "y")
    found = rootly.inside(code, parts={"env_dir": directory}, here=here, home=home)
    assert found == [NOBODY, NOBODY, [], "EACCES", "ok", "ok"]
    assert os.stat(here).st_uid == NOBODY
    assert (directory / "home" / "y").stat().st_uid == NOBODY
    assert outside("found = tried(read, '/etc/shadow')") == "ok"


def test_supplementary_groups_are_dropped(rootly: Walls, tmp_path: Path) -> None:
    """A file of mode 0640 and a group of the daemon's must not be readable."""
    secret = rootly.shop / "of-adm"
    secret.write_text("secret")
    os.chown(secret, 0, 4)
    secret.chmod(0o640)
    groups = os.getgroups()
    assert rootly.inside("found = tried(read, given['file'])", file=str(secret)) == "EACCES"
    assert os.getgroups() == groups


def test_paths_are_resolved_as_nobody(rootly: Walls) -> None:
    """What only root can reach is not shown, even when a plan names it."""
    hidden = rootly.root / "hidden"
    (hidden / "shop").mkdir(parents=True)
    made = rootly.planned(["/bin/true"], workspace=hidden / "shop")
    hidden.chmod(0o700)
    with pytest.raises(LaunchFailed, match="EACCES"):
        rootly.launch(made)
    with pytest.raises(WorkspaceInvalid, match="cannot enter"):
        rootly.planned(["/bin/true"], workspace=hidden / "shop")


def test_root_is_root_only_by_name(rootly: Walls) -> None:
    code = "found = [os.getuid(), tried(read, '/etc/shadow'), tried(os.chown, given['file'], 1, 1), tried(write, '/etc/x')]"
    file = rootly.shop / "z"
    file.touch()
    found = rootly.inside(code, parts={"isolation": Isolation(user="root")}, file=str(file))
    assert found == [0, "ok", "EINVAL", "EROFS"]  # EINVAL: no other id is mapped


SETTINGS = [
    "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity",
    "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe", "/proc/sys/fs/binfmt_misc/register",
]  # fmt: skip


def test_who_is_root_outside_sets_nothing_of_the_kernels(rootly: Walls) -> None:
    """Modes let kuid 0 write these, capabilities or not; a program in core_pattern is run as root by the kernel, outside."""
    code = """
def for_writing(path):
    os.close(os.open(path, os.O_WRONLY))
def show(path):
    with open(path, "rb") as file:
        return len(file.read(64))
found = [[tried(for_writing, path) for path in given["settings"]], [show(path) for path in given["hidden"]]]
found += [tried(for_writing, "/proc/self/oom_score_adj"), tried(read, "/proc/sys/kernel/hostname")]
"""
    there = [path for path in SETTINGS if os.path.exists(path)]
    hidden = [path for path in ("/proc/keys", "/proc/timer_list") if os.path.exists(path)]
    given = {"settings": there, "hidden": hidden}
    found = rootly.inside(code, parts={"isolation": Isolation(user="root")}, **given)
    # What the host has mounted below /proc is not in a procfs of the env's own.
    apart = [os.stat(path).st_dev != os.stat("/proc").st_dev for path in there]
    assert found == [["ENOENT" if one else "EROFS" for one in apart], [0] * len(hidden), "ok", "ok"]
    control = outside(code, **given)
    assert control[0] == ["ok"] * len(there)
    assert any(control[1])


# What only root may do at all, so that only as root the wall is what refuses it: (attempt, what it comes to without a wall).
# The arguments are such that nothing comes of it: it was reached, and did not like them.
ROOTS = [
    (["mknod", "{shop}/disk", 0o60600, 0x700], "ok"),
    (["syscall", "mount", "none", "{shop}/missing", "tmpfs", 0, None], "ENOENT"),
    (["syscall", "umount2", "{shop}/missing", 0], "ENOENT"),
    (["syscall", "pivot_root", "{shop}/missing", "{shop}/missing"], "ENOENT"),
    (["syscall", "chroot", "{shop}/missing"], "ENOENT"),
    (["syscall", "unshare", 0x20000], "ok"),
    (["syscall", "init_module", None, 0, ""], "ENOEXEC|EFAULT|ENOSYS"),
    (["syscall", "finit_module", -1, "", 0], "EBADF|ENOSYS"),
    (["syscall", "delete_module", "no_such_module", 0x800], "ENOENT|ENOSYS"),
    (["syscall", "kexec_load", 0, 99, None, 0], "EINVAL|ENOSYS"),
    (["syscall", "kexec_file_load", -1, -1, 0, None, 0], "EBADF|ENOSYS"),
    (["syscall", "swapon", "{shop}/missing", 0], "ENOENT"),
    (["syscall", "swapoff", "{shop}/missing"], "ENOENT|EINVAL"),
    (["syscall", "reboot", 0, 0, 0, None], "EINVAL"),
    (["syscall", "iopl", 3], "ok|ENOSYS"),
    (["syscall", "ioperm", 0x80, 1, 1], "ok|ENOSYS"),
    (["syscall", "settimeofday", None, None], "ok"),
    (["syscall", "clock_settime", 0, None], "EFAULT"),
    (["syscall", "acct", "{shop}/missing"], "ENOENT|ENOSYS"),
    (["syscall", "syslog", 3, None, 0], "EINVAL|ok"),
    (["syscall", "sethostname", None, 1], "EFAULT"),
    (["syscall", "setdomainname", None, 1], "EFAULT"),
    (["syscall", "bpf", 0, None, 0], "EINVAL|EFAULT"),
    (["syscall", "perf_event_open", None, 0, -1, -1, 0], "EFAULT"),
    (["syscall", "open_by_handle_at", -100, None, 0], "EFAULT"),
    (["syscall", "fanotify_init", 0, 0], "ok|ENOSYS"),
    (["syscall", "quotactl", 0x800001 << 8, None, 0, None], "ok|ENOSYS"),
    (["setuid", 12345], "ok"),
    (["chown", "{shop}/own", 12345, 12345], "ok"),
    (["nice", 0, -5], "ok"),
    (["limit", 0, "CORE", 4096], "ok"),
    (["make_socket", "AF_INET", 3, 1], "ok"),
    (["make_socket", "AF_PACKET", 3, 768], "ok"),
    (["access", "/dev/kmsg"], "ok"),
    (["via_descriptor", "/etc/shadow"], "ok"),
]
BLOCKED = {"EPERM", "EACCES", "EROFS", "EINVAL", "ENOENT", "EAFNOSUPPORT", "ENOSYS"}  # no such device, no such id
PROBED = """
sys.path.insert(0, given["shop"])
import probe
found = [probe.attempt(action, arguments) for action, *arguments in given["acts"]]
"""


def test_who_is_root_outside_does_nothing_that_only_root_may(rootly: Walls) -> None:
    """Triples: as root without walls each is reached, inside none is, and its neighbours work."""
    (rootly.shop / "probe.py").write_text(Path(__file__).with_name("probe.py").read_text())
    (rootly.shop / "own").touch()
    os.chown(rootly.shop, 0, 0)  # so that modes forbid nothing there
    shop = str(rootly.shop)
    rows = [filled(act, {"shop": shop}) for act, _ in ROOTS]
    neighbours = [["mkfifo", f"{shop}/pipe"], ["make", f"{shop}/made/"], ["write", f"{shop}/mine"], ["nice", 0, 5],
                  ["make_socket", "AF_INET", 1], ["access", "/dev/null"], ["limit", 0, "NOFILE", 64]]  # fmt: skip
    given = {"shop": shop, "acts": rows}
    parts = {"isolation": Isolation(user="root")}
    inside = rootly.inside(PROBED, parts=parts, **given)
    control = outside(PROBED, **given)
    for (act, works), blocked, reached in zip(ROOTS, inside, control, strict=True):
        assert reached in works.split("|"), f"without walls {act} came to {reached}"
        assert blocked in BLOCKED, f"inside {act} came to {blocked}"
        assert blocked != reached or reached == "ENOSYS", f"{act}: {blocked} proves nothing"
    assert rootly.inside(PROBED, parts=parts, shop=shop, acts=neighbours) == ["ok"] * len(neighbours)


def test_the_launcher_refuses_uid_0_unasked() -> None:
    for root, *ids in ((False, 0, 0, 0, 0), (False, 5, 5, 0, 0), (False, NOBODY, NOBODY, 0, 0)):
        with pytest.raises(PermissionDenied):
            Order(ORDER.pack(True, True, root, False, *ids, 0, 0))
    assert Order(ORDER.pack(True, True, True, False, 0, 0, 0, 0, 0, 0)).drop is True
    assert Order(ORDER.pack(True, True, False, False, NOBODY, NOBODY, NOBODY, NOBODY, 0, 0)).drop is True
    assert Profile(uid=(0, 0), gid=(0, 0)).root is False
