"""Fixtures of the checks that run in the guest, as the user of its session: nothing here is shared with the host's tests."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

PATIENCE = 400  # seconds: the guest is emulated, a unit has 180 to start, and more as long as it goes on


class Host:
    """The guest as its user finds it."""

    state = Path("/var/lib/sandboxd") if os.geteuid() == 0 else Path.home() / ".local/state/sandboxd"
    socket = "/run/sandboxd/control.sock" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}/sandboxd/control.sock"

    boot = int(os.environ.get("VM_BOOT", "0"))  # how often the guest was started anew while it runs the checks

    def reboot(self, *argv: str) -> NoReturn:
        """Leave by a command that starts the guest anew; then the check is run again, with the next number of `boot`."""
        with open("/var/lib/vm-agent/reboot", "wb") as asked:
            os.fsync(asked.fileno())
        os.sync()
        subprocess.run(argv, check=True)
        time.sleep(PATIENCE)
        raise AssertionError(f"{argv} did not start the guest anew")

    def run(self, *argv: str, check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """A command's result; with check, a failure shows what it said."""
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False, **kw
        )
        if check:
            assert done.returncode == 0, f"{argv} left with {done.returncode}\n{done.stdout}{done.stderr}{self.log()}"
        return done

    def sandbox(self, *argv: str, check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """`sandbox ARGS`."""
        return self.run("sandbox", *argv, check=check, **kw)

    def json(self, *argv: str) -> Any:
        """What `sandbox ARGS --format json` prints, its first object."""
        return json.loads(self.sandbox(*argv, "--format", "json").stdout.splitlines()[0])

    def inspect(self, env: str) -> Any:
        """One env."""
        return json.loads(self.sandbox("inspect", env).stdout)[0]

    def log(self) -> str:
        """The tail of the daemon's logs, and what the manager has of its unit: a start that fails writes no file."""
        whose = [] if os.geteuid() == 0 else ["--user"]
        unit = ["journalctl", *whose, "-u", "sandboxd.service", "-n", "40", "-o", "short-monotonic", "--no-pager"]
        said = subprocess.run(unit, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout
        texts = {"journal": said} | {p.name: p.read_text(errors="replace") for p in sorted(self.state.glob("*.log"))}
        return "".join(f"\n--- {name}\n{text[-3000:]}" for name, text in texts.items())

    def cgroup(self, pid: int) -> str:
        """The path of a process's cgroup below /sys/fs/cgroup."""
        return Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2]

    def systemctl(self, *argv: str, check: bool = True) -> str:
        """`systemctl` of this user's own manager."""
        manager = [] if os.geteuid() == 0 else ["--user"]
        return self.run("systemctl", *manager, *argv, check=check).stdout.strip()

    def place(self) -> str:
        """A directory to work in; root's envs run as somebody who cannot enter /root."""
        place = Path("/srv/www") if os.geteuid() == 0 else Path.home() / "www"
        place.mkdir(exist_ok=True)
        return str(place)

    def serve(self, name: str) -> Any:
        """A web server in an env of that name, ready; its inspect object."""
        server = ["python3", "-m", "http.server", "8000"]
        self.sandbox("run", "-d", "--wait", "--name", name, "-p", "8000", "-w", self.place(), "--", *server)
        return self.inspect(name)

    def fetch(self, name: str, port: int = 7070) -> int:
        """The status of one request through the router."""
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": f"{name}.localhost:{port}"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return int(response.status)
        except OSError as error:
            raise AssertionError(f"{name} at {port}: {error}{self.log()}") from None

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "-p", key, "--value", unit)

    def units(self) -> list[str]:
        """Our services and scopes that are active."""
        patterns = ["sandboxd*.service", "sandboxd*.scope"]
        lines = self.systemctl("list-units", "--plain", "--no-legend", "--state=active", *patterns).splitlines()
        return [line.split()[0] for line in lines]

    def exposure(self, unit: str) -> float:
        """systemd's own judgement of a unit: 0 to 10, the worst."""
        whose = [] if os.geteuid() == 0 else ["--user"]
        lines = self.run("systemd-analyze", *whose, "--no-pager", "security", unit).stdout.splitlines()
        (line,) = (line for line in lines if "Overall exposure level" in line)
        return float(line.partition(":")[2].split()[0])

    def answers(self) -> bool:
        """Whether a daemon runs: to ask `sandbox` would start one."""
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.socket) == 0

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait for what nothing tells us of."""
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}{self.log()}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="session")
def _warm() -> None:
    """What a daemon is made of, read once: an emulated guest on a busy machine takes half a minute for it."""
    code = "import sandboxd.daemon.main, sandboxd.router.worker, sandboxd.launch.launcher"
    subprocess.run(["python3", "-c", code], check=True)


@pytest.fixture
def host(_warm: None) -> Iterator[Host]:
    """The guest, with nothing of ours left running at the end."""
    host = Host()
    yield host
    envs = host.state / "envs"
    if envs.exists() and any(envs.iterdir()):
        host.sandbox("rm", "-f", "all", "--yes")
    if host.answers():
        host.sandbox("daemon", "stop", "--all")
