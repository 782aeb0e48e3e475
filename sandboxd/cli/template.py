"""`--format`: `json`, `table`, or a Go-like template such as `{{.Name}}\\t{{.Status}}`, over any message.

Pure. A field is looked up among the view's columns (`.Status` as ps prints it) and the message's own keys (`.ExitCode` is
`exit_code`), without regard to case or underscores, with dots for what lies deeper; `{{json .Ports}}` prints JSON.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sandboxd.errors import UsageError
from sandboxd.protocol.messages import Reply

ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
FIELD = re.compile(r"(json\s+)?\.((?:[A-Za-z0-9_-]+)(?:\.[A-Za-z0-9_-]+)*)?")
ESCAPES = {r"\t": "\t", r"\n": "\n", r"\\": "\\"}

Columns = Mapping[str, Callable[[Any], str]]
"""Header -> what stands in that column for one message."""


def plain(item: Reply) -> dict[str, Any]:
    """A message as JSON data; `spec` is left out where it was not asked for."""
    data: dict[str, Any] = msgspec.to_builtins(item)
    if "spec" in data and data["spec"] is None:
        del data["spec"]
    return data


def json_line(data: object) -> str:
    """One JSON object on one line."""
    return msgspec.json.encode(data).decode()


def folded(name: str) -> str:
    """A field's name without what people write differently."""
    return re.sub(r"[\s_%/-]+", "", name).lower()


class Template:
    """A parsed `--format`. Raises UsageError for what cannot be parsed, at once, and for an unknown field, on use."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.table = text.startswith("table ")
        body = text.removeprefix("table ").strip() if self.table else text
        body = re.sub(r"\\[tn\\]", lambda found: ESCAPES[found[0]], body)
        self.parts: list[str | tuple[bool, str]] = []
        at = 0
        for found in ACTION.finditer(body):
            self.parts.append(body[at : found.start()])
            field = FIELD.fullmatch(found[1].strip())
            if field is None:
                raise UsageError(f"--format: {found[0]!r} is no field", hint="fields look like {{.Name}} or {{json .Labels}}")
            self.parts.append((field[1] is not None, field[2] or ""))
            at = found.end()
        self.parts.append(body[at:])
        if "{{" in body[at:] or not any(isinstance(part, tuple) for part in self.parts):
            raise UsageError(f"--format {text!r}: neither `json` nor a template", hint="--format json, or --format '{{.Name}}'")

    def header(self) -> str:
        """The header line of a `table` template."""
        return "".join(part if isinstance(part, str) else re.sub(r"[._]", " ", part[1]).upper() for part in self.parts)

    def render(self, item: Reply, columns: Columns) -> str:
        """The template filled in with one message."""
        data = plain(item)
        out = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            else:
                as_json, path = part
                value = data if not path else look_up(path, data, {} if as_json else columns, item)
                out.append(json_line(value) if as_json else shown(value))
        return "".join(out)


def look_up(path: str, data: dict[str, Any], columns: Columns, item: Reply) -> object:
    """The value at a dotted path; a column of the view wins over a key, as `{{.Status}}` in docker."""
    first, *deeper = path.split(".")
    by_column = {folded(header): cell for header, cell in columns.items()}
    if not deeper and folded(first) in by_column:
        return by_column[folded(first)](item)
    value: object = data
    known: list[str] = []
    for step in path.split("."):
        if isinstance(value, dict):
            known = list(value)
            keys = {folded(str(key)): key for key in reversed(known)}
            if step in value:
                value = value[step]
                continue
            if folded(step) in keys:
                value = value[keys[folded(step)]]
                continue
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
            continue
        raise no_field(step, [*columns, *known])
    return value


def no_field(step: str, known: list[str]) -> UsageError:
    """The error for a field that is not there, with the nearest that is."""
    from difflib import get_close_matches  # noqa: PLC0415 - 3 ms that only a mistake should cost

    near = get_close_matches(folded(step), [folded(name) for name in known], n=1)
    hint = f"did you mean {{{{.{near[0]}}}}}?" if near else f"there are: {', '.join(dict.fromkeys(folded(k) for k in known))}"
    return UsageError(f"--format: there is no field {step!r}", hint=hint)


def shown(value: object) -> str:
    """A value in a template's output: text as it is, lists by commas, the rest as JSON; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, (str, int, float)) for one in value):
        return ",".join(str(one) for one in value)
    return json_line(value)
