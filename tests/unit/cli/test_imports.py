"""What each verb may import: nothing that costs time and is not needed."""

import subprocess
import sys

import pytest

from sandboxd.cli import lean

HEAVY = {
    "asyncio",
    "rich",
    "uvloop",
    "psutil",
    "importlib.metadata",
    "subprocess",
    "logging",
    "http",
    "email",
    "ssl",
    "webbrowser",
}
TOML = {"tomllib", "sandboxd.specfile"}

VERB_MODULES = {
    "sandboxd.cli.ps": HEAVY | TOML | {"difflib", "tty", "termios"},
    "sandboxd.cli.life": HEAVY | TOML,
    "sandboxd.cli.logs": HEAVY | TOML,
    "sandboxd.cli.ports": HEAVY | TOML,
    "sandboxd.cli.remove": HEAVY | TOML,
    "sandboxd.cli.run": HEAVY | TOML,
    "sandboxd.cli.exec": HEAVY | TOML,
    "sandboxd.cli.stats": HEAVY | TOML,
    "sandboxd.cli.daemon": HEAVY | TOML,
    "sandboxd.cli.completion": HEAVY | TOML,
    "sandboxd.cli.up": HEAVY,
}
HELPERS = (
    "sandboxd.cli.verbs",
    "sandboxd.cli.context",
    "sandboxd.cli.options",
    "sandboxd.cli.targets",
    "sandboxd.cli.command_line",
)


@pytest.mark.parametrize("module", [*VERB_MODULES, *HELPERS])
def test_a_verb_imports_little(module: str) -> None:
    code = f"import sandboxd.cli.main, {module}, sandboxd.client, sys; sandboxd.client.Client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & VERB_MODULES.get(module, HEAVY | TOML)


def test_the_usual_ps_needs_no_click() -> None:
    code = "import sandboxd.cli.main, sandboxd.cli.listing, sandboxd.client, sys; sandboxd.client.Client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (HEAVY | TOML | {"click", "difflib"})


def test_msgspec_works_without_what_it_was_kept_from() -> None:
    """typing_extensions stays importable afterwards, and structs of typing's own words are read as before."""
    assert lean.msgspec.__name__ == "msgspec"
    code = (
        "import sys; from sandboxd.cli import lean; assert sys.modules.get('typing_extensions', 1) is not None\n"
        "from sandboxd.protocol import messages as m\n"
        "lean.msgspec.convert({'spec': {'services': {'a': {'command': 'x'}}}}, m.Run); print('read')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "read\n"
