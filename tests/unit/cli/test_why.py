"""`sandbox why` on a fake client: what is asked, and how it reads."""

import json

from sandboxd.cli.why import amount
from sandboxd.protocol import messages as m
from tests.unit.cli.fakes import Sandbox, env

REPLY = m.WhyReply(
    env=env(),
    answers=[m.Answer(topic="ready", text="web waits for db", hint="sandbox logs shop/db")],
    denials=[
        m.Denial(time="2023-11-14T22:11:20Z", wall="seccomp", what="mount", program="evil\x1b[2J", count=3, option="--nested")
    ],
    limits=[m.LimitHit(time="", limit="memory", value=512 << 20, peak=530 << 20, advice="raise it with -m 768m")],
    awake=["cpu 82% for 4m"],
    rules=["network: none at all"],
    unknown=["Landlock denials are told to root only"],
)


def test_it_reads_like_an_answer(sandbox: Sandbox) -> None:
    done = sandbox("why", "shop", "--since", "5m", Why=REPLY)
    assert done.asked == [m.Why(target="shop", since="5m")]
    lines = done.out.splitlines()
    assert lines[0].startswith("shop: Up ")
    assert "  waits     web waits for db" in lines
    assert any("mount by evil" in line and "3 times" in line and "(wall: seccomp)" in line for line in lines)
    assert "            -> to allow it: --nested" in lines
    assert "  limit     memory of 512MiB, 530MiB seen" in lines
    assert "  awake     cpu 82% for 4m" in lines
    assert "\x1b" not in done.out


def test_several_envs_and_json(sandbox: Sandbox) -> None:
    assert sandbox("why", "a", "b", Why=REPLY).out.count("shop: Up") == 2
    done = sandbox("why", "a", "--format", "json", Why=REPLY)
    found = json.loads(done.out)
    assert found["denials"][0]["option"] == "--nested"
    assert found["env"]["name"] == "shop"


def test_amounts_are_sizes_where_they_are_bytes() -> None:
    assert (amount("memory_high", 1 << 20), amount("disk", 512), amount("pids", 256)) == ("1MiB", "512B", "256")
