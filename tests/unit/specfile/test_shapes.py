"""What the types say in words."""

import pytest

from sandboxd.spec import EnvSpec, Lifecycle, Limits, Network, Ready, Service
from sandboxd.specfile import shapes


@pytest.mark.parametrize(
    ("struct", "field", "words"),
    [
        (Service, "port", "a port (a whole number from 1 to 65535)"),
        (Service, "command", "a text or a list of texts"),
        (Service, "expose", 'one of "http", "tcp", "none"'),
        (Service, "depends_on", "a list of names"),
        (Service, "tty", "true or false"),
        (Service, "env", "a table"),
        (Service, "ready", "a table"),
        (Limits, "memory", 'a size, as 1048576 or "512m"'),
        (Limits, "cpus", "a number more than 0"),
        (Limits, "nofile", "a whole number at least 16"),
        (Lifecycle, "ttl", 'a duration, as 30 or "1m30s"'),
        (Network, "egress", 'one of "open", "none", "proxy" or a list of texts'),
        (Ready, "http", "a text matching ^/ (path; any 2xx or 3xx answer)"),
    ],
)
def test_every_kind_of_type_has_words(struct, field, words):
    assert shapes.words(shapes.fields_of(struct)[field][0]) == words


def test_units_are_found_behind_optional():
    limits = shapes.fields_of(Limits)
    assert [shapes.unit_of(limits[field][0]) for field in ("memory", "disk", "pids")] == ["size", "size", None]


def test_required_fields_are_known():
    assert [name for name, (_, required) in shapes.fields_of(EnvSpec).items() if required] == ["services"]
