"""The rules of each ABI, and which of them an env gets where."""

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.isolation import landlock as ll
from sandboxd.isolation.steps import Bind
from tests.unit.isolation.hosts import LAYOUT

ABIS = st.integers(1, 30)
NAMES = st.sampled_from(["home", "ada", "src", "shop", "x", ".cargo"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
BINDS = st.lists(
    st.builds(Bind, PATHS, PATHS, readonly=st.booleans(), file=st.booleans(), origin=st.sampled_from(["host", "inside"])),
    unique_by=lambda bind: bind.target,
)
PORTS = st.none() | st.sets(st.integers(1, 65535), max_size=4)


def test_each_abi_handles_what_its_kernel_knows() -> None:
    expected = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16, 8: 16, 9: 17, 10: 17, 11: 17}
    assert {abi: ll.handled(abi) for abi in expected} == {abi: (1 << bits) - 1 for abi, bits in expected.items()}
    assert [ll.ports_handled(abi) for abi in (3, 4, 30)] == [0, ll.BIND_TCP, ll.BIND_TCP]
    assert [ll.scopes(abi) for abi in (5, 6, 30)] == [0, 3, 3]
    assert [ll.log_flags(abi) for abi in (6, 7, 30)] == [0, 5, 5]


@given(ABIS, BINDS, PORTS)
def test_no_rule_allows_what_is_not_handled(abi: int, binds: list[Bind], ports: set[int] | None) -> None:
    """Else the kernel refuses the whole ruleset (EINVAL)."""
    prepared = ll.base(abi, LAYOUT, network=ports is None)
    step = ll.inside(abi, LAYOUT, binds, ports)
    for _, access in [*prepared.rules, *step.rules]:
        assert access
        assert not access & ~prepared.fs
    assert all(access & prepared.net == access for _, access in step.ports)
    files = {bind.target for bind in binds if bind.file}
    assert all(not access & ~ll.OF_FILES for path, access in step.rules if path in files)


@given(ABIS, BINDS)
def test_what_is_shown_can_be_read_and_only_what_is_shown_writable_can_be_changed(abi: int, binds: list[Bind]) -> None:
    granted = dict(ll.base(abi, LAYOUT, network=True).rules) | dict(ll.inside(abi, LAYOUT, binds, None).rules)
    shown = [bind for bind in binds if bind.origin != "inside"]
    for bind in shown:
        assert ll.beneath(granted, bind.target) & ll.READ_FILE
        if not bind.readonly:
            assert ll.beneath(granted, bind.target) & ll.WRITE_FILE
    writable = [bind.target for bind in shown if not bind.readonly]
    for bind in binds:
        if not any(f"{bind.target}/".startswith(f"{place}/") for place in writable):
            assert not ll.beneath(granted, bind.target) & ll.CHANGE


def test_the_system_is_read_and_scratch_is_written() -> None:
    granted = dict(ll.base(7, LAYOUT, network=True).rules)
    assert ll.beneath(granted, "/usr/bin/python3") & ll.READ == ll.READ
    assert not ll.beneath(granted, "/etc/passwd") & (ll.CHANGE | ll.IOCTL_DEV)
    assert ll.beneath(granted, "/tmp/x") & ll.CHANGE == ll.CHANGE
    assert ll.beneath(granted, "/dev/pts/0") & ll.IOCTL_DEV, "a terminal is nothing without its ioctls"
    assert ll.beneath(granted, "/home/ada/secret") == ll.READ_DIR
    assert not any(access & (ll.MAKE_CHAR | ll.MAKE_BLOCK) for access in granted.values())


@given(ABIS, st.sets(st.integers(1, 65535), min_size=1, max_size=4))
def test_on_the_hosts_network_only_its_own_ports_are_bound(abi: int, ports: set[int]) -> None:
    step = ll.inside(abi, LAYOUT, [], ports)
    assert step.ports == ([(port, ll.BIND_TCP) for port in sorted(ports)] if abi >= 4 else [])
    assert ll.base(abi, LAYOUT, network=False).net == (ll.BIND_TCP if abi >= 4 else 0)
    assert ll.base(abi, LAYOUT, network=True).net == 0
    assert ll.base(abi, LAYOUT, network=True).scoped == ll.scopes(abi)


def test_what_an_abi_lacks_is_said() -> None:
    assert ll.lacking(7, on_host=True) == ""
    assert ll.lacking(4, on_host=True) == "ABI 4 of this kernel says nothing of ioctl on devices, signals, abstract sockets"
    assert "TCP ports" in ll.lacking(1, on_host=True)
    assert "TCP ports" not in ll.lacking(1, on_host=False)
