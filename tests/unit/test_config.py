"""The config file as text: what it says, what is refused and where, and what a daemon takes on of a later one."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.config import LIVE, ROUTERS, Config, read, taken_on, with_usual_limits, written
from sandboxd.errors import SpecInvalid, UsageError
from sandboxd.settings import KINDS, Settings, config_file
from sandboxd.spec import EnvSpec, Limits, Service
from sandboxd.specfile.parse import read_toml

FILE = "/etc/sandboxd/config.toml"
OWN = {"SANDBOXD_DIR": "/d"}


def config(text: str, **environ: str) -> Config:
    return read({**OWN, **environ}, 1000, FILE, text.encode())


def test_every_setting_can_be_said_in_both_ways_and_means_the_same() -> None:
    said = {
        "listen": ('["127.0.0.1:1", "[::1]:2"]', "127.0.0.1:1, [::1]:2"), "pool": ("7", "7"), "pool_memory": ('"1g"', "1g"),
        "max_envs": ("5", "5"), "max_starting": ("6", "6"), "max_memory": ('"2g"', "2g"),
        "queue": ("0", "0"), "queue_wait": ('"1m30s"', "90"),
        "memory_reserve": ("1024", "1k"), "memory_critical": ('"1k"', "1024"), "log_limit": ('"1m"', "1048576"),
        "cgroup": ('"/sys/fs/cgroup/a"', "/sys/fs/cgroup//a/"), "hold": ("3", "3"), "router_workers": ("2", "2"),
        "trusted_proxies": ('["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1"), "resolvers": ('["127.0.0.1:53"]', "127.0.0.1:53"),
        "max_per_source": ("9", "9"), "head_timeout": ("1", "1"), "client_timeout": ("2.0", "2"), "connect_timeout": ("3", "3"),
        "drain_timeout": ("0", "0"), "connection_queue": ("0", "0"), "connection_timeout": ('"1m"', "60"),
        "access_log": ('"/var/log/a"', "/var/log//a"), "access_log_limit": ('"1m"', "1048576"), "metrics": ("false", "0"),
        "base_domain": ('"box.example"', "Box.example."),
        "shared": ("true", "1"), "admin_group": ('"wheel"', "wheel"), "audit_limit": ('"1m"', "1m"), "janitor": ("5", "5"),
    }  # fmt: skip
    assert said.keys() == KINDS.keys()
    by_file = config("\n".join(f"{name} = {toml}" for name, (toml, _) in said.items()))
    by_environ = config("", **{f"SANDBOXD_{name.upper()}": text for name, (_, text) in said.items()})
    assert by_file.settings == by_environ.settings
    usual = Settings.from_environ(OWN, 1000)
    assert not [name for name in KINDS if getattr(by_file.settings, name) == getattr(usual, name)]
    assert by_file.sources == {name: f"{FILE}:{line}" for line, name in enumerate(said, 1)}
    assert by_environ.sources == {name: f"SANDBOXD_{name.upper()}" for name in KINDS}


def test_the_environment_wins_and_no_file_says_nothing() -> None:
    both = config("max_envs = 5\npool = 1", SANDBOXD_MAX_ENVS="9")
    assert (both.settings.max_envs, both.settings.pool) == (9, 1)
    assert both.sources == {"max_envs": "SANDBOXD_MAX_ENVS", "pool": f"{FILE}:2"}
    assert read(OWN, 1000, FILE, None) == Config(Settings.from_environ(OWN, 1000), FILE, {})


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("pool = 1\nmax_env = 5", 2, "unknown key \"max_env\"", "did you mean max_envs?"),
        ("SANDBOXD_POOL = 1", 1, "unknown key", "did you mean pool?"),
        ("\n\npool = 257", 3, "pool: 257 is no whole number from 0 to 256", "usual"),
        ('pool = "4"', 1, "is not a whole number", "without the quotes"),
        ("pool = true", 1, "no whole number", ""),
        ("hold = 3601", 1, "no duration from 0s to 1h", ""),
        ('max_memory = "lots"', 1, "no size", "512m"),
        ('trusted_proxies = ["here"]', 1, "neither an address nor a network", "10.0.0.0/8"),
        ("trusted_proxies = [1]", 1, "no list of texts", ""),
        ("listen = []", 1, "names nothing", ""),
        ('resolvers = ["127.0.0.1"]', 1, "not ADDRESS:PORT", ""),
        ('cgroup = "a"', 1, "not an absolute path", ""),
        ('base_domain = "a..b"', 1, "no domain", "box.example.com"),
        ('base_domain = "é.b"', 1, "no domain", ""),
        ("base_domain = 3", 1, "no domain", ""),
        ('metrics = "on"', 1, "neither yes nor no", ""),
        ("[limits]\nmemory = 0", 2, "limits.memory", ""),
        ("[limits]\nmem = 0", 2, "unknown key \"mem\" in [limits]", "memory"),
        ("limits = 3", 1, "not a table", ""),
        ("pool = ", 1, "no valid TOML", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_file_and_line(text: str, line: int, message: str, hint: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        config(text)
    assert refused.value.message.startswith(f"{FILE}:{line}:")
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_a_variable_that_cannot_be_meant_is_named() -> None:
    with pytest.raises(UsageError, match="SANDBOXD_POOL: '-1' is no whole number from 0 to 256"):
        config("", SANDBOXD_POOL="-1")
    with pytest.raises(UsageError, match="SANDBOXD_LISTEN"):
        config("", SANDBOXD_LISTEN=" , ")


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_settings_or_a_named_mistake(text: bytes) -> None:
    with contextlib.suppress(SpecInvalid):
        assert read(OWN, 1000, FILE, text).settings.control == "/d/control.sock"


def test_a_later_reading_is_taken_on_as_far_as_can_be() -> None:
    now = config("").settings
    new = config('max_envs = 5\nmetrics = false\nhead_timeout = 1\nlisten = ["127.0.0.1:1"]\n[limits]\nmemory = "1g"').settings
    taken, changes = taken_on(now, new)
    assert (taken.max_envs, taken.listen, taken.limits) == (5, ["127.0.0.1:1"], {"memory": 1 << 30})
    assert (taken.metrics, taken.head_timeout) == (now.metrics, now.head_timeout)
    assert {change.name: (change.before, change.after, change.holds) for change in changes} == {
        "listen": ("127.0.0.1:7070", "127.0.0.1:1", "now"),
        "max_envs": ("1000", "5", "now"),
        "head_timeout": ("15s", "1s", "after `sandbox daemon stop --all`"),
        "metrics": ("true", "false", "after `sandbox daemon restart`"),
        "limits.memory": ("", "1GiB", "now"),
    }
    again = taken_on(taken, new)[1]
    assert {change.name for change in again} == {"head_timeout", "metrics"}  # they still wait
    assert {*KINDS, "limits", "quota"} >= LIVE | ROUTERS
    assert not LIVE & ROUTERS


def test_everything_is_written_in_words() -> None:
    words = written(config('[limits]\ncpus = 1.5\nmemory = "512m"').settings)
    assert words["limits.cpus"] == "1.5"
    assert words["limits.memory"] == "512MiB"
    assert words["limits.pids"] == "1024"
    assert words["max_memory"] == ""
    assert all(isinstance(word, str) for word in words.values())


def test_usual_limits_are_for_what_says_nothing() -> None:
    web = {"web": Service(command="x")}
    usual = config('[limits]\nmemory = "1g"\npids = 64').settings.limits
    silent = with_usual_limits(EnvSpec(services=web), usual).limits
    assert (silent.memory, silent.pids, silent.nofile) == (1 << 30, 64, 4096)
    asked = with_usual_limits(EnvSpec(services=web, limits=Limits(memory=5, pids=None)), usual).limits
    assert (asked.memory, asked.pids) == (5, None)
    spec = EnvSpec(services=web)
    assert with_usual_limits(spec, {}) is spec


def test_where_the_file_is() -> None:
    assert config_file({}, 0) == "/etc/sandboxd/config.toml"
    assert config_file({"HOME": "/h"}, 7) == "/h/.config/sandboxd/config.toml"
    assert config_file({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}, 7) == "/c/sandboxd/config.toml"
    assert config_file({"SANDBOXD_DIR": "/d", "HOME": "/h"}, 0) == "/d/config.toml"
    assert config_file({"SANDBOXD_DIR": "/d", "SANDBOXD_CONFIG": "/x.toml"}, 0) == "/x.toml"
    with pytest.raises(UsageError, match="SANDBOXD_CONFIG"):
        config_file({"SANDBOXD_CONFIG": "x"}, 0)


def test_the_installed_example_says_nothing_as_it_is_and_is_right_without_its_marks() -> None:
    """Each line of systemd/config.toml, taken in, is the usual."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    with open(os.path.join(root, "systemd/config.toml"), "rb") as file:
        text = file.read()
    assert read_toml(text, FILE)[1] == {}
    found = read(
        OWN, 1000, FILE, b"\n".join(line.removeprefix(b"#") for line in text.splitlines() if not line.startswith(b"# "))
    )
    usual = Settings.from_environ(OWN, 1000)
    assert {name for name in KINDS if getattr(found.settings, name) != getattr(usual, name)} == set()


def test_quotas_are_tables_of_users_and_groups() -> None:
    text = 'pool = 1\n[quota]\nenvs = 3\n[quota.user.ann]\nmemory = "2g"\n[quota.group.students]\ncpus = 1.5\n'
    settings = config(text).settings
    assert settings.quota == {"envs": 3, "user": {"ann": {"memory": 2 << 30}}, "group": {"students": {"cpus": 1.5}}}
    shown = written(settings)
    assert (shown["quota.user.ann.memory"], shown["quota.group.students.cpus"]) == ("2GiB", "1.5")
    _, changes = taken_on(settings, config("[quota]\nenvs = 4").settings)
    assert ("quota.user.ann.memory", "2GiB", "", "now") in changes
    with pytest.raises(SpecInvalid, match=r'config.toml:2: .*unknown key "env"') as refused:
        config("[quota.user.ann]\nenv = 3")
    assert "envs" in refused.value.hint
    with pytest.raises(SpecInvalid, match=r"quota\.group\.x\.rate"):
        config("[quota.group.x]\nrate = 0")
