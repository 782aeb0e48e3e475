"""The daemon's directories: what is trusted, what is refused, who has them, and that removal is thorough."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

from sandboxd.errors import DaemonRunning, NotFound, StoreFailed
from sandboxd.settings import Settings
from sandboxd.store.rundir import GETFLAGS, TOPDIR, RunDir, checked, prepare, spread
from tests.require import unmet

ID = "0123456789abcdef" * 2


def settings_for(path: Path, **environ: str) -> Settings:
    return Settings.from_environ({"SANDBOXD_DIR": str(path), **environ}, os.getuid())


def settings_apart(runtime: Path, state: Path) -> Settings:
    return Settings.from_environ({"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(state)}, os.getuid())


@pytest.fixture
def rundir(tmp_path):
    found = prepare(settings_for(tmp_path / "d"))
    yield found
    found.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_everything_is_made_ours_alone(tmp_path):
    old = os.umask(0)
    try:
        rundir = prepare(settings_for(tmp_path / "a" / "b"))
    finally:
        os.umask(old)
    state = tmp_path / "a" / "b"
    assert (mode(state), mode(state / "envs"), mode(state / "control.sock"), mode(state / "lock")) == (
        0o700,
        0o700,
        0o600,
        0o600,
    )
    rundir.close(unlink=True)
    assert not (state / "control.sock").exists()


def test_state_and_runtime_may_lie_apart(tmp_path):
    (tmp_path / "run").mkdir()
    settings = Settings.from_environ(
        {"XDG_STATE_HOME": str(tmp_path / "s"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}, os.getuid()
    )
    rundir = prepare(settings)
    assert sorted(os.listdir(tmp_path / "s" / "sandboxd")) == ["envs", "lock"]
    assert os.listdir(tmp_path / "run" / "sandboxd") == ["control.sock"]
    assert mode(tmp_path / "run" / "sandboxd") == 0o700
    rundir.close()


def test_a_path_longer_than_a_socket_address_works(tmp_path):
    rundir = prepare(settings_for(tmp_path / ("x" * 200)))
    path = rundir.create_env_dir(ID)
    assert mode(path) == 0o700
    assert mode(rundir.socket_path) == 0o600
    rundir.close()


def test_a_client_connects(rundir):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(rundir.socket_path))


def test_a_second_daemon_is_told_who_has_it(tmp_path):
    settings = settings_for(tmp_path / "d")
    code = f"""
import sys
from pathlib import Path
from sandboxd.settings import Settings
from sandboxd.store.rundir import prepare
held = prepare(Settings.from_environ({{"SANDBOXD_DIR": {str(tmp_path / "d")!r}}}, {os.getuid()}))
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(DaemonRunning) as caught:
            prepare(settings)
        assert caught.value.details == {"pid": first.pid}
        assert str(first.pid) in caught.value.message
        first.kill()
    rundir = prepare(settings)  # its lock died with it; its socket is stale and gives way
    rundir.close()


def test_a_second_daemon_leaves_the_first_ones_socket_alone(rundir, tmp_path):
    before = rundir.socket_path.stat().st_ino
    with pytest.raises(DaemonRunning):
        prepare(settings_for(tmp_path / "d"))
    assert rundir.socket_path.stat().st_ino == before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(rundir.socket_path))


def test_one_socket_of_two_state_directories_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    first = prepare(settings_apart(tmp_path / "run", tmp_path / "s1"))
    with pytest.raises(DaemonRunning) as caught:
        prepare(settings_apart(tmp_path / "run", tmp_path / "s2"))
    assert caught.value.details == {"pid": os.getpid()}
    first.close()


def test_a_stuck_daemon_still_counts_as_running(tmp_path):
    (tmp_path / "run" / "sandboxd").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waiting:
        stuck.bind(str(tmp_path / "run" / "sandboxd" / "control.sock"))
        stuck.listen(0)
        waiting.connect(stuck.getsockname())
        with pytest.raises(DaemonRunning):
            prepare(
                Settings.from_environ(
                    {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_STATE_HOME": str(tmp_path / "s")}, os.getuid()
                )
            )


def test_a_stale_socket_is_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "d" / "control.sock"))
    rundir = prepare(settings_for(tmp_path / "d"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "d" / "control.sock"))
    rundir.close()


def test_what_is_no_socket_is_left_alone_and_named(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "control.sock").write_text("mine")
    with pytest.raises(StoreFailed) as caught:
        prepare(settings_for(tmp_path / "d"))
    assert "control.sock" in caught.value.message
    assert (tmp_path / "d" / "control.sock").read_text() == "mine"


