"""The file system: what is not shown, what is shown read-only, and what a hostile env leaves behind for its next start."""

import errno
import os
from pathlib import Path

import pytest

from sandboxd.errors import LaunchFailed
from sandboxd.spec import Isolation, Limits, Mount
from tests.walls.envs import Walls, outside


def test_nothing_can_be_written_outside_the_workspace(walls: Walls) -> None:
    secret = walls.root / "elsewhere"
    secret.mkdir()
    code = """
there = given["there"]
found = [tried(write, there), tried(os.listdir, os.path.dirname(there)), tried(write, given["here"])]
"""
    there, here = str(secret / "x"), str(walls.shop / "made-inside")
    assert walls.inside(code, there=there, here=here) == ["ENOENT", "ENOENT", "ok"]
    assert Path(here).read_text() == "x", "the workspace is the host's own directory, at its own path"
    assert not list(secret.iterdir())
    assert outside(code, there=there, here=here) == ["ok", "ok", "ok"]


def test_the_system_is_read_only(walls: Walls) -> None:
    places = [
        "/etc/x",
        "/usr/x",
        "/usr/bin/x",
        "/x",
        "/var/x",
        "/dev/x",
        "/sys/devices/system/x",
        "/etc/hosts",
        "/.sandboxd/hosts",
    ]
    code = "found = [tried(write, place) for place in given['places']]"
    assert walls.inside(code, places=places) == ["EROFS"] * len(places)
    # Without the wall an ordinary user is stopped by modes alone: another errno.
    assert "EROFS" not in outside(code, places=places[:3])
    neighbours = ["/tmp/x", "/var/tmp/y", "/dev/shm/x", "/run/x", "/dev/null", str(walls.home / "x")]
    assert walls.inside(code, places=neighbours) == ["ok"] * len(neighbours)


def test_the_hosts_own_places_are_not_there(walls: Walls) -> None:
    code = (
        "found = [[name for name in sorted(os.listdir('/'))], tried(os.listdir, '/var/log'), tried(os.listdir, '/run/systemd')]"
    )
    names, logs, run = walls.inside(code)
    assert not set(names) & {"root", "srv", "mnt", "media", "boot", "lost+found", "old_root", "work"}
    assert (logs, run) == ("ENOENT", "ENOENT")


def test_the_home_is_private_and_its_secrets_invisible(walls: Walls) -> None:
    (walls.home / ".ssh").mkdir(exist_ok=True)
    key = walls.home / ".ssh" / "id_ed25519"
    key.write_text("secret")
    code = "found = [tried(read, given['key']), os.path.expanduser('~'), tried(write, given['kept'])]"
    directory = walls.env_dir()
    given = {"key": str(key), "kept": str(walls.home / ".cache-of-mine")}
    assert walls.inside(code, parts={"env_dir": directory}, **given) == ["ENOENT", str(walls.home), "ok"]
    assert (directory / "home" / ".cache-of-mine").read_text() == "x", "kept until the env is removed"
    assert not (walls.home / ".cache-of-mine").exists()
    assert outside(code, **given)[0] == "ok"
    (walls.home / ".cache-of-mine").unlink()


def test_a_readonly_home_masks_what_is_secret(walls: Walls) -> None:
    (walls.home / ".ssh").mkdir(exist_ok=True)
    (walls.home / ".ssh" / "id_ed25519").write_text("secret")
    (walls.home / ".netrc").write_text("secret")
    (walls.home / "notes").write_text("seen")
    code = """
home = given["home"]
found = [os.listdir(home + "/.ssh"), open(home + "/.netrc").read(), open(home + "/notes").read(), tried(write, home + "/x")]
found += [tried(write, home + "/.ssh/x"), tried(write, home + "/src/shop/x")]
"""
    parts = {"isolation": Isolation(home="readonly")}
    assert walls.inside(code, parts=parts, home=str(walls.home)) == [[], "", "seen", "EROFS", "EROFS", "ok"]


