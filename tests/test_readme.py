"""What the README shows is what happens: every command in it is run, every line of output compared.

In a ```console block, lines that begin with `$ ` are run one after another in one shell, in a copy of the checkout, and what
stands below each is what it must print: any number stands for any number, any id for any id, `…` for anything. `toml` blocks
must parse, `python` blocks must run, and the diagram must be the state machine's own.
"""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import click
import pytest

from sandboxd.cli.verbs import app
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord
from sandboxd.settings import Settings
from sandboxd.spec import EnvSpec, Lifecycle, Service
from tests.daemons import ROOT, Daemon, Keeper, cli
from tests.require import require, unmet

README = (ROOT / "README.md").read_text()
# Flags in the README that are other programs': http.server, ruff, pytest, the benches, redis-server, podman, mypy, curl.
OTHERS = {
    "--bind", "--cgroup-manager", "--cgroups", "--check", "--dist", "--json", "--map-group", "--map-user", "--runtime",
    "--save", "--security-opt", "--storage-driver", "--strict", "--unix-socket",
}  # fmt: skip
MARK = "@@ end of command @@"


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def marked(mark: str) -> str:
    """The one command below a mark."""
    (command,) = re.findall(rf"<!-- {mark} -->\n\n    (.+)\n", README)
    return str(command)


# What a piece of a line in the README stands for; the first that fits.
PIECES = {
    r"[0-9a-f]{32}": r"[0-9a-f]{32}",
    r"\b[0-9a-f]{12}\b": r"[0-9a-f]{12}",
    r"\d+ seconds": r"(?:\d+ seconds?|Less than a second|About a minute)",
    r"\d+(?:\.\d+)?": r"\d+(?:\.\d+)?",
    r"…": r".+?",
    r"\s+": r"\s+",
}


def pattern(expected: str) -> re.Pattern[str]:
    """What a line of the README stands for."""
    made = ""
    for piece in re.findall("|".join([*PIECES, r"."]), expected.strip()):
        known = [meaning for shape, meaning in PIECES.items() if re.fullmatch(shape, piece)]
        made += known[0] if known else re.escape(piece)
    return re.compile(made + r"\s*")


