"""`sandbox update` and the flags that `run` shares with it: only what was named is asked for. So of sandboxd.cli.update."""

import pytest

from sandboxd.cli.ceilings import LimitFlags, changes, nofile
from sandboxd.errors import NotOffered, UsageError

M = 1 << 20


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({}, {}),
        ({"memory": "512m"}, {"memory": 512 * M}),
        ({"memory": "0"}, {"memory": None}),
        ({"memory_reservation": "1g"}, {"memory_high": 1 << 30}),
        ({"cpus": 1.5, "cpu_weight": 20}, {"cpus": 1.5, "cpu_weight": 20}),
        ({"cpus": 0.0, "cpu_weight": 0}, {"cpus": None, "cpu_weight": None}),
        ({"pids_limit": -1}, {"pids": None}),
        ({"max_connections": 8}, {"max_connections": 8}),
        ({"max_connections": 0}, {"max_connections": None}),
        ({"disk": "5g", "io_read": "10m", "io_write": "0"}, {"disk": 5 << 30, "io_read": 10 * M, "io_write": None}),
    ],
)
def test_flags_become_limits(flags, found):
    assert changes(LimitFlags(**flags)) == found


@pytest.mark.parametrize(
    "flags", [{"memory": "lots"}, {"cpus": -1.0}, {"pids_limit": 0}, {"cpu_weight": 10001}, {"max_connections": -1}]
)
def test_what_cannot_be_meant_names_its_flag(flags):
    with pytest.raises(UsageError, match=r"--?[a-z]"):
        changes(LimitFlags(**flags))


def test_nofile_is_the_one_ulimit():
    assert nofile(("nofile=64", "nofile=100:200")) == {"nofile": 200}
    with pytest.raises(NotOffered):
        nofile(("core=0",))
