"""A reboot of the host, in order and then by a reset, with a system's daemon for every user and users' own.

What was to run runs again and answers, what was not says why, and nothing is left of what was. Each start of the guest runs the
test from its beginning: `host.boot` tells where it stands. Envs are asked for as their users, by the SDK, as each command would
take seconds here.
"""

import json
import os
import pwd
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandboxd.client import Client
from sandboxd.errors import DaemonUnreachable
from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Idle, Lifecycle, OnDemand, Replicas, Service, Workspace

VARIANTS = ("reboot",)
UNIT = "sandboxd.service"
CONFIG = Path("/etc/sandboxd/config.toml")
KEPT = Path("/var/lib/check-reboot.json")
STATE = Path("/var/lib/sandboxd")
SYSTEM = "/run/sandboxd/control.sock"
SHORT = 30.0  # seconds to live: less than a start of the guest takes
COMES_BACK = ("always", "retried", "lasting", "scaled")
PATIENCE = 300.0


def test_a_reboot_and_a_reset(host) -> None:
    if host.boot == 0:
        prepare(host)
        save(boot_id=boot_id(), envs=as_user("dev", make), eve=as_user("eve", make_one), own=as_user("dev", own))
        log_in_eve(host)
        load = subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE)
        assert load.stdout.readline() == b"200\n"
        host.reboot("systemctl", "reboot")
    kept = json.loads(KEPT.read_text())
    assert boot_id() != kept["boot_id"]
    host.until(lambda: host.show(UNIT, "ActiveState") == "active", "the daemon is ready")
    assert not host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "sandboxd*").stdout
    if host.boot == 1:
        ended = host.run("journalctl", "-b", "-1", "-o", "cat", "--no-pager").stdout
        assert "the host was shut down:" in ended, ended[-8000:]
        assert "Stopping timed out" not in ended, [line for line in ended.splitlines() if "timed out" in line]
        as_user("dev", lambda: look(kept, "stopped", "the host was shut down"))
        audit = host.sandbox("daemon", "audit").stdout
        assert '"Remove"' in audit or "Remove" in audit, "it remembers what was done before"
        refused = as_user("dev", over_quota)
        assert "quota" in refused, refused
    else:
        with sqlite3.connect(f"file:{STATE}/state.db?mode=ro", uri=True) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()
        as_user("dev", lambda: look(kept, "failed", "the host was restarted"))
    as_user("eve", lambda: ready(kept["eve"]))
    users_own(host, kept)
    nothing_stale(host)
    if host.boot == 1:
        save(**kept | {"boot_id": boot_id(), "envs": as_user("dev", start_again)})
        os.sync()
        as_user("dev", lambda: Client(Path(SYSTEM)).call(run_params("late", "sleep 1000000")))  # which the disk may not have
        host.reboot("sh", "-c", "echo b >/proc/sysrq-trigger")
    for user in ("dev", "eve"):
        left = as_user(user, end)
        assert not any(left.values()), left
    metrics = host.sandbox("metrics").stdout
    assert not [line for line in metrics.splitlines() if line.startswith("sandboxd_leaks_total") and not line.endswith(" 0.0")]
    CONFIG.unlink()
    host.sandbox("daemon", "stop", "--all")
    host.sandbox("daemon", "uninstall", "--system")


# -- what is there before ------------------------------------------------------------------------------------------------------


def prepare(host: Any) -> None:
    host.run("sh", "-c", "mkdir -p /var/log/journal && journalctl --flush")
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text("shared = true\n[quota]\nenvs = 13\n")
    host.sandbox("daemon", "install", "--system")
    host.systemctl("stop", "sandboxd.socket", UNIT)
    host.systemctl("enable", "--now", "sandboxd-router.socket", "sandboxd.socket")


