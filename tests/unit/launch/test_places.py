"""`look_at` on real directories: pure of namespaces, so it runs anywhere."""

import os
from pathlib import Path
from typing import Any

import pytest

import sandboxd
from sandboxd.errors import SpecInvalid, WorkspaceInvalid
from sandboxd.isolation.facts import PlaceFacts
from sandboxd.launch.places import look_at, path_inside, reachable
from sandboxd.spec import EnvSpec, Isolation, Mount, Network, Service, Workspace


class Ground:
    """A home and a state directory to look at."""

    def __init__(self, root: Path) -> None:
        self.home, self.state = root / "home", root / "state"
        self.shop = self.home / "src" / "shop"
        self.shop.mkdir(parents=True)
        (self.state / "envs" / "x" / "home").mkdir(parents=True)

    def look(self, path: Path | str | None = None, *, environ: dict[str, str] | None = None, **parts: Any) -> PlaceFacts:
        spec = EnvSpec(services={"web": Service(command="x")}, workspace=Workspace(path=str(path) if path else None), **parts)
        given = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", **(environ or {})}
        return look_at(spec, environ=given, env_dir=self.state / "envs" / "x", uid=os.getuid())


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(Path(os.path.realpath(tmp_path)))


def test_a_workspace_is_resolved(ground: Ground) -> None:
    (ground.home / "link").symlink_to(ground.shop)
    found = ground.look(ground.home / "link")
    assert found.workspace == str(ground.shop)
    assert found.home == str(ground.home)
    assert found.env_home == str(ground.state / "envs/x/home")
    assert str(ground.state) in found.hide


def test_without_a_workspace_there_is_the_private_home(ground: Ground) -> None:
    assert ground.look().workspace is None


@pytest.mark.parametrize(
    "path",
    ["/", "/usr", "/usr/local/src", "/etc", "/proc/self", "/sys", "/dev/shm", "/tmp", "/home", "/run", "/var", "/bin", "/opt"],
)
def test_the_system_is_no_workspace(ground: Ground, path: str) -> None:
    with pytest.raises(WorkspaceInvalid, match=r"system|does not exist") as refused:
        ground.look(path)
    assert refused.value.hint


def test_the_home_is_no_workspace_nor_what_holds_it(ground: Ground) -> None:
    for path in (ground.home, ground.home.parent):
        with pytest.raises(WorkspaceInvalid, match="your home"):
            ground.look(path)


def test_keys_and_our_own_state_are_no_workspace(ground: Ground) -> None:
    (ground.home / ".ssh").mkdir()
    with pytest.raises(WorkspaceInvalid, match="secrets"):
        ground.look(ground.home / ".ssh")
    with pytest.raises(WorkspaceInvalid, match="sandboxd's own"):
        ground.look(ground.state / "envs/x/home")


def test_a_missing_workspace_says_so(ground: Ground) -> None:
    with pytest.raises(WorkspaceInvalid, match="does not exist") as refused:
        ground.look(ground.home / "nowhere")
    assert refused.value.hint == f"mkdir -p {ground.home / 'nowhere'}"
    with pytest.raises(WorkspaceInvalid, match="absolute"):
        ground.look("relative/path")


def test_a_file_is_no_workspace(ground: Ground) -> None:
    (ground.home / "file").touch()
    with pytest.raises(WorkspaceInvalid, match="not a directory"):
        ground.look(ground.home / "file")


def test_an_unreadable_workspace_says_so(ground: Ground, require: Any) -> None:
    require("unprivileged")
    ground.shop.chmod(0o300)
    try:
        with pytest.raises(WorkspaceInvalid, match="cannot be read"):
            ground.look(ground.shop)
    finally:
        ground.shop.chmod(0o700)


def test_what_the_env_must_not_write_is_found(ground: Ground) -> None:
    for name in ("sandbox.toml", ".envrc", ".git/config", "src/main.py"):
        (ground.shop / name).parent.mkdir(exist_ok=True)
        (ground.shop / name).touch()
    (ground.shop / ".git/hooks").mkdir()
    found = ground.look(ground.shop)
    assert {path.removeprefix(f"{ground.shop}/"): is_file for path, is_file in found.protect} == {
        "sandbox.toml": True, ".envrc": True, ".git/config": True, ".git/hooks": False,
    }  # fmt: skip
    assert found.pins == [str(ground.shop / ".git")]


def test_a_linked_worktree_cannot_be_pointed_elsewhere(ground: Ground) -> None:
    (ground.shop / ".git").write_text("gitdir: /elsewhere\n")
    assert (str(ground.shop / ".git"), True) in ground.look(ground.shop).protect


