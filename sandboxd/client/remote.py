"""A connection to the daemon of a box, over the user's own ssh: its config, keys, agent and known hosts hold.

`ssh BOX sandbox daemon dial-stdio`, as docker does it: no path and no port of the box need be known, and the daemon there sees
the user that sshd let in. Each connection is an ssh of its own; ControlMaster in ssh_config makes them cheap. The far side says
HELLO once it has the daemon: what comes before it is a shell's noise.
"""

import os
import shlex
import socket
import subprocess
from collections.abc import Mapping

from sandboxd.client.hosts import Remote
from sandboxd.errors import DaemonUnreachable

HELLO = b"sandboxd dial-stdio 1\n"
NOISE = 64 << 10
ENDED = {127: "there is no `sandbox` on its PATH", 255: "ssh failed, and has said why"}


class Line(socket.socket):
    """Our end of it; ssh ends with it."""

    child: "subprocess.Popen[bytes] | None" = None

    def close(self) -> None:
        """Hang up."""
        super().close()
        child, self.child = self.child, None
        if child is not None:
            child.terminate()
            child.wait()


def ssh_to(remote: Remote, environ: Mapping[str, str], *flags: str) -> list[str]:
    """The command that reaches a box. SANDBOX_SSH: another ssh, or one with flags, as GIT_SSH_COMMAND."""
    command = [*shlex.split(environ.get("SANDBOX_SSH") or "ssh"), *flags]
    command += ["-l", remote.user] if remote.user else []
    command += ["-p", remote.port] if remote.port else []
    return [*command, "--", remote.name.strip("[]")]


def dial(remote: Remote, environ: Mapping[str, str]) -> socket.socket:
    """A connected socket; raises DaemonUnreachable, and ssh's own words are on stderr."""
    far = ["sandbox", *(["--host", f"unix://{remote.path}"] if remote.path else []), "daemon", "dial-stdio"]
    command = [*ssh_to(remote, environ, "-T", "-o", "ConnectTimeout=30"), shlex.join(far)]
    ours, theirs = socket.socketpair()
    line = Line(fileno=ours.detach())
    try:
        with theirs:
            # A session of its own: ctrl-C is for the command that runs there, and not for ssh.
            line.child = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True, env=dict(environ)
            )
        greet(line, remote)
    except OSError as error:
        line.close()
        raise DaemonUnreachable(f"cannot run {command[0]}: {error.strerror}", hint="install an ssh client") from error
    except BaseException:
        line.close()
        raise
    return line


def greet(line: Line, remote: Remote) -> None:
    """Wait for HELLO."""
    heard = b""
    while not heard.endswith(HELLO):
        data = line.recv(4096)
        heard += data
        if len(heard) > NOISE:
            raise DaemonUnreachable(f"{remote} says {NOISE} bytes before any daemon does", hint="is its shell's profile noisy?")
        if not data:
            code = line.child.wait() if line.child is not None else 0
            why = ENDED.get(code, f"`sandbox daemon dial-stdio` ended there with code {code}")
            raise DaemonUnreachable(
                f"no daemon answers at {remote}: {why}", hint=f"try: {' '.join(ssh_to(remote, os.environ))}"
            )