def make() -> dict[str, str]:
    """An env of each kind, as dev; their ids."""
    client, ids = Client(Path(SYSTEM)), {}

    def run(name: str, command: str = "sleep 1000000", port: int | None = None, wait: str = "started", **parts: Any) -> None:
        ids[name] = client.call(run_params(name, command, port, wait, **parts)).env.id

    serve = "python3 -m http.server 8000"
    run("always", serve, 8000, "ready", lifecycle=Lifecycle(restart="always"))
    run("once")
    run("retried", lifecycle=Lifecycle(restart="on-failure"))
    run("stopped", lifecycle=Lifecycle(restart="always"))
    client.call(m.Stop(target="stopped", timeout=1.0))
    run("brief", lifecycle=Lifecycle(restart="always", ttl=SHORT))
    run("lasting", lifecycle=Lifecycle(restart="always", ttl=86400.0))
    run("paused")
    client.call(m.Suspend(target="paused"))
    run("idle", serve, 8000, "ready", lifecycle=Lifecycle(idle=Idle(suspend=1.0)))
    run("scaled", scale=Replicas(min=2, max=2))
    run("gone")
    client.call(m.Remove(target=ids.pop("gone"), force=True))
    spec = EnvSpec(
        services={"web": Service(command=serve, port=8000)},
        name="each",
        on_demand=OnDemand(key="host", create=True),
        workspace=place(),
    )
    client.call(m.Register(spec=spec, environ=environ()))
    ids["keyed"] = client.call(m.Ensure(template="each", key="one")).env.id
    wait_for(lambda: states(client)["idle"] == "suspended", "sleep")
    wait_for(lambda: states(client).get("scaled-2") == "ready", "the second replica")
    assert fetch("always") == fetch("one.each") == 200
    return ids


def run_params(name: str, command: str, port: int | None = None, wait: str = "started", **parts: Any) -> m.Run:
    spec = EnvSpec(services={"web": Service(command=command, port=port)}, name=name, workspace=place(), **parts)
    return m.Run(spec=spec, environ=environ(), wait=wait)


def place() -> Workspace:
    path = Path(os.environ["HOME"], "www")
    path.mkdir(exist_ok=True)
    return Workspace(path=str(path))


def environ() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]}


def make_one() -> str:
    """One of eve's that comes back, though she has no session then."""
    run = run_params("hers", "sleep 1000000", lifecycle=Lifecycle(restart="always"))
    return str(Client(Path(SYSTEM)).call(run).env.id)


