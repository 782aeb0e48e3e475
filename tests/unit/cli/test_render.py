"""Tables, JSON Lines and templates on stdout."""

import json

import pytest

from sandboxd.cli.render import env_columns, items, table
from tests.unit.cli.fakes import NOW, env


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table(["A", "LONG"], [["wide cell", "x"], ["y", ""]]) == ["A           LONG", "wide cell   x", "y"]


def test_an_empty_table_has_headers() -> None:
    assert table(["ID", "NAME"], []) == ["ID   NAME"]


def test_cells_are_cleaned() -> None:
    assert table(["A"], [["a\x1b[2Jb\nc"]]) == ["A", "a\\x1b[2Jb\\nc"]


def test_ps_table(capsys: pytest.CaptureFixture[str]) -> None:
    items([env()], env_columns(now=NOW), how=None, hide=["LABELS", "KEY"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "COMMAND", "CREATED", "STATUS", "PORTS", "URL"]
    assert line.startswith('0123456789ab   shop   "npm run dev"   5 minutes ago   Up 2 minutes (ready)')
    assert line.endswith("http://shop.localhost:7070")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    items([env(name="a"), env(name="b")], {}, how="json")
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


def test_a_table_template_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    items([env(name="a"), env(name="longer")], env_columns(now=NOW), how="table {{.Name}}\\t{{.State}}")
    assert capsys.readouterr().out.splitlines() == ["NAME     STATE", "a        ready", "longer   ready"]