def test_toolchains_on_the_path_run_and_stay_as_they_are(walls: Walls) -> None:
    tools = walls.home / "venv"
    (tools / "bin").mkdir(parents=True, exist_ok=True)
    (tools / "pyvenv.cfg").touch()
    tool = tools / "bin" / "hello"
    tool.write_text("#!/bin/sh\necho hello\n")
    tool.chmod(0o755)
    code = "import subprocess\nfound = [subprocess.check_output(['hello'], text=True), tried(write, given['tool'])]"
    environ = {"PATH": f"{tools}/bin:/usr/bin:/bin"}
    assert walls.inside(code, parts={"environ": environ}, tool=str(tool)) == ["hello\n", "EROFS"]
    assert outside("found = tried(write, given['tool'], '#')", tool=str(tool)) == "ok"


ATTACK_ON_WALLS = """
shop = given["shop"]
os.chdir(shop)
found = {
    "append": [tried(write, name) for name in given["files"]],
    "unlink": [tried(os.unlink, name) for name in given["files"]],
    "replace": [tried(write, "new") == "ok" and tried(os.replace, "new", name) for name in given["files"]],
    "hook": tried(write, ".git/hooks/pre-commit"),
    "rename hooks": tried(os.rename, ".git/hooks", ".git/old"),
    "rename git": tried(os.rename, ".git", "old"),
    "object": tried(write, ".git/objects/x"),
    "source": tried(write, "main.py"),
}
"""


def test_what_is_confined_cannot_rewrite_its_walls(walls: Walls, tmp_path: Path) -> None:
    files = ["sandbox.toml", ".envrc", ".git/config"]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for name in ("hooks", "objects"):
        (tmp_path / ".git" / name).mkdir()
    given = {"shop": str(tmp_path), "files": files}
    found = walls.inside(ATTACK_ON_WALLS, parts={"workspace": tmp_path}, **given)
    assert set(found.pop("replace")) <= {"EBUSY", "EXDEV"}
    assert found == {
        "append": ["EROFS"] * 3, "unlink": ["EBUSY"] * 3, "hook": "EROFS", "rename hooks": "EBUSY", "rename git": "EBUSY",
        "object": "ok", "source": "ok",
    }  # fmt: skip
    assert all((tmp_path / name).read_text() == "mine" for name in files)
    control = outside(ATTACK_ON_WALLS, **given)
    assert [control[key] for key in ("append", "unlink", "replace")] == [["ok"] * 3] * 3
    assert [control[key] for key in ("hook", "rename hooks", "rename git")] == ["ok"] * 3


def test_a_second_view_of_the_workspace_has_the_same_walls(walls: Walls, tmp_path: Path) -> None:
    (tmp_path / "sandbox.toml").write_text("mine")
    code = "found = [tried(write, '/again/sandbox.toml'), tried(write, '/again/other')]"
    mount = Mount(source=str(tmp_path), target="/again")
    assert walls.inside(code, parts={"workspace": tmp_path, "mounts": [mount]}) == ["EROFS", "ok"]


