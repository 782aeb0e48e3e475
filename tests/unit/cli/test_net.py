"""`sandbox net` (`sandboxd.cli.net`) on a fake client: what is asked, and how it reads."""

import json

from sandboxd.protocol import messages as m
from tests.unit.cli.fakes import ID, Sandbox, env

PASSAGES = [
    m.Passage(
        number=1, name="a.example", address="93.184.216.34", port=443, state="open", rule="*.example", sent=5, received=2048
    ),
    m.Passage(number=2, name="", address="2606:2800::1", port=443, state="failed", reason="refused"),
    m.Passage(number=3, name="evil\x1b[2J", address="", port=0, state="denied", allow="evil\x1b[2J"),
]
REPLY = m.NetReply(env=env(), rules=["*.example"], passages=PASSAGES, total=3, denied=1, sent=5, received=2048, incoming=2)


def test_it_reads_by_name_and_says_what_would_allow_it(sandbox: Sandbox) -> None:
    done = sandbox("net", "shop", Net=REPLY, Inspect=m.InspectReply(env=env()))
    assert done.asked[-1] == m.Net(target="shop")
    assert "shop out: *.example (3 connections, 1 denied, 5B sent, 2KiB received)" in done.out
    assert "shop in: 2 connections open, http://shop.localhost:7070" in done.out
    lines = {line.split()[1]: line for line in done.out.splitlines()[3:]}
    assert lines["a.example:443"].split()[2] == "93.184.216.34"
    assert lines["[2606:2800::1]:443"].endswith("refused")
    assert any("--allow evil" in line for line in lines.values())
    assert "\x1b" not in done.out


def test_rules_are_given_and_json_is_one_connection_a_line(sandbox: Sandbox) -> None:
    done = sandbox("net", ID, "--allow", "a.example,b.example:443", "--allow", "lan", "--format", "json", Net=REPLY)
    assert done.asked[-1] == m.Net(target=ID, allow=["a.example", "b.example:443", "lan"])
    assert [json.loads(line)["number"] for line in done.out.splitlines()] == [1, 2, 3]


def test_following_tells_each_change_once(sandbox: Sandbox) -> None:
    closed = [m.Passage(number=1, name="a.example", address="93.184.216.34", port=443, state="closed"), *PASSAGES[1:]]
    replies = [REPLY, REPLY, m.NetReply(env=env(), rules=[], passages=closed)]
    done = sandbox("net", "-f", "shop", Net=replies)
    assert [line.split()[0] for line in done.out.splitlines()] == ["open", "failed", "denied", "closed"]


CLIENT = m.Passage(
    number=-9, name="shop.localhost", address="127.0.0.1:40000", port=3000, state="open", rule="http", sent=2048, direction="in"
)


def test_who_is_connected_is_shown_by_where_from_and_what_was_asked_for(sandbox: Sandbox) -> None:
    reply = m.NetReply(env=env(), rules=[], passages=[*PASSAGES, CLIENT], incoming=1)
    done = sandbox("net", "shop", Net=reply, Inspect=m.InspectReply(env=env()))
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[-2][:4] == ["STATE", "FROM", "ASKED", "FOR"]
    assert rows[-1][:5] == ["open", "127.0.0.1:40000", "shop.localhost", "3000", "2KiB"]
    followed = sandbox("net", "-f", "shop", Net=[reply, reply, m.NetReply(env=env(), rules=[], passages=PASSAGES)])
    assert followed.out.splitlines()[3:] == [
        "open    from 127.0.0.1:40000 to shop.localhost  http",
        "closed  from 127.0.0.1:40000 to shop.localhost  http",
    ]
