"""Ports of the host: the holder is named, a free one is free."""

import os
import socket

import pytest

from sandboxd.errors import KernelError
from sandboxd.network.ports import clashes, numeric, pick_free_port, who_holds


@pytest.mark.parametrize("asked", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_the_holder_of_a_port_is_named(asked):
    with socket.create_server(("127.0.0.1", 0)) as listener, open("/proc/self/comm") as comm:
        assert who_holds(asked, listener.getsockname()[1]) == (os.getpid(), comm.read().strip())


def test_a_wildcard_holds_every_address():
    with socket.create_server(("0.0.0.0", 0)) as listener:
        found = who_holds("127.0.0.1", listener.getsockname()[1])
        assert found is not None
        assert found[0] == os.getpid()


def test_another_address_of_the_same_port_is_no_holder():
    with socket.create_server(("127.0.0.2", 0)) as listener:
        assert who_holds("127.0.0.1", listener.getsockname()[1]) is None


def test_nobody_holds_a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert who_holds("127.0.0.1", port) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_picked_port_can_be_bound(address):
    port = pick_free_port(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, port))


def test_an_address_that_is_not_ours_is_an_error():
    with pytest.raises(KernelError) as caught:
        pick_free_port("192.0.2.1")
    assert "192.0.2.1" in caught.value.message


@pytest.mark.parametrize(
    ("text", "same"), [("[::1]", "::1"), ("", "0.0.0.0"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%lo", "fe80::1")]
)
def test_one_spelling_per_address(text, same):
    assert numeric(text) == same


def test_wildcards_clash_with_all():
    assert clashes("::", "127.0.0.1")
    assert not clashes("127.0.0.1", "127.0.0.2")
