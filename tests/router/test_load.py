"""Load generators of other makers, with what each does to a connection: no answer is lost or wrong. No times are looked at."""

import re
import subprocess

import pytest

from tests.require import require
from tests.router.standin import Bench, Standin, rested, settle

COUNT = 4000


def load(bench: Bench, *command: str) -> str:
    """What it prints; it names the router by address, so the host comes as a field."""
    require(command[0])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("pipelined", ["1", "8"])
def test_h2load(bench: Bench, shop: Standin, pipelined: str) -> None:
    """HTTP/1.1 as nghttp2 speaks it; with -m it pipelines."""
    bench.push([shop.endpoint()], hosts={"shop.localhost": 0, "127.0.0.1": 0})  # it takes no other Host for HTTP/1.1
    before = rested(bench)
    words = ("--h1", "-n", str(COUNT), "-c", "50", "-m", pipelined)
    said = load(bench, "h2load", *words, f"http://127.0.0.1:{bench.port}/")
    assert f"{COUNT} succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert f"status codes: {COUNT} 2xx, 0 3xx, 0 4xx, 0 5xx" in said
    settle(bench, before + 60)


@pytest.mark.parametrize("more", [(), ("-disable-keepalive",), ("-m", "POST", "-d", "x" * 5000)], ids=["kept", "new", "bodies"])
def test_hey(bench: Bench, shop: Standin, more: tuple[str, ...]) -> None:
    """HTTP/1.1 as Go's net/http speaks it."""
    words = ("-n", str(COUNT // 2), "-c", "50", "-t", "60", "-host", "shop.localhost", *more)
    said = load(bench, "hey", *words, f"http://127.0.0.1:{bench.port}/digest")
    codes = dict(re.findall(r"\[(\d+)\]\s+(\d+) responses", said))
    assert codes == {"200": str(COUNT // 2)}, said
    assert "Error distribution" not in said