def test_a_pattern_knows_numbers_ids_and_gaps() -> None:
    line = "3f9c1f5be2b0   site   Up 2 seconds   8000/tcp …"
    assert pattern(line).fullmatch("aaaaaaaaaaaa site Up 14 seconds 3000/tcp whatever")
    assert not pattern(line).fullmatch("aaaaaaaaaaaa other Up 14 seconds 3000/tcp whatever")
    assert not pattern(line).fullmatch("aaaa site Up 14 seconds 3000/tcp whatever")
    assert pattern("ready in 0.19 s").fullmatch("ready in 12 s")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the README talks about."""
    for name in ("examples", "sandboxd", "systemd", "README.md", "LICENSE", "pyproject.toml"):
        source = ROOT / name
        ignored = shutil.ignore_patterns(".venv", "node_modules", ".vite", "__pycache__")
        if source.is_dir():
            shutil.copytree(source, tmp_path / "checkout" / name, ignore=ignored)
        else:
            (tmp_path / "checkout").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


def test_every_command_does_what_is_shown(daemon: Daemon, checkout: Path) -> None:
    require("curl", "ps")
    for block in blocks("console"):
        steps = re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
        assert steps
        script = "".join(f"( exit $code )\n{command}\ncode=$?\necho '{MARK}'\n" for command, _ in steps)
        script = "code=0\n" + script.replace(":7070", f":{daemon.port}")
        done = daemon.keeper.run(["bash", "-c", script], daemon.environ, cwd=checkout, timeout=180)
        outputs = done.stdout.split(MARK + "\n")
        assert len(outputs) == len(steps) + 1, done.stdout + done.stderr
        for (command, expected), printed in zip(steps, outputs, strict=False):
            wanted, got = expected.splitlines(), [line for line in printed.splitlines() if line.strip()]
            said = f"$ {command}\n{printed}\nstderr of its block:\n{done.stderr}\n{daemon.log()}"
            if not got and wanted:  # what is for people goes to stderr
                got = [line for line in done.stderr.splitlines() if any(pattern(one).fullmatch(line.strip()) for one in wanted)]
            assert len(got) == len(wanted), said
            for one, line in zip(wanted, got, strict=True):
                assert pattern(one).fullmatch(line.strip()), f"{line!r} is not as shown: {one!r}\n{said}"


@pytest.mark.slow
def test_the_first_command_runs_the_main_job(checkout: Path) -> None:
    require("userns", "unprivileged", "curl")
    daemon = Daemon()
    try:
        environ = daemon.environ | {"SANDBOXD_LISTEN": "127.0.0.1:0", "PATH": os.environ["PATH"]}
        del environ["PYTHONPATH"]  # what pip installed must do alone
        install, up, fetch = re.fullmatch(r"(.+ \. )&& (.+) && (curl .+)", marked("the main job")).groups()  # type: ignore[union-attr]
        done = daemon.keeper.run(["bash", "-c", install.strip()], environ, cwd=checkout, timeout=600)
        if done.returncode:
            unmet("pypi", done.stderr[-600:])
        done = daemon.keeper.run(["bash", "-c", up], environ, cwd=checkout)
        assert done.returncode == 0, done.stderr + daemon.log()
        daemon.find_port()
        done = daemon.keeper.run(["bash", "-c", fetch.replace(":7070", f":{daemon.port}")], environ, cwd=checkout)
        assert done.returncode == 0, done.stderr + daemon.log()
        assert done.stdout.startswith("Hello from hello.\n")
    finally:
        daemon.close()


def test_ci_runs_the_second_command() -> None:
    assert "<!-- the tests -->" in (ROOT / ".ci/run").read_text()
    assert marked("the tests").endswith(" && .venv/bin/pytest -n 2 --dist loadfile")


def test_toml_is_a_spec() -> None:
    from sandboxd.specfile import parse_spec

    (block,) = blocks("toml")
    assert tomllib.loads(block)
    spec = parse_spec(block.encode(), file="README.md", default_name=None)
    assert isinstance(spec, EnvSpec)
    assert spec.services["web"].depends_on == ["db"]


def test_python_runs(daemon: Daemon, tmp_path: Path) -> None:
    for block in blocks("python"):
        done = daemon.keeper.run([sys.executable, "-c", block], daemon.environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr + daemon.log()
        assert done.stdout.splitlines()[0] == f"http://docs.localhost:{daemon.port}"
        assert "docs" in done.stdout.splitlines()[1]


def edges() -> set[tuple[str, str]]:
    """Every change of state that the machine can make, found by driving it with all that can happen in each situation."""
    init = Identity(pid=2, start_time=1, boot_id="b")
    shapes = [
        EnvSpec(services={"a": Service(command=["x"])}),
        EnvSpec(services={"a": Service(command=["x"], port=80), "b": Service(command=["x"], depends_on=["a"])}),
        EnvSpec(services={"a": Service(command=["x"])}, lifecycle=Lifecycle(remove=True)),
        EnvSpec(services={"a": Service(command=["x"])}, lifecycle=Lifecycle(restart="always")),
    ]
    found, seen = set(), set()
    waiting = []
    for spec in shapes:
        services = {name: ServiceRecord(name=name) for name in spec.services}
        record = EnvRecord(id="i", name="n", owner=1, group=1, spec=spec, services=services, created=0.0)
        waiting.append(record)
        found.add(("[*]", record.state.value))
    while waiting:
        record = waiting.pop()
        key = (id(record.spec), record.state, record.wanted, record.again, record.cause, record.init is None,
               tuple((one.state, min(one.failures, 2)) for one in record.services.values()))  # fmt: skip
        if key in seen:
            continue
        seen.add(key)
        for event in possible(record, init):
            after, _ = step(record, event, 1.0)
            if after.state != record.state:
                found.add((record.state.value, after.state.value))
            waiting.append(after)
    return found | {("removed", "[*]")}


def possible(record: EnvRecord, init: Identity) -> list[ev.Event]:
    """What can happen now: nothing of a service or an init that is not there."""
    happen: list[ev.Event] = [ev.StopAsked(), ev.StopAsked(again=True), ev.KillAsked(), ev.KillAsked(cause="memory"),
                              ev.StartAsked(), ev.RemoveAsked(), ev.Adopted(), ev.GraceOver(), ev.Admitted(),
                              ev.SuspendAsked(), ev.ResumeAsked()]  # fmt: skip
    if record.init is None and record.state in ("queued", "starting", "stopping"):
        happen += [ev.Launched(init=init, walls={}), ev.LaunchFailed(error=("LaunchFailed", "m", "h"))]
    for name, service in record.services.items() if record.init else ():
        happen += [ev.RestartDue(service=name), ev.ServiceStarted(service=name, pid=9), ev.ServiceReady(service=name),
                   ev.ServiceRefused(service=name, error=("CommandNotFound", "m", "h"))]  # fmt: skip
        happen += [ev.ServiceExited(service=name, pid=service.pid, exit_code=code) for code in (0, 1) if service.pid]
    return [*happen, ev.InitGone()] if record.init else happen


def test_the_diagram_is_the_machine() -> None:
    (block,) = blocks("mermaid")
    drawn = set(re.findall(r"^ +(\S+) --> (\S+)$", block, re.MULTILINE))
    assert drawn == edges()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_help_knows_every_verb_shown(tmp_path: Path) -> None:
    """Verbs in the text, also those that no block runs."""
    keeper = Keeper()
    try:
        for verb in sorted(set(re.findall(r"`sandbox ([a-z]+)", README))):
            environ = os.environ | {"SANDBOXD_DIR": str(tmp_path)}
            done = keeper.run([cli(), verb, "--help"], environ, cwd=tmp_path)
            assert done.returncode == 0, f"sandbox {verb}: {done.stderr}"
    finally:
        keeper.close()


def test_every_flag_and_variable_shown_is_one_of_ours() -> None:
    commands: list[click.Command] = [app]
    flags = set()
    for command in commands:  # grows meanwhile
        flags |= {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        if isinstance(command, click.Group):
            found = [
                command.get_command(click.Context(command), name) for name in command.list_commands(click.Context(command))
            ]
            commands += [one for one in found if one is not None]
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", README)) - flags == OTHERS
    source = "".join(path.read_text() for path in (ROOT / "sandboxd").rglob("*.py"))
    for name in set(re.findall(r"SANDBOXD?_[A-Z_]*[A-Z]", README)):
        assert name in source or name.removeprefix("SANDBOXD_").lower() in Settings.__struct_fields__, name
