"""`sandbox.toml`, and the rules that every spec keeps however it came: from a file, from flags, or over the wire."""

from sandboxd.specfile.parse import parse_spec
from sandboxd.specfile.rules import check
from sandboxd.specfile.schema import json_schema
from sandboxd.specfile.words import parse_mount, parse_publish

__all__ = ["check", "json_schema", "parse_mount", "parse_publish", "parse_spec"]
