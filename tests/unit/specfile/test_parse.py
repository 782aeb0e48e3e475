"""sandbox.toml: what is meant comes out, what cannot be is told with file, line and key, and nothing else ever happens."""

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import NameInvalid, SpecInvalid
from sandboxd.spec import EnvSpec, Mount, Publish
from sandboxd.specfile import check, parse_spec
from sandboxd.specfile.parse import MAX_BYTES
from sandboxd.specfile.rules import problems

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*/sandbox.toml"))
WEB = '[services.web]\ncommand = "x"\n'


def parse(text: str | bytes, **more) -> EnvSpec:
    given = {"file": "sandbox.toml", "default_name": None, **more}
    return parse_spec(text.encode() if isinstance(text, str) else text, **given)


def fault(text: str | bytes, **more) -> SpecInvalid:
    with pytest.raises(SpecInvalid) as caught:
        parse(text, **more)
    assert str(caught.value.details["file"]) in caught.value.message
    return caught.value


def test_the_whole_of_it():
    spec = parse(
        """
name = "shop"
mounts = ["/srv/data:/data:ro", { source = "/a:b", target = "/c" }]
env = { TZ = "UTC" }
labels = { team = "core" }
[workspace]
path = "/home/u/shop"
[services.web]
command = "npm run dev"
port = 3000
depends_on = ["db"]
ready = { http = "/healthz", timeout = "30s", interval = "250ms" }
stop_timeout = 3
[services.db]
command = ["postgres", "-D", "data"]
port = 5432
expose = "tcp"
[limits]
memory = "1GiB"
cpus = 2
pids = 256
disk = "5g"
nofile = 4096
[isolation]
home = "readonly"
[network]
egress = ["registry.npmjs.org", "*.github.com:443"]
forward = [11434]
publish = ["8080:3000", "0.0.0.0:5432:5432", "[::1]:81:3000", { host_port = 82, port = 3000 }]
[lifecycle]
ttl = "24h"
restart = "on-failure:3"
"""
    )
    assert spec.name == "shop"
    assert spec.mounts == [Mount(source="/srv/data", target="/data", readonly=True), Mount(source="/a:b", target="/c")]
    assert spec.services["web"].ready is not None
    assert (spec.services["web"].ready.timeout, spec.services["web"].ready.interval) == (30.0, 0.25)
    assert spec.services["db"].command == ["postgres", "-D", "data"]
    assert (spec.limits.memory, spec.limits.cpus, spec.limits.disk) == (1 << 30, 2.0, 5 << 30)
    assert spec.network.publish == [
        Publish(host_port=8080, port=3000),
        Publish(host_port=5432, port=5432, address="0.0.0.0"),
        Publish(host_port=81, port=3000, address="::1"),
        Publish(host_port=82, port=3000),
    ]
    assert (spec.lifecycle.ttl, spec.lifecycle.restart) == (86400.0, "on-failure:3")
    check(spec)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples(path):
    assert parse_spec(path.read_bytes(), file=str(path), default_name="example").services


def test_the_default_name_only_fills_in():
    assert parse(WEB, default_name="dir").name == "dir"
    assert parse('name = "own"\n' + WEB, default_name="dir").name == "own"
    assert parse(WEB).name is None
    assert isinstance(fault(WEB, default_name="Not a label"), NameInvalid)


