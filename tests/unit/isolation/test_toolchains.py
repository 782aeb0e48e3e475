import pytest

from sandboxd.isolation.toolchains import KNOWN, SECRETS, is_known, is_secret, looks_secret, needed, outermost

HOME = "/home/ada"


@pytest.mark.parametrize(
    ("directory", "shown"),
    [
        (".cargo/bin", [".cargo/bin", ".rustup"]),
        (".pyenv/shims", [".pyenv"]),
        (".nvm/versions/node/v22/bin", [".nvm"]),
        (".local/bin", [".local/bin", ".local/lib"]),
        (".local/share/uv/tools/ruff/bin", [".local/share/uv"]),
        ("go/bin", ["go/bin"]),
        ("bin", ["bin"]),
        ("odd", []),
        ("tools/thing/bin", ["tools/thing/bin"]),
        (".ssh/bin", []),
        (".config/gh/bin", []),
    ],
)
def test_what_a_directory_on_the_path_needs(directory: str, shown: list[str]) -> None:
    assert needed(f"{HOME}/{directory}", HOME, is_prefix=False) == [f"{HOME}/{path}" for path in shown]


def test_a_virtual_environment_is_shown_whole_but_never_the_home() -> None:
    assert needed(f"{HOME}/venv/bin", HOME, is_prefix=True) == [f"{HOME}/venv"]
    assert needed(f"{HOME}/bin", HOME, is_prefix=True) == [f"{HOME}/bin"]
    assert needed(HOME, HOME, is_prefix=True) == []
    assert needed("/usr/bin", HOME, is_prefix=False) == []


def test_names_that_tell_what_they_are() -> None:
    assert all(looks_secret(name) for name in (".irb_history", "Passwords.kdbx", "id.key", "server.PEM"))
    assert not any(looks_secret(name) for name in ("src", "history.md", ".bashrc", "key"))
    assert len(SECRETS) == len(set(SECRETS)) > 150


def test_no_toolchain_shows_a_secret() -> None:
    shown = {path for paths in KNOWN.values() for path in paths}
    assert not [path for path in shown if is_secret(path)]
    assert not [(path, secret) for path in shown for secret in SECRETS if secret.startswith(f"{path}/")]


def test_where_links_of_programs_may_lead() -> None:
    assert is_known(f"{HOME}/.local/share/uv/tools/x/bin/x", HOME)
    assert not is_known(f"{HOME}/notes/run.sh", HOME)
    assert not is_known("/usr/bin/x", HOME)


def test_only_the_outermost_stay() -> None:
    assert outermost(["/a/b", "/a", "/ab", "/a", "/a/b/c"]) == ["/a", "/ab"]
