"""What somebody outside obeys, in a workspace that the env can write: guarded where it can be, told where it cannot."""

from pathlib import Path

import pytest

from tests.daemons import Daemon


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository without hooks."""
    for name in ("shop/.git/config", "shop/.git/HEAD", "shop/main.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("[core]\n")
    return tmp_path / "shop"


def told(daemon: Daemon, name: str) -> list[str]:
    """The files that `why` says are open."""
    (found,) = daemon.json("why", name)
    return sorted(answer["text"].split(" ")[0] for answer in found["answers"] if answer["topic"] == "guard")


def test_a_hook_cannot_be_made_where_there_were_none(shared_daemon: Daemon, shop: Path) -> None:
    attack = "touch .git/hooks/pre-commit || mkdir .git/hooks || mv .git/hooks .git/x || rmdir .git/hooks"
    run = ("run", "--rm", "--name", "hooks", "--", "sh", "-c")
    done = shared_daemon.sandbox(*run, f"({attack}); touch .git/index", cwd=shop)
    assert "Read-only file system" in done.stderr
    assert (shop / ".git/index").exists(), "the neighbour: git works in the rest of .git"
    assert not list((shop / ".git/hooks").iterdir())


def test_what_could_not_be_guarded_is_told(shared_daemon: Daemon, shop: Path) -> None:
    shared_daemon.sandbox("run", "-d", "--name", "open", "--", "sleep", "600", cwd=shop)
    try:
        assert told(shared_daemon, "open") == []
        shared_daemon.sandbox("exec", "open", "--", "sh", "-c", "echo ../../evil/.git > .git/commondir; touch .envrc", cwd=shop)
        assert told(shared_daemon, "open") == [str(shop / ".envrc"), str(shop / ".git/commondir")]
        shared_daemon.sandbox("stop", "open")
        found = [event["detail"] for event in shared_daemon.json("events") if event["event"] == "unguarded"]
        assert sorted(detail["path"] for detail in found) == [str(shop / ".envrc"), str(shop / ".git/commondir")]
        assert told(shared_daemon, "open") == [str(shop / ".envrc"), str(shop / ".git/commondir")], "of an ended env, too"
        shared_daemon.sandbox("start", "open")
        assert told(shared_daemon, "open") == [], "what is there at the start is guarded"
        done = shared_daemon.sandbox("exec", "open", "--", "sh", "-c", "echo x > .git/commondir", cwd=shop, check=False)
        assert done.returncode != 0
    finally:
        shared_daemon.sandbox("rm", "-f", "open")


def test_a_file_replaced_on_the_host_sheds_its_guard_and_that_is_told(shared_daemon: Daemon, shop: Path) -> None:
    """As git itself writes its config: a new file renamed over the old one, and the kernel detaches what is mounted there."""
    shared_daemon.sandbox("run", "-d", "--name", "shed", "--", "sleep", "600", cwd=shop)
    write = ("exec", "shed", "--", "sh", "-c", "echo x >> .git/config")
    try:
        assert shared_daemon.sandbox(*write, cwd=shop, check=False).returncode != 0
        (shop / ".git/config.lock").write_text("[core]\n\tmine = 1\n")
        (shop / ".git/config.lock").rename(shop / ".git/config")
        assert told(shared_daemon, "shed") == [str(shop / ".git/config")]
        assert shared_daemon.sandbox(*write, cwd=shop, check=False).returncode == 0, "it really is open"
        shared_daemon.sandbox("restart", "shed")
        assert told(shared_daemon, "shed") == []
        assert shared_daemon.sandbox(*write, cwd=shop, check=False).returncode != 0
    finally:
        shared_daemon.sandbox("rm", "-f", "shed")
