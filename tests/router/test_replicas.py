"""Replicas that take no connection: sandboxd.router.finding sends a request elsewhere as long as none has had a byte of it."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sandboxd.routing.table import Endpoint
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.unit.routing.test_hello import real

Make = Callable[..., Standin]


def replicas(*envs: Standin, **changes: Any) -> list[Endpoint]:
    """Endpoints of one scaled env, of which the first has the name."""
    return [env.endpoint(group=envs[0].env_id, replica=number, **changes) for number, env in enumerate(envs, 1)]


def test_a_request_goes_to_another_replica_where_one_refuses(bench: Bench, standin: Make) -> None:
    deaf, shop = standin("deaf", serve=()), standin("shop")
    bench.push(replicas(deaf, shop, sticky=True), hosts={"shop.localhost": 0})
    with Talk(bench.connect()) as talk:  # with its body, whatever its method, and told with whom to stay from here on
        fields = b"Cookie: sandboxd-replica=1\r\nContent-Length: 5\r\n"
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\n" + fields + b"\r\nhello")
        posted = talk.answer()
        assert (posted.status, json.loads(posted.body)[:2]) == (200, [5, hashlib.sha256(b"hello").hexdigest()])
        assert posted.head.count(b"Set-Cookie: ") == 1
        assert b"Set-Cookie: sandboxd-replica=2;" in posted.head
        for number in range(2, 6):
            answer = talk.get()
            assert (answer.status, answer.body) == (200, b"shop %d\n" % number)
    bench.run(bench.handle.count())
    assert bench.handle.counts.get(deaf.env_id, {}).get("requests", 0) == 0
    assert bench.handle.counts[shop.env_id]["requests"] == 5


def test_where_all_refuse_it_is_said_and_the_name_of_one_is_no_other(bench: Bench, standin: Make) -> None:
    one, two, shop = standin("one", serve=()), standin("two", serve=()), standin("shop")
    bench.push(replicas(one, two), hosts={"shop.localhost": 0})
    with Talk(bench.connect()) as talk:
        for _ in range(3):
            answer = talk.get()
            assert answer.status == 502
            assert b"Nothing listens there" in answer.body
    bench.push(replicas(shop, two), hosts={"shop.localhost": 0, "two.localhost": 1})
    with Talk(bench.connect()) as talk:
        assert talk.get(host="two.localhost").status == 502
        assert talk.get().status == 200


def test_a_bound_on_connections_is_kept_on_the_way(bench: Bench, standin: Make) -> None:
    deaf, shop = standin("deaf", serve=()), standin("shop")
    bench.push(replicas(deaf, shop, max_connections=1), hosts={"shop.localhost": 0})
    for _ in range(4):  # had the one that refuses kept a place, the second of these would wait for it
        with Talk(bench.connect()) as talk:
            assert talk.get().status == 200


def test_tls_goes_to_the_replica_that_is_least_in_use(bench: Bench, standin: Make) -> None:
    one, two = (standin(name, serve=[("echo", "127.0.0.1", 3000)]) for name in ("one", "two"))
    bench.push(replicas(one, two), hosts={"shop.localhost": 0})
    socks = [bench.connect() for _ in range(4)]
    for sock in socks:
        sock.sendall(real("shop.localhost"))
        assert sock.recv(1) == b"\x16"  # the service's answer: it is connected
    bench.run(bench.handle.count())
    assert [bench.handle.counts[env.env_id]["open"] for env in (one, two)] == [2, 2]
    bench.push([one.endpoint(group=one.env_id, replica=1, state="stopped"), two.endpoint(group=one.env_id, replica=2)],
               hosts={"shop.localhost": 0})  # fmt: skip
    socks.append(bench.connect())
    socks[-1].sendall(real("shop.localhost"))
    assert socks[-1].recv(1) == b"\x16"
    for sock in socks:
        sock.close()
