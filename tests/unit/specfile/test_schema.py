"""The JSON Schema: valid itself, true of the examples, and of one mind with the parser where a schema can be."""

import json
import tomllib
from pathlib import Path

import jsonschema  # type: ignore[import-untyped,unused-ignore]
import pytest

from sandboxd.errors import SpecInvalid
from sandboxd.specfile import parse_spec
from sandboxd.specfile.schema import json_schema

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*/sandbox.toml"))
WEB = '[services.web]\ncommand = "x"\n'
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_it_is_a_schema_and_plain_data():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_are_valid(path):
    VALIDATOR.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        (WEB, True),
        (WEB + "stop_timeout = '1m30s'\n[limits]\nmemory = '1.5GiB'\ndisk = 5000000\n[lifecycle]\nttl = 90", True),
        (
            "mounts = ['/a:/b:ro', { source = '/a', target = '/c' }]\n"
            + WEB
            + "[network]\npublish = ['80:80']\negress = ['x.org']",
            True,
        ),
        (WEB + "command2 = 1", False),
        (WEB + "port = 70000", False),
        (WEB + "[limits]\nmemory = 'lots'", False),
        (WEB + "[limits]\nmemory = true", False),
        (WEB + "[lifecycle]\nttl = 'soon'", False),
        (WEB + "[isolation]\nlevel = 'most'", False),
        ("[services.Web]\ncommand = 'x'", False),
        ("[services.web]\nport = 1", False),
        ("mounts = [3]\n" + WEB, False),
        ("on_demand = {}\n" + WEB, False),
    ],
)
def test_schema_and_parser_are_of_one_mind(text, fine):
    assert VALIDATOR.is_valid(tomllib.loads(text)) == fine
    try:
        parse_spec(text.encode(), file="sandbox.toml", default_name=None)
    except SpecInvalid:
        assert not fine
    else:
        assert fine
