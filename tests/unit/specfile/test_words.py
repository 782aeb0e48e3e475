"""Short forms: docker's, read as docker does."""

import contextlib
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import SpecInvalid
from sandboxd.spec import Mount, Publish
from sandboxd.specfile import parse_mount, parse_publish
from sandboxd.specfile.words import SIGNALS, parse_address, signal_number


@pytest.mark.parametrize(
    ("text", "publish"),
    [
        ("8080:3000", Publish(host_port=8080, port=3000)),
        ("8080:3000/tcp", Publish(host_port=8080, port=3000)),
        ("0.0.0.0:8080:3000", Publish(host_port=8080, port=3000, address="0.0.0.0")),
        ("localhost:8080:3000", Publish(host_port=8080, port=3000)),
        ("[::1]:8080:3000", Publish(host_port=8080, port=3000, address="::1")),
        ("8080:3000/tcp+proxy", Publish(host_port=8080, port=3000, proxy_protocol=True)),
        ("unix:/run/x.sock:3000", Publish(port=3000, address="unix:/run/x.sock")),
        ("unix:/run//../x.sock:3000/tcp+proxy", Publish(port=3000, address="unix:/x.sock", proxy_protocol=True)),
        ("[0:0::1]:1:65535", Publish(host_port=1, port=65535, address="::1")),
    ],
)
def test_publish(text, publish):
    assert parse_publish(text) == publish


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "3000",
            "a:b",
            "0:1",
            "1:65536",
            "1:2:3:4",
            "x:1:2",
            "::1:1:2",
            "8080:3000/udp",
            "-1:2",
            "1:2\n3",
            "256.0.0.1:1:2",
        ),
        *("unix:x.sock:1", "unix:/:1", "unix:/a/:1", "unix:/a.sock", "unix:/a.sock:0", f"unix:/{'a' * 107}:1", "1:2/tcp+x"),
    ],
)
def test_no_publish(text):
    with pytest.raises(SpecInvalid) as caught:
        parse_publish(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount(source="/a", target="/b")),
        ("/a:/b:ro", Mount(source="/a", target="/b", readonly=True)),
        ("/a:/b:rw", Mount(source="/a", target="/b")),
        ("./a b:/b", Mount(source="./a b", target="/b")),
    ],
)
def test_mounts(text, mount):
    assert parse_mount(text) == mount


@pytest.mark.parametrize("text", ["", "/a", ":/b", "/a:", "/a:/b:x", "/a:/b:ro:z"])
def test_no_mounts(text):
    with pytest.raises(SpecInvalid) as caught:
        parse_mount(text)
    assert "SOURCE:TARGET" in caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_read_or_invalid(text):
    for read in (parse_publish, parse_mount, parse_address):
        with contextlib.suppress(SpecInvalid):
            read(text)


def test_signals_are_this_kernels():
    ours = {name: number for name, number in SIGNALS.items() if hasattr(signal, "SIG" + name)}
    assert ours == {name: int(getattr(signal, "SIG" + name)) for name in ours}
    assert len(ours) >= 29


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), ("64", 64)])
def test_signal_names(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "NOPE", "SIG", "SIGSIGTERM", "99999", "١"])
def test_no_signals(text):
    assert signal_number(text) is None
