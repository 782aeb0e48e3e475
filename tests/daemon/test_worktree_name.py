"""`up` in linked git worktrees: each is reached at BRANCH.PROJECT.localhost, with no name configured."""

import subprocess
from pathlib import Path
from typing import Any

from tests.daemons import Daemon

SPEC = """
[services.web]
command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"]
port = 3000
"""


def test_each_worktree_has_its_own_host_name(shared_daemon: Daemon, tmp_path: Path, require: Any) -> None:
    require("git")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "sandbox.toml").write_text(SPEC)

    def git(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=shop, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    git("worktree", "add", "-q", "-b", "fix/ui", "../side")
    try:
        assert shared_daemon.sandbox("up", cwd=shop).stdout.split()[0] == "shop"
        done = shared_daemon.sandbox("up", cwd=tmp_path / "side")
        assert done.stdout.split()[0] == "fix-ui.shop"
        assert f"http://fix-ui.shop.localhost:{shared_daemon.port}" in done.stdout
        assert shared_daemon.request("fix-ui.shop")[0] == 200
        assert shared_daemon.request("web.fix-ui.shop")[0] == 200
        assert shared_daemon.request("shop")[0] == 200
        assert shared_daemon.sandbox("exec", "fix-ui.shop", "--", "hostname").stdout == "fix-ui.shop\n"
        taken = shared_daemon.sandbox("run", "-d", "--name", "web.shop", "--", "sleep", "9", cwd=shop, check=False)
        assert taken.returncode == 125
        assert "share a host name" in taken.stderr
    finally:
        shared_daemon.sandbox("down", cwd=tmp_path / "side")
        shared_daemon.sandbox("down", cwd=shop)
