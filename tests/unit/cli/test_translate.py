"""Flags of `run` to a spec: every flag, and what each refuses."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.cli.translate import (
    Caller,
    RunFlags,
    as_label,
    checked_name,
    default_name,
    env_file,
    handed_on,
    mount,
    placed,
    ports,
    spec_of,
)
from sandboxd.errors import NameInvalid, NotOffered, SandboxdError, UsageError
from sandboxd.spec import EnvSpec, Limits, Mount, Publish, Service, Workspace

HERE = Caller(directory="/src/shop", home="/home/ann", environ={"PATH": "/bin", "TOKEN": "secret", "EMPTY": ""})


def spec(caller: Caller = HERE, **flags: Any) -> EnvSpec:
    return spec_of(RunFlags(**flags), ["npm", "run", "dev"], caller)


def test_no_flags_is_the_default_spec_here() -> None:
    assert spec() == EnvSpec(
        services={"main": Service(command=["npm", "run", "dev"])}, workspace=Workspace(path="/src/shop"), name=None
    )


def test_a_command_is_needed() -> None:
    with pytest.raises(UsageError, match="needs a command"):
        spec_of(RunFlags(), [], HERE)


def test_the_plain_flags() -> None:
    made = spec(
        name="shop",
        network="host",
        isolation="landlock",
        nested=True,
        restart="on-failure:3",
        ttl="2h",
        rm=True,
        interactive=True,
        tty=True,
        stop_signal="INT",
        stop_timeout="3",
        user="root",
        label=("team=web", "draft"),
        egress=("a.example,b.example:443", "c.example"),
        forward=("11434", "db:5432"),
    )
    service = made.services["main"]
    assert (made.name, made.network.mode, made.isolation.level, made.isolation.user) == ("shop", "host", "landlock", "root")
    assert made.isolation.nested
    assert (made.lifecycle.restart, made.lifecycle.ttl, made.lifecycle.remove) == ("on-failure:3", 7200.0, True)
    assert (service.stdin, service.tty, service.stop_signal, service.stop_timeout) == (True, True, "INT", 3.0)
    assert made.labels == {"team": "web", "draft": ""}
    assert made.network.egress == ["a.example", "b.example:443", "c.example"]
    assert made.network.forward == [11434, "db:5432"]


def test_limits() -> None:
    assert spec(memory="512m", cpus=1.5, pids_limit=256, ulimit=("nofile=1024:2048",)).limits == Limits(
        memory=512 << 20, cpus=1.5, pids=256, nofile=2048
    )
    assert spec(memory="0", pids_limit=-1, ulimit=("nofile=99",)).limits == Limits(memory=None, pids=None, nofile=99)
    assert spec(stop_timeout="0").services["main"].stop_timeout > 0  # docker's "kill at once"; the spec has no zero


@pytest.mark.parametrize(
    ("texts", "routed", "published"),
    [
        ((), None, []),
        (("3000",), 3000, []),
        (("3000/tcp", "3000"), 3000, []),
        (("8080:3000",), 3000, [Publish(host_port=8080, port=3000)]),
        (("3000", "8080:4000"), 3000, [Publish(host_port=8080, port=4000)]),
        (("8080:4000", "3000"), 3000, [Publish(host_port=8080, port=4000)]),
        (("0.0.0.0:1:2",), 2, [Publish(host_port=1, port=2, address="0.0.0.0")]),
        (("localhost:1:2",), 2, [Publish(host_port=1, port=2)]),
        (("[::1]:1:2",), 2, [Publish(host_port=1, port=2, address="::1")]),
        (("65535",), 65535, []),
        (("8080:3000/tcp+proxy",), 3000, [Publish(host_port=8080, port=3000, proxy_protocol=True)]),
        (("unix:/run/a.sock:3000",), 3000, [Publish(port=3000, address="unix:/run/a.sock")]),
        (("unix:a.sock:3000/tcp+proxy",), 3000, [Publish(port=3000, address="unix:/src/a.sock", proxy_protocol=True)]),
        (("unix:../a:b.sock:3000",), 3000, [Publish(port=3000, address="unix:/a:b.sock")]),
    ],
)
def test_ports(texts: tuple[str, ...], routed: int | None, published: list[Publish]) -> None:
    assert ports(texts, "/src") == (routed, published)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "65536",
        "99999999999999999999999",
        "-1",
        "x",
        "",
        "1:2:3:4",
        "x:1:2",
        "1:",
        ":1",
        "a.b:1:2",
        "[::1]1:2",
        "[::1]:1",
        "[::1",
        "٣",
        "1.5",
        "3000/tcp+proxy",
        "unix:a.sock",
        "unix::3000",
        "unix:a.sock:0",
        "unix:a.sock:3000/udp",
        "unix:" + "a" * 120 + ":3000",
    ],
)
def test_ports_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match="-p"):
        ports([text], "/src")


def test_one_port_is_routed() -> None:
    with pytest.raises(UsageError, match="one routed port") as caught:
        ports(["3000", "4000"], "/src")
    assert "-p 4000:4000" in caught.value.hint
    with pytest.raises(NotOffered, match="TCP"):
        ports(["53:53/udp"], "/src")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("./data:/data", Mount(source="/src/shop/data", target="/data")),
        ("/a:/b:ro", Mount(source="/a", target="/b", readonly=True)),
        ("/a:/b:rw", Mount(source="/a", target="/b")),
        ("/a:ro", Mount(source="/a", target="/a", readonly=True)),
        ("../x", Mount(source="/src/x", target="/src/x")),
        (".:/w/../v", Mount(source="/src/shop", target="/v")),
    ],
)
def test_mounts(text: str, made: Mount) -> None:
    assert mount(text, "/src/shop") == made


@pytest.mark.parametrize("text", ["", ":", "/a:", ":/b", "/a:/b:cow", "/a:b", "/a:/b:ro:x"])
def test_mounts_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(SandboxdError, match="-v"):
        mount(text, "/src/shop")


def test_named_volumes_are_not_offered() -> None:
    with pytest.raises(NotOffered, match="named volumes") as caught:
        mount("data:/data", "/src/shop")
    assert "./data:/data" in caught.value.hint


def test_the_environment() -> None:
    files = (("a.env", b"\xef\xbb\xbf# c\n\nA=1\nB=x y\r\nTOKEN\nNOT_HERE\nQ='q'"), ("b.env", b"A=2"))
    caller = Caller(directory="/", home="/h", environ=HERE.environ, env_files=files)
    made = spec(caller, workdir="/src", env=("B=over", "EMPTY", "GONE", "C=a=b"))
    assert made.env == {"A": "2", "B": "over", "TOKEN": "secret", "Q": "'q'", "EMPTY": "", "C": "a=b"}


@pytest.mark.parametrize("pair", ["=x", "", "A\0=1", "A=\0"])
def test_variables_that_cannot_be_meant(pair: str) -> None:
    with pytest.raises(UsageError, match="-e"):
        spec(env=(pair,))


def test_env_files_say_file_and_line() -> None:
    with pytest.raises(UsageError, match=r"x\.env, line 2"):
        env_file("x.env", b"A=1\nB C=2\n", {})
    with pytest.raises(UsageError, match=r"x\.env: not UTF-8 at byte 2"):
        env_file("x.env", b"A=\xff", {})


def test_the_workspace() -> None:
    assert spec(workdir="api").workspace.path == "/src/shop/api"
    assert spec(workdir="../other/").workspace.path == "/src/other"
    for directory in ("/", "/home/ann", "/home/ann/"):
        caller = Caller(directory=directory, home="/home/ann", environ={})
        assert spec(caller).workspace.path is None
        assert spec(caller, workdir=".").workspace.path == directory.rstrip("/") or "/"


@pytest.mark.parametrize("name", ["Shop", "a_b", "-a", "a-", "", "a" * 64, "a.b.c", "a.", ".a", f"{'a' * 40}.{'b' * 40}", "é"])
def test_names_are_dns_labels(name: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        spec(name=name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("flags", "kind", "says"),
    [
        ({"memory": "lots"}, UsageError, "-m lots"),
        ({"cpus": -1.0}, UsageError, "--cpus"),
        ({"cpu_weight": 10001}, UsageError, "--cpu-weight"),
        ({"io_read": "fast"}, UsageError, "--io-read"),
        ({"cpus": float("nan")}, UsageError, "--cpus"),
        ({"cpus": float("inf")}, UsageError, "--cpus"),
        ({"pids_limit": 0}, UsageError, "--pids-limit"),
        ({"ulimit": ("nofile=x",)}, UsageError, "--ulimit"),
        ({"ulimit": ("nproc=5",)}, NotOffered, "--ulimit nproc"),
        ({"ttl": "soon"}, UsageError, "--ttl"),
        ({"ttl": "0"}, UsageError, "--ttl"),
        ({"idle": "soon"}, UsageError, "--idle"),
        ({"workspace": "cow"}, NotOffered, "--workspace cow"),
        ({"restart": "sometimes"}, UsageError, "--restart"),
        ({"user": "bob"}, NotOffered, "--user bob"),
        ({"label": ("=x",)}, UsageError, "-l"),
        ({"egress": ("none", "a.example")}, UsageError, "--egress"),
        ({"forward": ("0",)}, UsageError, "--forward"),
        ({"stop_timeout": "never"}, UsageError, "--stop-timeout"),
    ],
)
def test_what_is_refused_names_its_flag(flags: dict[str, Any], kind: type[SandboxdError], says: str) -> None:
    with pytest.raises(kind, match=says):
        spec(**flags)


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_our_error(text: str) -> None:
    flags: list[dict[str, Any]] = [
        {flag: (text,)} for flag in ("publish", "env", "volume", "ulimit", "label", "egress", "forward")
    ]
    flags += [{flag: text} for flag in ("name", "memory", "ttl", "restart", "user", "stop_timeout", "workdir")]
    for one in flags:
        with suppress(SandboxdError):
            assert isinstance(spec(**one), EnvSpec)


def test_secrets_are_not_handed_on() -> None:
    given_ = {"PATH": "/bin", "LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "x", "SSH_AUTH_SOCK": "/s", "TERM": "xterm"}
    assert set(handed_on(given_)) == {"PATH", "LC_ALL", "TERM"}


@pytest.mark.parametrize(
    ("directory", "branch", "name"),
    [
        ("/src/My Shop", None, "my-shop"),
        ("/src/shop/", None, "shop"),
        ("/src/shop", "fix/ui_2", "fix-ui-2.shop"),
        ("/src/shop", "x" * 80, f"{'x' * 58}.shop"),
        ("/src/" + "x" * 80, "main", "x" * 63),
        ("/src/shop", "___", "shop"),
        ("/", None, None),
        ("/src/___", "main", None),
        ("/src/" + "x" * 80, None, "x" * 63),
    ],
)
def test_default_names(directory: str, branch: str | None, name: str | None) -> None:
    assert default_name(directory, branch) == name
    assert name is None or checked_name(name) == name


@given(st.text())
def test_labels_of_anything_are_labels(text: str) -> None:
    label = as_label(text)
    assert label == "" or spec(name=label).name == label


def test_a_file_is_seen_from_its_directory() -> None:
    service = {"web": Service(command="x")}
    mounts = [Mount(source="data", target="/d"), Mount(source="~/c", target="/c")]
    made = placed(EnvSpec(services=service, mounts=mounts), "/src/shop", "/home/ann")
    assert made.workspace.path == "/src/shop"
    assert [one.source for one in made.mounts] == ["/src/shop/data", "/home/ann/c"]
    assert placed(EnvSpec(services=service, workspace=Workspace(path="../api")), "/src/shop", "/h").workspace.path == "/src/api"