def test_mounts_asked_for_are_there_as_asked(walls: Walls, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("text")
    mounts = [
        Mount(source=str(tmp_path / "data"), target="/data"),
        Mount(source=str(tmp_path / "data"), target="/data-ro/deep", readonly=True),
        Mount(source=str(tmp_path / "file"), target="/config/file", readonly=True),
        Mount(source=str(tmp_path / "data"), target="/var/run/data"),
    ]
    code = """
found = [tried(write, "/data/x"), tried(write, "/data-ro/deep/x"), open("/config/file").read(), tried(write, "/config/file")]
found.append(os.listdir("/run/data"))
"""
    assert walls.inside(code, parts={"mounts": mounts}) == ["ok", "EROFS", "text", "EROFS", ["x"]]


def test_the_daemons_own_directory_is_masked_wherever_it_would_show(walls: Walls) -> None:
    code = "found = [os.listdir(given['state']), sorted(os.listdir('/all'))]"
    mount = Mount(source=str(walls.root), target="/all")
    shown, names = walls.inside(code, parts={"mounts": [mount]}, state="/all/state")
    assert shown == []
    assert "state" in names


@pytest.mark.parametrize("readonly", [True, False])
def test_submounts_are_as_read_only_as_their_mount(walls: Walls, readonly: bool) -> None:
    """/dev is the host's tree with submounts that every host has; `remount,bind,ro` left /dev/shm writable."""
    code = "found = [tried(write, '/devices/shm/sandboxd-test'), tried(write, '/devices/sandboxd-test')]"
    found = walls.inside(code, parts={"mounts": [Mount(source="/dev", target="/devices", readonly=readonly)]})
    assert found == (["EROFS", "EROFS"] if readonly else ["ok", "EACCES"])
    if not readonly:
        os.unlink("/dev/shm/sandboxd-test")


def test_links_left_in_the_home_lead_nowhere(walls: Walls) -> None:
    """An env plants links where its next start makes mount points: none may be made on the host."""
    target = walls.root / "victim"
    target.mkdir()
    depth = len(walls.home.parts) - 1
    ways = [str(target), "../" * 40 + str(target)[1:], f"/..{target}", f"/proc/self/fd/4{target}"]
    for index, text in enumerate([*ways, *["../" * up + str(target)[1:] for up in (depth - 1, depth, depth + 1)]]):
        directory = walls.env_dir()
        (directory / "home" / "src").symlink_to(text)
        with pytest.raises(LaunchFailed) as failed:
            walls.inside("found = 'launched'", parts={"env_dir": directory})
        assert failed.value.details["errno"] == errno.ELOOP, f"{index}: {failed.value}"
        assert not list(target.iterdir()), "a mount point was made on the host"


def test_a_link_swapped_in_after_the_plan_is_not_followed(walls: Walls, tmp_path: Path) -> None:
    shop, victim = tmp_path / "shop", tmp_path / "victim"
    shop.mkdir()
    victim.mkdir()
    made = walls.planned(["/bin/true"], workspace=shop)
    shop.rmdir()
    shop.symlink_to(victim)
    with pytest.raises(LaunchFailed, match="ELOOP") as failed:
        walls.launch(made)
    assert str(shop) in failed.value.message
    assert failed.value.hint


def test_tmp_is_private_and_bounded(walls: Walls) -> None:
    mark = Path("/tmp/sandboxd-outside-mark")
    mark.touch()
    code = """
def fill(path):
    with open(path, "wb", buffering=0) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
found = [tried(os.stat, "/tmp/sandboxd-outside-mark"), tried(fill, "/tmp/big"), tried(fill, "/dev/shm/big")]
os.unlink("/tmp/big")
found.append(tried(write, "/tmp/small"))
"""
    try:
        parts = {"limits": Limits(memory=16 << 20, pids=None)}
        assert walls.inside(code, parts=parts) == ["ENOENT", "ENOSPC", "ENOSPC", "ok"]
        assert outside("found = tried(os.stat, '/tmp/sandboxd-outside-mark')") == "ok"
    finally:
        mark.unlink()


def test_devices_are_the_harmless_ones(walls: Walls) -> None:
    code = """
found = [sorted(os.listdir("/dev")), tried(os.mknod, "/tmp/disk", 0o600 | 0o060000, os.makedev(8, 0))]
found += [tried(write, "/dev/null"), tried(read, "/dev/urandom"), os.readlink("/dev/ptmx")]
"""
    names, *rest = walls.inside(code)
    known = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
    known |= {"stdin", "stdout", "stderr"}
    assert set(names) <= known
    assert {"null", "zero", "urandom", "pts", "shm"} <= set(names)
    assert rest == ["EACCES", "ok", "ok", "pts/ptmx"]  # of Landlock; without it EPERM, since no capability is held


def test_our_own_names_resolve(walls: Walls) -> None:
    code = """
found = [socket.gethostbyname(name) for name in ("localhost", "shop", "web")]
found += [socket.gethostname(), open("/etc/resolv.conf").read()]
"""
    *addresses, name, resolver = walls.inside(code)
    assert addresses == ["127.0.0.1"] * 3
    assert name == "shop"
    assert resolver.startswith("# ")