def test_a_failed_start_holds_nothing(tmp_path):
    fds = os.listdir("/proc/self/fd")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "control.sock").write_text("mine")
    with pytest.raises(StoreFailed):
        prepare(settings_for(tmp_path / "d"))
    assert os.listdir("/proc/self/fd") == fds
    (tmp_path / "d" / "control.sock").unlink()
    prepare(settings_for(tmp_path / "d")).close()


# -- trust ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() == 0, reason="/etc is root's")
def test_a_directory_of_another_user_is_refused():
    with pytest.raises(StoreFailed) as caught:
        checked(Path("/etc"))
    assert "belongs to uid" in caught.value.message


@pytest.mark.root
def test_a_fallback_directory_that_another_user_made_first_is_refused(tmp_path):
    """What /tmp/sandboxd-UID is open to: somebody else makes it, 0700 and all, and waits."""
    squatted = tmp_path / "sandboxd-0"
    squatted.mkdir(mode=0o700)
    os.chown(squatted, 65534, 65534)
    settings = msgspec.structs.replace(
        settings_for(tmp_path / "d"), runtime=str(squatted), control=str(squatted / "control.sock")
    )
    with pytest.raises(StoreFailed) as caught:
        prepare(settings)
    assert "belongs to uid 65534" in caught.value.message
    assert caught.value.hint
    assert os.listdir(squatted) == []
    prepare(settings_for(tmp_path / "d")).close()  # and the refusal held on to nothing


def test_a_directory_others_write_to_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)
    with pytest.raises(StoreFailed) as caught:
        prepare(settings_for(tmp_path / "d"))
    assert "others may write" in caught.value.message
    assert "SANDBOXD_DIR" in caught.value.hint
    assert mode(tmp_path / "d") == 0o777, "and it is not quietly taken over"


