"""`--format` templates, on messages."""

import json

import pytest

from sandboxd.cli.render import env_columns
from sandboxd.cli.template import Template, plain
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import PortInfo, Usage
from tests.unit.cli.fakes import ID, NOW, env

COLUMNS = env_columns(now=NOW)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "shop"),
        ("{{ .name }}", "shop"),
        ("{{.ID}}", ID[:12]),
        ("{{.Name}}\\t{{.Status}}", "shop\tUp 2 minutes (ready)"),
        ("{{.State}}/{{.ExitCode}}", "ready/"),
        ("{{.exit_code}}", ""),
        ("{{.Labels.team}}", "web"),
        ("{{.Labels}}", "team=web"),
        ("{{json .Labels}}", '{"team":"web"}'),
        ("{{.Usage.MemoryBytes}}", "7"),
        ("{{.Ports.0.URL}}", "http://x"),
        ("{{.URL}} {", "http://shop.localhost:7070 {"),
    ],
)
def test_fields(template: str, text: str) -> None:
    ports = [PortInfo(service="main", port=1, expose="http", url="http://x")]
    info = env(labels={"team": "web"}, usage=Usage(memory_bytes=7), ports=ports)
    assert Template(template).render(info, COLUMNS) == text


def test_the_whole_message_as_json() -> None:
    assert json.loads(Template("{{json .}}").render(env(), COLUMNS)) == plain(env())
    assert "spec" not in plain(env())


@pytest.mark.parametrize("template", ["plain", "{{.Name", "{{range .Ports}}", "{{}}", "{{.Name}} {{", ""])
def test_what_cannot_be_parsed(template: str) -> None:
    with pytest.raises(UsageError):
        Template(template)


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Nmae") as caught:
        Template("{{.Nmae}}").render(env(), COLUMNS)
    assert "{{.name}}" in caught.value.hint
    with pytest.raises(UsageError, match="zzz"):
        Template("{{.Labels.zzz}}").render(env(labels={"team": "web"}), COLUMNS)


def test_a_table_has_headers() -> None:
    template = Template("table {{.Name}}\\t{{.ExitCode}}")
    assert template.table
    assert template.header() == "NAME\tEXITCODE"
