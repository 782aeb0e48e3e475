"""The one door: message, hint, exit code, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sandboxd.cli import door
from sandboxd.cli.verbs import LATER, VERBS, Verbs, app
from sandboxd.errors import NotFound, SandboxdError, by_code
from tests.unit.cli.fakes import Sandbox, env


def test_an_error_is_a_message_a_hint_and_a_code(sandbox: Sandbox) -> None:
    done = sandbox("ps", List=NotFound("no env 'x'", hint="`sandbox ps -a` lists them all"))
    assert done.err == "sandbox: no env 'x'\nhint: `sandbox ps -a` lists them all\n"
    assert (done.code, done.out) == (1, "")


@pytest.mark.parametrize("kind", [kind for kind in by_code().values() if kind.__name__ != "KernelError"])
def test_every_kind_leaves_with_its_own_code(sandbox: Sandbox, kind: type[SandboxdError]) -> None:
    done = sandbox("ps", List=kind("what went wrong"))
    assert done.code == kind.exit_code
    assert done.err == "sandbox: what went wrong\n"


@pytest.mark.parametrize(
    ("argv", "says", "hints"),
    [
        (["pss"], "no such command: pss", "`ps`"),
        (["frobnicate"], "no such command: frobnicate", "--help"),
        (["ps", "--fromat", "json"], "no such flag: --fromat", "--format"),
        (["ps", "--last", "x"], "'x' is not a valid integer", "sandbox ps --help"),
        (["completion"], "missing", "sandbox completion --help"),
        (["ps", "extra"], "unexpected extra argument", "sandbox ps --help"),
        (["ps", "--format", "{{.Name"], "--format", "{{.Name}}"),
        (["wait", "--timeout", "soon", "x"], "--timeout soon", "90s"),
        (["logs", "--tail", "-3", "x"], "--tail -3", ""),
    ],
)
def test_usage_errors_leave_with_2(sandbox: Sandbox, argv: list[str], says: str, hints: str) -> None:
    refused(sandbox, argv, says, hints, code=2)


@pytest.mark.parametrize(
    ("argv", "says", "hints"),
    [
        (["run", "--network", "bridge", "x"], "'bridge' is not one of", "sandbox run --help"),
        (["run", "--nmae", "x", "true"], "no such flag: --nmae", "--name"),
        (["run", "-m", "12q", "true"], "-m 12q", "512m"),
        (["run"], "run needs a command", "sandbox up"),
        (["attach", "--detach-keys", "x-y", "e"], "--detach-keys", "ctrl-p"),
        (["exec", "shop", "-it", "--", "bash"], "'-it'", "before ENV"),
        (["exec", "shop"], "exec needs a command", "sandbox shell"),
    ],
)
def test_where_2_could_be_the_commands_own_they_leave_with_125(
    sandbox: Sandbox, argv: list[str], says: str, hints: str
) -> None:
    refused(sandbox, argv, says, hints, code=125)


def refused(sandbox: Sandbox, argv: list[str], says: str, hints: str, *, code: int) -> None:
    done = sandbox(*argv)
    assert done.code == code
    assert done.out == ""
    first, _, rest = done.err.partition("\n")
    assert first.startswith("sandbox: ")
    assert says in first
    assert hints in rest
    assert not done.asked, "the daemon was asked before the mistake was found"


def test_no_such_env_is_not_taken_for_the_commands_own_1(sandbox: Sandbox) -> None:
    done = sandbox("attach", "x", Inspect=NotFound("no env 'x'"))
    assert (done.code, done.err) == (125, "sandbox: no env 'x'\n")
    assert sandbox("inspect", "x", Inspect=NotFound("no env 'x'")).code == 1


@pytest.mark.parametrize("verb", sorted(LATER))
def test_later_verbs_are_named_as_such(sandbox: Sandbox, verb: str) -> None:
    done = sandbox(verb)
    assert done.code == 125
    assert f"this version has no `{verb}`" in done.err


def test_ctrl_c_is_130_and_a_broken_pipe_is_quiet(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "quiet_stdout", lambda: None)  # stdout is the test's here
    done = sandbox("ps", List=KeyboardInterrupt())
    assert (done.code, done.out, done.err) == (130, "", "")
    done = sandbox("ps", List=BrokenPipeError())
    assert (done.code, done.out, done.err) == (141, "", "")


def test_a_fault_of_ours_says_where_the_traceback_is(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXD_DIR", str(tmp_path))
    done = sandbox("ps", List=ZeroDivisionError("by zero"))
    assert done.code == 125
    assert "internal error: ZeroDivisionError: by zero" in done.err
    assert str(tmp_path / "cli.log") in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in (tmp_path / "cli.log").read_text()


def test_a_log_that_cannot_be_written_is_said(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SANDBOXD_DIR", str(tmp_path / "file" / "below"))
    done = sandbox("ps", List=ZeroDivisionError())
    assert done.code == 125
    assert "could not be written down" in done.err


def test_messages_cannot_drive_the_terminal(sandbox: Sandbox) -> None:
    done = sandbox("ps", List=SandboxdError("a\x1b[2Jb\x07", hint="c\x9b"))
    assert done.err == "sandbox: a\\x1b[2Jb\\x07\nhint: c\\x9b\n"


def test_every_verb_can_be_imported_and_helps(sandbox: Sandbox) -> None:
    for name in VERBS:
        done = sandbox(name, "--help")
        assert done.code == 0
        assert done.out.startswith(f"Usage: sandbox {name}")


def test_every_flag_of_every_verb_arrives() -> None:
    """click's parameters and the struct that takes them agree, for each verb."""
    group = app
    assert isinstance(group, Verbs)
    for name in VERBS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group) or name == "completion":
            continue
        assert command.callback is not None
        kind = command.callback.__wrapped__.__annotations__["flags"]  # type: ignore[attr-defined]
        names = {parameter.name for parameter in command.params}
        assert names <= set(kind.__struct_fields__), name


def test_help_lists_every_verb_without_importing_any() -> None:
    code = "import sys; from sandboxd.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in VERBS)
    loaded = done.stdout.splitlines()[-1]
    assert "sandboxd.cli.ps" not in loaded
    assert "sandboxd.cli.main" in loaded


def test_nothing_typed_is_help(sandbox: Sandbox) -> None:
    done = sandbox()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: sandbox")


def test_version(sandbox: Sandbox) -> None:
    from sandboxd import __version__

    assert sandbox("--version").out == f"sandbox {__version__}\n"


def test_aliases(sandbox: Sandbox) -> None:
    from sandboxd.protocol.messages import ListReply

    assert "shop" in sandbox("ls", List=ListReply(envs=[env()])).out