def test_a_directory_others_only_read_is_closed(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o755)
    prepare(settings_for(tmp_path / "d")).close()
    assert mode(tmp_path / "d") == 0o700


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_link_or_file_in_place_of_the_directory_is_refused(tmp_path, kind):
    path = tmp_path / "d"
    if kind == "file":
        path.write_text("")
    else:
        if kind == "link":
            (tmp_path / "target").mkdir()
        path.symlink_to(tmp_path / "target")
    with pytest.raises(StoreFailed) as caught:
        prepare(settings_for(path))
    assert str(path) in caught.value.message


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "d" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreFailed):
        prepare(settings_for(tmp_path / "d"))
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_chosen_socket_path_in_a_shared_sticky_directory_works(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    settings = settings_for(tmp_path / "d", SANDBOXD_SOCKET=str(shared / "mine.sock"))
    prepare(settings).close(unlink=True)
    assert mode(shared) == 0o1777
    shared.chmod(0o777)
    with pytest.raises(StoreFailed):
        prepare(settings)


def test_the_directory_of_a_shared_socket_is_open_to_all_and_never_closed_in_between(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    alone = settings_apart(tmp_path / "run", tmp_path / "s")
    shared = msgspec.structs.replace(alone, shared=True)
    prepare(alone).close()
    assert mode(alone.runtime_dir) == 0o700
    rundir = prepare(shared)
    assert (mode(shared.runtime_dir), mode(shared.socket), mode(shared.state_dir)) == (0o755, 0o666, 0o700)

    def never(*_: object) -> None:
        raise AssertionError("a mode changed")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", never)
        assert not rundir.renew(never)
        rundir.close()
        prepare(shared).close()
    prepare(alone).close()
    assert mode(alone.runtime_dir) == 0o700


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_parent_that_is_not_writable_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreFailed) as caught:
        prepare(settings_for(tmp_path / "closed" / "d"))
    assert str(tmp_path / "closed") in caught.value.message
    assert caught.value.hint


# -- env directories -----------------------------------------------------------------------------------------------------


def test_an_env_directory_has_its_parts_and_goes_whole(rundir):
    path = rundir.create_env_dir(ID)
    assert path == rundir.env_dir(ID)
    assert sorted(os.listdir(path)) == ["home", "logs"]
    assert {mode(path), mode(path / "home"), mode(path / "logs")} == {0o700}
    assert rundir.env_ids() == [ID]
    assert rundir.remove_env_dir(ID) == 3
    assert rundir.remove_env_dir(ID) == 0
    assert os.listdir(rundir.envs_dir) == []


def is_top(path: Path) -> bool:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(directory, GETFLAGS, flags)
        return bool(int.from_bytes(flags[:4], sys.byteorder) & TOPDIR)
    except OSError:
        return False
    finally:
        os.close(directory)


def test_env_directories_are_spread_where_the_file_system_can(tmp_path):
    (tmp_path / "other").mkdir()
    before = is_top(tmp_path / "other")
    directory = os.open(tmp_path / "other", os.O_RDONLY | os.O_DIRECTORY)
    spread(directory)
    os.close(directory)
    if before or not is_top(tmp_path / "other"):
        unmet("ext4", f"the file system of {tmp_path} keeps directories together, or apart, whatever is asked for")
    rundir = prepare(settings_for(tmp_path / "d"))
    path = rundir.create_env_dir(ID)
    assert is_top(rundir.envs_dir)
    assert not is_top(path)  # what is of one env stays together
    rundir.close()
    prepare(settings_for(tmp_path / "d")).close()  # it is so already


def test_a_file_system_that_cannot_spread_them_will_do():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        rundir = prepare(settings_for(Path(memory) / "d"))
        assert rundir.create_env_dir(ID).is_dir()
        rundir.close()


def test_an_env_directory_is_made_once(rundir):
    rundir.create_env_dir(ID)
    (rundir.env_dir(ID) / "home" / "x").write_text("")
    with pytest.raises(StoreFailed):
        rundir.create_env_dir(ID)
    assert (rundir.env_dir(ID) / "home" / "x").exists()


@pytest.mark.parametrize("name", ["..", "../x", "", "a" * 31, "A" * 32, ID + "\n"])
def test_only_ids_name_env_directories(rundir, name):
    with pytest.raises(NotFound):
        rundir.remove_env_dir(name)


def test_removal_takes_what_is_unwritable_deep_and_odd(rundir, tmp_path):
    home = rundir.create_env_dir(ID) / "home"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("keep")
    (home / "link").symlink_to(outside)
    (home / "nowhere").symlink_to("/does/not/exist")
    os.mkfifo(home / "fifo")
    here = os.open(home, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{here}/s")
    (home / "odd\nname\udcff").write_text("")
    (home / ".1").mkdir()
    (home / ".2").write_text("")
    for bits in (0o000, 0o100, 0o400, 0o500):
        closed = home / f"closed{bits}"
        (closed / "sub" / "sub").mkdir(parents=True)
        (closed / "file").write_text("")
        (closed / "sub").chmod(bits)
        closed.chmod(bits)
    for _ in range(3000):  # deeper than any path (4,096 bytes) or Python stack
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    fds = len(os.listdir("/proc/self/fd"))
    assert rundir.remove_env_dir(ID) > 3000
    assert os.listdir(rundir.envs_dir) == []
    assert (outside / "keep").read_text() == "keep"
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_removal_cut_short_is_ended_by_the_next_daemon(tmp_path):
    rundir = prepare(settings_for(tmp_path / "d"))
    path = rundir.create_env_dir(ID)
    (path / "home" / "x").write_text("")
    path.rename(path.with_name(".gone-" + ID))
    rundir.close()
    again = prepare(settings_for(tmp_path / "d"))
    assert os.listdir(again.envs_dir) == []
    again.close()


def test_an_interrupted_removal_does_not_stand_in_the_way_of_the_next(rundir):
    path = rundir.create_env_dir(ID)
    path.rename(path.with_name(".gone-" + ID))
    (path.with_name(".gone-" + ID) / "home" / "x").write_text("")
    rundir.create_env_dir(ID)
    rundir.remove_env_dir(ID)
    assert os.listdir(rundir.envs_dir) == []


def test_files_that_come_while_it_is_removed_go_too(rundir):
    home = rundir.create_env_dir(ID) / "home"
    for number in range(200):
        (home / f"d{number}").mkdir()
    handle = os.open(home, os.O_RDONLY)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            try:
                os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
            except OSError:
                return
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rundir.remove_env_dir(ID)
    except StoreFailed:  # it outran us: then what is left is swept later, and said so
        assert os.listdir(rundir.envs_dir) == [".gone-" + ID]
    else:
        assert os.listdir(rundir.envs_dir) == []
    finally:
        stop.set()
        writer.join()
        os.close(handle)


def test_the_class_is_what_prepare_gives(rundir):
    assert isinstance(rundir, RunDir)