def test_a_byte_order_mark_and_carriage_returns_do_no_harm():
    assert parse(b"\xef\xbb\xbf" + WEB.encode().replace(b"\n", b"\r\n")).services["web"].command == "x"
    assert fault(b"\xef\xbb\xbf" + (WEB + "port = 0\n").encode().replace(b"\n", b"\r\n")).details["line"] == 3


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("x =", 1, "no valid TOML", "toml.io"),
        (WEB + "port = 70000", 3, "services.web.port: 70000 is not a port", "1 to 65535"),
        (WEB + "port = 0", 3, "services.web.port: 0 is not a port", "1 to 65535"),
        (WEB + 'port = "80"', 3, "is not a port", "without the quotes: port = 80"),
        (WEB + "port = true", 3, "true is not a port", "1 to 65535"),
        (WEB + "\n# x\nprot = 7", 5, 'unknown key "prot" in [services.web]', "did you mean port?"),
        (WEB + "healthcheck = 7", 3, "unknown key", "did you mean ready?"),
        ("memory = 1\n" + WEB, 1, 'unknown key "memory" at the top level', "it belongs into [limits]"),
        ("port = 1\n" + WEB, 1, "unknown key", "it belongs into [services.NAME]"),
        ("[service.web]\ncommand = 'x'", 1, "unknown key", "did you mean services?"),
        (WEB + "[limits]\nzzz = 1", 4, "unknown key", "known here: memory, memory_high, cpus"),
        (WEB + "[limits]\nmemory = 'lots'", 4, "limits.memory: 'lots' is no size", "512m"),
        (WEB + "[limits]\nmemory = 512", 4, "too few", 'memory = "512m"'),
        (WEB + "[limits]\nmemory = 0", 4, "limits.memory", "512m"),
        (WEB + "[limits]\ncpus = inf", 4, "limits.cpus", "1.5"),
        (WEB + "[limits]\npids = 1.5", 4, "limits.pids: 1.5 is not a whole number at least 1", ""),
        (WEB + "[lifecycle]\nttl = 'soon'", 4, "'soon' is no duration", "1h30m"),
        (WEB + "[lifecycle]\nttl = -5", 4, "out of range", "1h30m"),
        (WEB + "[lifecycle]\nrestart = 'maybe'", 4, "no restart policy", "on-failure:5"),
        (WEB + "restart = 'maybe'", 3, "no restart policy", "on-failure:5"),
        (WEB + "[isolation]\nlevel = 'ful'", 4, 'is not one of "full"', 'did you mean "full"?'),
        (
            WEB + "[lifecycle]\nidle = { stop = '1h', suspend = '2h' }",
            4,
            "lifecycle.idle.stop: it comes before suspend",
            "longer",
        ),
        (WEB + "[lifecycle]\nidle = { cpu = 3 }", 4, "lifecycle.idle: it says nothing of what is to happen", "stop"),
        (WEB + "[lifecycle]\nidle = 'stopp=1h'", 4, "'stopp' is no step", "suspend, stop or remove"),
        (WEB + "[lifecycle]\nidle = { halt = '1h' }", 4, "unknown key", "suspend, stop, remove"),
        (WEB + "[on_demand]\nkey = 'jar'", 4, "is no key", "use"),
        (WEB + "[scale]\nmin = 5", 4, "5 is above max (4)", "min <= max"),
        (WEB + "[network]\nmode = 'none'\n[scale]\nmin = 2", 5, "networks of their own", "leave"),
        (WEB + "[workspace]\nmode = 'cow'", 4, "not in this version", "bind"),
        (WEB + "image = 'nginx'", 3, "there are no images", "known here"),
        (WEB + "env = { A = 1 }", 3, "services.web.env.A: 1 is not a text", 'A = "1"'),
        ("[services.web]\ncommand = 3", 2, "services.web.command: 3 is not a text or a list of texts", "quotes"),
        ("[services.web]\ncommand = ['a',\n 3]", 3, "services.web.command[1]", "quotes"),
        ("[services.web]\ncommand = []", 2, "services.web.command: it is empty", "command ="),
        ("[services.web]\ncommand = ' '", 2, "it is empty", "command ="),
        ("[services.web]\ncommand = 'a\\u0000'".replace("'", '"'), 2, "NUL", ""),
        ("[services.web]\n\nport = 1", 1, "services.web: command is missing", "command ="),
        ("services = 3", 1, "is not a table", ""),
        ("[services]\nweb = 3", 2, "services.web: 3 is not a table", "[services.web]"),
        ("[services]", 1, "there is no service", "[services.web]"),
        (WEB + "depends_on = ['db']", 3, "services.web.depends_on[0]: there is no service 'db'", "services are: web"),
        (WEB + "depends_on = [\n'web']", 3, "web -> web", "depends_on"),
        (WEB + "depends_on = ['Web']", 3, "is no name", "DNS label"),
        (WEB + "stop_signal = 'NOPE'", 3, "is no signal", "TERM"),
        (WEB + "ready = { http = 'x' }", 3, "services.web.ready.http", "/"),
        (WEB + "ready = { http = '/', command = 'x' }", 3, "two checks", "one of them"),
        (WEB + "port = 80\n[services.api]\ncommand = 'y'\nport = 80", 6, "80 is the port of web too", "different ports"),
        (WEB + "[network]\npublish = [\n'80:80',\n'80:81']", 6, "published twice", ""),
        (WEB + "[network]\npublish = ['80']", 4, "says no host port", "8080:3000"),
        (WEB + "[network]\npublish = ['name:80:80']", 4, "no IP address", "127.0.0.1"),
        (WEB + "[network]\nmode = 'none'\npublish = ['80:80']", 5, "has no way in", "private"),
        (WEB + "[[mounts]]\nsource = '/a'\ntarget = 'b'", 5, "mounts[0].target", "start it with /"),
        (WEB + "[[mounts]]\nsource = '/a'", 3, "mounts[0]: target is missing", "target ="),
        ("mounts = ['a']\n" + WEB, 1, "mounts[0]", "SOURCE:TARGET"),
        (WEB + "[env]\n'A=B' = 'x'", 4, "is no variable's name", "no ="),
        (WEB + "x = 1979-05-27", 3, "unknown key", ""),
        (WEB + "port = 1979-05-27", 3, "1979-05-27 is not a port", ""),
        ("a = '" + "\xff" + "'\n" + "b = 1", 1, "unknown key", ""),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, line, message, hint):
    error = fault(text)
    assert error.message.startswith("sandbox.toml:"), error.message
    assert error.details.get("line") == line, error.message
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize("name", ["Shop", "-a", "a-", "a_b", "a.b.c", "a.", "", "x" * 64, "ä", "a\\n"])
def test_a_name_that_is_no_label(name):
    assert isinstance(fault(f'name = "{name}"\n' + WEB), NameInvalid)
    assert isinstance(fault(f'[services."{name}"]\ncommand = "x"'), NameInvalid)


