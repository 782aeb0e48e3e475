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
    assert found == [["EROFS"] * len(there), [0] * len(hidden), "ok", "ok"]
    control = outside(code, **given)
    assert control[0] == ["ok"] * len(there)
    assert any(control[1])


def test_the_launcher_refuses_uid_0_unasked() -> None:
    for root, *ids in ((False, 0, 0, 0, 0), (False, 5, 5, 0, 0), (False, NOBODY, NOBODY, 0, 0)):
        with pytest.raises(PermissionDenied):
            Order(ORDER.pack(True, True, root, *ids, 0))
    assert Order(ORDER.pack(True, True, True, 0, 0, 0, 0, 0)).drop is True
    assert Order(ORDER.pack(True, True, False, NOBODY, NOBODY, NOBODY, NOBODY, 0)).drop is True
    assert Profile(uid=(0, 0), gid=(0, 0)).root is False
