"""A box over ssh: a real sshd on loopback with keys, port and config of its own, and a real daemon behind it.

So of sandboxd.client.remote, sandboxd.client.inband, sandboxd.cli.stdio and sandboxd.cli.forward.
"""

import getpass
import http.client
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.client import Client
from sandboxd.client.remote import HELLO
from sandboxd.errors import DaemonUnreachable
from tests.daemons import PATIENCE, Daemon, cli
from tests.require import require

SERVE = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"]


class Box:
    """An sshd that lets this user in, and how to reach the daemon behind it."""

    def __init__(self, directory: Path, daemon: Daemon) -> None:
        self.daemon = daemon
        self.dir = directory
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        (directory / "authorized").write_text((directory / "user.pub").read_text())
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        (directory / "sshd_config").write_text(
            f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH={path} PYTHONPATH={os.getcwd()}\n"
        )
        # sshd in inetd mode on a pair of sockets: no port to be taken by others meanwhile, and it ends with its connection.
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        proxy = directory / "proxy"
        proxy.write_text(f"#!/bin/sh\nexec {sshd} -i -e -f {directory}/sshd_config 2>>{directory}/sshd.log\n")
        proxy.chmod(0o700)
        (directory / "ssh_config").write_text(
            f"Host *\nIdentityFile {directory}/user\nIdentitiesOnly yes\nUserKnownHostsFile {directory}/known\nBatchMode yes\n"
            f"StrictHostKeyChecking accept-new\nLogLevel ERROR\nProxyCommand {proxy}\nProxyUseFdpass no\n"
        )
        self.host = f"ssh://{getpass.getuser()}@box{daemon.dir}/control.sock"
        self.environ = {
            **{key: value for key, value in daemon.environ.items() if not key.startswith("SANDBOXD_")},
            "SANDBOX_SSH": f"ssh -F {directory}/ssh_config",
            "XDG_CONFIG_HOME": str(directory / "config"),
        }

    def sandbox(self, *words: str, check: bool = True, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `sandbox` as on a laptop."""
        done = subprocess.run(
            [cli(), *words], env={**self.environ, **environ}, cwd=self.dir, input=stdin, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        log = self.dir / "sshd.log"
        said = log.read_text() if log.exists() else ""
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}{said}"
        return done


@pytest.fixture
def box(tmp_path: Path, daemon: Daemon) -> Box:
    require("sshd", "ssh")
    return Box(tmp_path, daemon)


def test_every_word_goes_over_ssh(box: Box) -> None:
    done = box.sandbox("--host", box.host, "run", "-d", "--name", "far", "--", "sleep", "1000")
    assert len(done.stdout.strip()) == 32
    assert "far" in box.sandbox("ps", SANDBOX_HOST=box.host).stdout
    assert [row["name"] for row in box.daemon.json("ps")] == ["far"]  # it is that daemon
    found = box.sandbox(
        "-H", box.host, "exec", "-i", "far", "--", "sh", "-c", "cat; echo wrong >&2; exit 7", stdin="in\n" * 50000, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (7, "in\n" * 50000, "wrong\n")
    attached = box.sandbox("-H", box.host, "run", "--rm", "--", "sh", "-c", "echo hello; pwd; exit 3", check=False)
    assert attached.returncode == 3, attached.stderr
    assert attached.stdout.startswith("hello\n")
    assert str(box.dir) not in attached.stdout  # this machine's directory is not the box's
    box.sandbox("-H", box.host, "rm", "-f", "far")


def test_the_sdk_has_sessions_over_ssh(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_SSH", box.environ["SANDBOX_SSH"])
    with Client(host=box.host) as client, client.run(["sleep", "1000"]) as env:
        done = env.exec(["sh", "-c", "head -c 1000000 /dev/zero; cat"], input=b"x" * 100000)
        assert (done.exit_code, len(done.stdout)) == (0, 1100000)


def test_a_context_is_a_box_by_name(box: Box) -> None:
    assert box.sandbox("context", "create", "team", "--host", box.host, "--description", "ours").stdout == "team\n"
    assert box.sandbox("context", "show").stdout == "default\n"
    box.sandbox("context", "use", "team")
    assert "team *" in box.sandbox("context", "ls").stdout
    status = box.sandbox("daemon", "status").stdout
    assert str(box.daemon.dir) in status
    assert str(box.daemon.dir) in box.sandbox("-c", "team", "daemon", "status", SANDBOX_HOST="ssh://nobody@nowhere").stdout
    wrong = box.sandbox("-c", "other", "ps", check=False)
    assert "there is no context 'other'" in wrong.stderr
    assert "team" in wrong.stderr
    up = box.sandbox("up", check=False)
    assert "the project's directory is here" in up.stderr
    box.sandbox("context", "rm", "team")
    assert box.sandbox("context", "show").stdout == "default\n"


def test_what_does_not_answer_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = box.sandbox("--host", f"ssh://{getpass.getuser()}@box/nowhere/control.sock", "ps", check=False)
    assert nobody.returncode != 0
    assert "no daemon answers" in nobody.stderr
    (box.dir / "authorized").write_text("")
    refused = box.sandbox("--host", box.host, "ps", check=False)
    assert "ssh failed" in refused.stderr
    assert "Permission denied" in refused.stderr
    monkeypatch.setenv("SANDBOX_SSH", "/no/such/ssh")
    with pytest.raises(DaemonUnreachable, match="cannot run /no/such/ssh"):
        Client(host=box.host).list()


def test_an_env_of_the_box_is_reached_from_here(box: Box) -> None:
    site = box.dir / "site"
    site.mkdir()
    box.daemon.sandbox("run", "-d", "--wait", "--name", "web", "-p", "3000", "--", *SERVE, cwd=site)
    argv = [cli(), "-H", box.host, "forward", "web"]
    with subprocess.Popen(argv, env=box.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        assert select.select([forward.stdout], [], [], PATIENCE)[0]
        url = forward.stdout.readline().strip()
        assert url.startswith("http://web.localhost:")
        port = int(url.rpartition(":")[2])
        assert port != box.daemon.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/", headers={"Host": f"web.localhost:{port}"})
        assert connection.getresponse().status == 200
        connection.close()
        forward.send_signal(signal.SIGINT)
        assert forward.wait(PATIENCE) == 0
    box.daemon.sandbox("rm", "-f", "web")


def test_dial_stdio_ends_with_either_side(daemon: Daemon) -> None:
    with subprocess.Popen(
        [cli(), "daemon", "dial-stdio"], env=daemon.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as far:
        assert far.stdin is not None
        assert far.stdout is not None
        assert far.stdout.readline() == HELLO
        far.stdin.write(b'{"method":"io.sandboxd.Control.List"}\0')
        far.stdin.flush()
        assert b'"envs":[]' in os.read(far.stdout.fileno(), 65536)
        far.stdin.close()
        assert far.wait(PATIENCE) == 0