def test_an_env_may_be_named_by_branch_and_project_and_a_service_may_not():
    assert parse('name = "fix-ui.shop"\n' + WEB).name == "fix-ui.shop"
    assert isinstance(fault('[services."a.b"]\ncommand = "x"'), NameInvalid)
    assert isinstance(fault(f'name = "{"a" * 40}.{"b" * 40}"\n' + WEB), NameInvalid)


def test_broken_encodings_name_the_line():
    error = fault(b"# fine\n# \xff\n")
    assert error.details["line"] == 2
    assert "0xff" in error.message


def test_too_much_is_refused_before_it_is_parsed():
    assert "is the most" in fault(b"#" * (MAX_BYTES + 1)).message


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 10_000,
        "x = " + "[" * 100 + "]" * 100,
        "x = " + "{a=" * 10_000,
        "x = " + "9" * 5000,
        "x = 1e999999",
        "a." * 120_000 + "b = 1",
        "x = { " + " 'a' . " * 40_000 + "b = 1 }",
        "x = 1\n[[ " + '"a\\"" . ' * 30_000 + "b ]]",
        "[" + "a." * 2000 + "b]\nc=1",
        "services." + "a." * 50 + "b = 1",
        WEB + "[labels]\nx = " + "[" * 50 + "]" * 50,
        WEB + "env = " + "{a=" * 50 + "1" + "}" * 50,
    ],
    ids=range(12),
)
def test_hostile_texts_are_refused(text):
    fault(text)


def test_relative_paths_start_where_the_file_lies():
    text = 'mounts = ["data:/data", "../x:/x", "/abs:/abs"]\nworkspace = { path = "app" }\n' + WEB
    spec = parse(text, file="/home/u/shop/sandbox.toml")
    assert [mount.source for mount in spec.mounts] == ["/home/u/shop/data", "/home/u/x", "/abs"]
    assert spec.workspace.path == "/home/u/shop/app"
    assert parse(text, directory="/w").workspace.path == "/w/app"
    unplaced = parse(text)
    assert (unplaced.workspace.path, unplaced.mounts[0].source) == ("app", "data")
    with pytest.raises(SpecInvalid):
        check(unplaced)


def test_what_home_is_the_caller_knows():
    spec = parse("mounts = ['~/.cache:/cache']\n" + WEB, file="/home/u/shop/sandbox.toml")
    assert spec.mounts[0].source == "~/.cache"


# -- anything at all -----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_a_spec_or_invalid(data):
    with contextlib.suppress(SpecInvalid):
        assert isinstance(parse(data), EnvSpec)


KEYS = st.sampled_from(
    [
        "services",
        "name",
        "workspace",
        "env",
        "limits",
        "isolation",
        "network",
        "lifecycle",
        "mounts",
        "labels",
        "command",
        "port",
        "ready",
        "http",
        "timeout",
        "memory",
        "mode",
        "publish",
        "depends_on",
        "restart",
        "web",
        "db",
        "path",
        "level",
        "egress",
        "source",
        "target",
        "on_demand",
        "tty",
    ]
) | st.text(alphabet=string.ascii_letters + '_-."\n é', max_size=5)
SCALARS = (
    st.integers() | st.floats() | st.booleans() | st.text(max_size=8) | st.datetimes()
    | st.sampled_from(["1g", "30s", "full", "private", "none", "/x", "80:80", "/a:/b:ro", "no", "TERM", "web", "db", "bind"])
)  # fmt: skip
TREES = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)),
    max_size=5,
)


def written(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" if not "\ud800" <= c <= "\udfff" else "?" for c in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


@given(TREES)
def test_any_tree_is_a_spec_or_invalid(tree):
    text = "\n".join(f"{written(key)} = {written(value)}" for key, value in tree.items())
    try:
        spec = parse(text)
    except SpecInvalid:
        return
    assert not list(problems(spec, placed=False))


@given(TREES, TREES)
def test_any_service_is_a_spec_or_invalid(service, network):
    text = f"services.web = {written({'command': 'x', **service})}\nnetwork = {written(network)}"
    with contextlib.suppress(SpecInvalid):
        assert not list(problems(parse(text), placed=False))