def own() -> str:
    """The daemon of a user's own, installed, and an env in it."""
    config = Path(os.environ["HOME"], ".config/sandboxd/config.toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('listen = "127.0.0.1:0"\n')
    subprocess.run(["sandbox", "daemon", "install"], check=True, cwd="/")
    run = run_params("mine", "sleep 1000000", lifecycle=Lifecycle(restart="always"))
    return str(Client(Path(own_socket())).call(run).env.id)


def log_in_eve(host: Any) -> None:
    """A session of a user who does not linger, with a daemon of her own that is there with each login."""
    script = (
        "sandbox daemon install && sandbox run -d --restart always --name mine -- sleep 1000000 && touch ~/done; sleep 10000"
    )
    session = ["systemd-run", "--quiet", "--collect", "-p", "User=eve", "-p", "PAMName=login", "-p", "WorkingDirectory=~"]
    session += [f"--setenv=PYTHONPATH={os.environ['PYTHONPATH']}", "--setenv=SANDBOXD_LISTEN=127.0.0.1:0"]
    host.run(*session, "--setenv=XDG_SESSION_TYPE=tty", "--setenv=XDG_SESSION_CLASS=user", "--", "sh", "-c", script)
    host.until(Path("/home/eve/done").exists, "eve's own env")


LOAD = """
import urllib.request
request = urllib.request.Request("http://127.0.0.1/", headers={"Host": "always.dev.localhost"})
while True:
    with urllib.request.urlopen(request, timeout=300) as response:
        print(response.status, flush=True)
"""


# -- what is there after -------------------------------------------------------------------------------------------------------


def look(kept: Any, state: str, reason: str) -> None:
    """Each of dev's envs, after it."""
    client, ids = Client(Path(SYSTEM)), kept["envs"]
    seen = {name: ready(ids[name]) for name in COMES_BACK}
    assert fetch("always") == 200
    booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for name, info in seen.items():
        assert Path(f"/proc/{info.services[0].pid}").stat().st_ctime >= booted, name
    wait_for(lambda: states(client).get("scaled-2") == "ready", "the second replica")
    found = {name: client.call(m.Inspect(target=ids[name])).env for name in ids}
    assert (found["once"].state, found["paused"].state) == (state, state), found
    for name in ("once", "paused"):
        assert reason in found[name].reason, found[name]
        assert reason in " ".join(answer.text for answer in client.call(m.Why(target=ids[name])).answers)
    assert found["stopped"].state == "stopped"
    assert "host" not in found["stopped"].reason
    assert "time to live" in found["brief"].reason, found["brief"]
    # what sleeps is woken by who asks for it, and is the very env
    assert (found["idle"].state, found["keyed"].state) == ("stopped", "stopped"), found
    assert fetch("idle") == fetch("one.each") == 200
    assert client.call(m.Inspect(target=ids["keyed"])).env.state == "ready"
    assert [template.name for template in client.call(m.Templates()).templates] == ["each"]


def ready(env_id: str, socket: str = "") -> Any:
    """The env, which comes to be ready."""
    return Client(Path(socket or SYSTEM), autostart=False).call(m.Wait(target=env_id, until="ready", timeout=PATIENCE)).env


def states(client: Any) -> dict[str, str]:
    """Of all of them, by name."""
    return {row.name: row.state for row in client.call(m.List(all=True)).envs}


def start_again() -> dict[str, str]:
    """As it was before the first; and what lives briefly has its time again."""
    client, ids = Client(Path(SYSTEM)), json.loads(KEPT.read_text())["envs"]
    for name in ("once", "paused", "brief"):
        client.call(m.Start(target=ids[name]))
    client.call(m.Suspend(target=ids["paused"]))
    wait_for(lambda: states(client)["idle"] == "suspended", "sleep")
    return dict(ids)


def over_quota() -> str:
    """What the daemon says of too many."""
    try:
        for number in range(9):
            Client(Path(SYSTEM)).call(run_params(f"more-{number}", "sleep 1000", wait="created"))
    except Exception as error:
        return str(error)
    finally:
        for number in range(9):
            try:
                Client(Path(SYSTEM)).call(m.Remove(target=f"more-{number}", force=True))
            except Exception:
                break
    return ""


def users_own(host: Any, kept: Any) -> None:
    """Dev lingers, so his own daemon is there, with his env; of eve, who does not, there is nothing until she logs in."""

    def back() -> bool:
        try:
            return bool(ready(kept["own"], own_socket()).state == "ready")
        except (DaemonUnreachable, OSError):
            return False

    host.until(lambda: as_user("dev", back), "dev's own daemon")
    assert not Path(f"/run/user/{pwd.getpwnam('eve').pw_uid}").exists()
    names = host.run("ps", "-u", "eve", "-o", "args=", check=False).stdout
    assert "sandboxd -" not in names.replace("-m sandboxd", "sandboxd -"), names


def nothing_stale(host: Any) -> None:
    """No directory, group, socket or mount but of envs that are there, or are kept ready to be."""
    known = {row.id for row in Client(Path(SYSTEM)).call(m.List(all=True)).envs}
    envs = {path.name for path in (STATE / "envs").iterdir() if not path.name.startswith(".")}
    assert {name for name in envs - known if (STATE / "envs" / name / "exits").exists()} == set()
    alive = [row for row in Client(Path(SYSTEM)).call(m.List()).envs if row.pid]
    assert alive
    scopes = host.systemctl("list-units", "--plain", "--no-legend", "sandboxd-envs-*.scope").splitlines()
    assert len(scopes) == 1, scopes
    for row in alive:
        assert scopes[0].split()[0] in host.cgroup(row.pid), row
    mounts = Path("/proc/self/mounts").read_text()
    assert str(STATE) not in mounts, mounts


def end() -> dict[str, Any]:
    """Remove all of one's own; what was left of it, by name."""
    client, left = Client(Path(SYSTEM)), {}
    for template in client.call(m.Templates()).templates:
        client.call(m.Unregister(name=template.name, force=True))
    for row in client.call(m.List(all=True)).envs:
        if not row.name.startswith("scaled-"):
            left[row.name] = client.call(m.Remove(target=row.id, force=True)).receipt.leaked
    return left


# -- how ---------------------------------------------------------------------------------------------------------------------


def as_user(name: str, work: Callable[[], Any]) -> Any:
    """What a function gives that runs as that user, in a process of its own."""
    user, (read, write) = pwd.getpwnam(name), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            os.initgroups(name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.environ.update(HOME=user.pw_dir, USER=name, LOGNAME=name, XDG_RUNTIME_DIR=f"/run/user/{user.pw_uid}")
            os.chdir("/")
            answer: dict[str, Any] = {"found": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        with open(write, "w") as out:
            json.dump(answer, out, default=str)
        os._exit(0)
    os.close(write)
    with open(read) as given:
        answer = json.load(given)
    os.waitpid(pid, 0)
    assert "error" not in answer, f"as {name}: {answer['error']}"
    return answer["found"]


def own_socket() -> str:
    return f"{os.environ['XDG_RUNTIME_DIR']}/sandboxd/control.sock"


def fetch(name: str) -> int:
    """The status of a request to port 80, as curl has it."""
    url = f"http://{name}.dev.localhost/"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "300", "--resolve", "*:80:127.0.0.1", url]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def wait_for(holds: Callable[[], Any], what: str) -> None:
    """Wait for what nothing tells us of."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.5)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def save(**facts: Any) -> None:
    """What the next start of the guest is to know."""
    KEPT.write_text(json.dumps(facts))
