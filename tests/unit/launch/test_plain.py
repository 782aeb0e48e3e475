"""JSON without the json package: the same bytes and values as that, and an error for everything else."""

import json
import subprocess
import sys

import pytest

from sandboxd.launch import plain
from tests.kernel.inside import ROOT

VALUES = [None, True, 0, -1, 1.5, "", 'a"\\\n\0é\ud800', [], {}, [1, [2, {"a": None}]], {"a": {"b": "c"}, "": 10**30}]


@pytest.mark.parametrize("value", VALUES)
def test_it_is_what_the_package_writes_and_reads(value: object) -> None:
    body = plain.encode(value)
    assert body == json.dumps(value, separators=(",", ":")).encode()
    assert plain.decode(body) == value
    assert plain.decode(b" \r\n\t" + bytearray(body) + b"\n ") == value


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"[1,]", b"1 2", b"nul", b'"\n"', b"\xff", b"NaN", b"-Infinity", b"[" * 100])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is one of these is all that is promised
        plain.decode(body)


def test_depth_is_an_error_and_no_crash() -> None:
    with pytest.raises(RecursionError):
        plain.decode(b"[" * 200_000 + b"]" * 200_000)


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), b"x"])
def test_what_has_no_form(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain.encode(value)


def test_its_errors_need_nothing_that_is_not_loaded() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sandboxd.launch import init, launcher, plain, warm
sys.path.clear(); sys.meta_path.clear()
for body in (b"{{", b"[1,]", b"nul"):
    try:
        plain.decode(body)
    except ValueError:
        continue
    raise SystemExit("no error")
print(*sorted({{"json", "re", "enum", "socket", "signal", "contextlib", "functools", "collections"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