def test_writable_mounts_have_the_same_walls(ground: Ground) -> None:
    other = ground.home / "other"
    other.mkdir()
    (other / "sandbox.toml").touch()
    mount = Mount(source=str(other), target="/other")
    assert ground.look(mounts=[mount]).protect == [(str(other / "sandbox.toml"), True)]
    assert not ground.look(mounts=[Mount(source=str(other), target="/other", readonly=True)]).protect


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("/nowhere/at/all", "/x", "does not exist"),
        ("relative", "/x", "absolute"),
        ("/etc", "x", "absolute"),
        ("/", "/x", "host's processes"),
        ("/proc", "/x", "host's processes"),
        ("/etc", "/", "own"),
        ("/etc", "/proc/x", "own"),
        ("/etc", "/dev/../proc", "own"),
        ("/etc", "/.sandboxd", "own"),
    ],
)
def test_mounts_that_cannot_be(ground: Ground, source: str, target: str, says: str) -> None:
    with pytest.raises(SpecInvalid, match=says):
        ground.look(mounts=[Mount(source=source, target=target)])


def test_our_own_sockets_are_never_mounted(ground: Ground) -> None:
    with pytest.raises(SpecInvalid, match="never shown"):
        ground.look(mounts=[Mount(source=str(ground.state / "envs"), target="/x")])


def test_our_own_code_is_named_and_never_handed_over(ground: Ground) -> None:
    package = os.path.dirname(os.path.realpath(sandboxd.__file__))
    with pytest.raises(WorkspaceInvalid, match="sandboxd's own code"):
        ground.look(f"{package}/launch")
    with pytest.raises(SpecInvalid, match="sandboxd's own code") as refused:
        ground.look(mounts=[Mount(source=package, target="/srv")])
    assert refused.value.hint == f"show it read-only: {package}:/srv:ro"
    assert ground.look(mounts=[Mount(source=package, target="/srv", readonly=True)]).own == []
    assert package in ground.look(os.path.dirname(package)).own
    assert ground.look(ground.shop).own == []


def test_a_mounted_file_is_one(ground: Ground) -> None:
    (ground.home / "f").touch()
    (fact,) = ground.look(mounts=[Mount(source=str(ground.home / "f"), target="/x/../f", readonly=True)]).mounts
    assert (fact.source, fact.target, fact.file, fact.readonly) == (str(ground.home / "f"), "/f", True, True)


def test_text_that_is_none_is_refused(ground: Ground) -> None:
    with pytest.raises(SpecInvalid, match="UTF-8"):
        ground.look(os.fsdecode(b"/tmp/\xff"))
    with pytest.raises(SpecInvalid, match="UTF-8"):
        ground.look("/tmp/a\0b")


def test_toolchains_on_the_path_are_found_with_what_they_link_to(ground: Ground) -> None:
    base = ground.home / ".pyenv/versions/3.12/bin"
    base.mkdir(parents=True)
    (base / "python").touch()
    venv = ground.home / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(base / "python")
    (venv / "pyvenv.cfg").write_text(f"home = {base}\n")
    (ground.home / "bin").mkdir()
    (ground.home / "notes").mkdir()
    (ground.home / "bin/run").symlink_to(ground.home / "notes")
    found = ground.look(environ={"PATH": f"{venv}/bin:{ground.home}/bin:/usr/bin:{ground.home}/gone/bin"})
    assert found.tools == [str(venv), str(ground.home / ".pyenv"), str(ground.home / "bin")]
    assert found.path.split(":")[:3] == [f"{venv}/bin", f"{ground.home}/bin", "/usr/bin"]


def test_a_toolchain_in_the_workspace_is_seen_with_it(ground: Ground) -> None:
    (ground.shop / ".venv/bin").mkdir(parents=True)
    (ground.shop / ".venv/pyvenv.cfg").touch()
    found = ground.look(ground.shop, environ={"PATH": f"{ground.shop}/.venv/bin:/usr/bin"})
    assert found.tools == []
    assert found.path.startswith(f"{ground.shop}/.venv/bin:/usr/bin")


def test_path_keeps_what_can_be_seen_and_the_system() -> None:
    kept = path_inside("/usr/bin:relative:/mnt/c/Windows:/home/x/bin:/usr/bin", ["/home/x/bin"]).split(":")
    assert kept[:2] == ["/usr/bin", "/home/x/bin"]
    assert "/bin" in kept
    assert len(kept) == len(set(kept))


def test_the_real_home_comes_with_its_secrets_named(ground: Ground) -> None:
    (ground.home / ".ssh").mkdir()
    (ground.home / ".netrc").touch()
    found = ground.look(isolation=Isolation(home="readonly"))
    assert found.real_home == str(ground.home)
    assert sorted(found.secrets) == [(str(ground.home / ".netrc"), True), (str(ground.home / ".ssh"), False)]
    assert found.tools == []


def test_the_hosts_names_are_read_only_where_its_network_is_shared(ground: Ground) -> None:
    assert ground.look().hosts == ""
    assert ground.look(network=Network(mode="host")).hosts == Path("/etc/hosts").read_text()


def test_nobody_must_be_able_to_get_there(ground: Ground) -> None:
    ground.shop.chmod(0o755)
    ground.home.chmod(0o700)
    with pytest.raises(WorkspaceInvalid, match="cannot enter") as refused:
        reachable(str(ground.shop), 65534)
    assert "--user root" in refused.value.hint
    reachable("/usr/bin", 65534)
