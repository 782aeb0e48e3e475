"""Envs on demand, by a real daemon and router: templates, keys found in requests, one env for each key, and their end.

So of sandboxd.daemon.demand, sandboxd.daemon.templates, sandboxd.daemon.making, sandboxd.daemon.pooling,
sandboxd.router.doors and sandboxd.cli.demand.
"""

import asyncio
import contextlib
import http.client
import json
import resource
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from sandboxd.client import AsyncClient
from sandboxd.errors import InvalidState, NameTaken, NotFound, QueueFull, UsageError, WorkspaceInvalid
from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Idle, Lifecycle, OnDemand, Service, Workspace
from tests.conftest import run_daemon
from tests.daemon.asking import ENVIRON, inspect, remove, run, until
from tests.daemons import PATIENCE

# Says who it is and what it was asked for; one answer per connection, and no time lost with imports.
ECHO = """
import os, socket
server = socket.create_server(("127.0.0.1", 3000), backlog=1000)
while True:
    client, _ = server.accept()
    with client:
        head = client.recv(65536).decode()
        body = "\\n".join([os.uname().nodename, head]).encode()
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
"""


def template(name, *, path=None, command=("python3", "-S", "-c", ECHO), lifecycle=None, **on_demand):
    return EnvSpec(
        name=name,
        services={"web": Service(command=list(command), port=3000)},
        workspace=Workspace(path=str(path) if path else None),
        lifecycle=lifecycle or Lifecycle(),
        on_demand=OnDemand(**on_demand),
    )


def register(client, *args, **parts):
    return client.call(m.Register(spec=template(*args, **parts), environ=ENVIRON)).template


def unregister(client, name):
    return client.call(m.Unregister(name=name, force=True)).removed


class Answer:
    """An answer: `env` is who gave it."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read().decode()
        self.env = self.body.partition("\n")[0]
        self.cookie = (self.headers["Set-Cookie"] or "").partition(";")[0]


def ask(daemon, host, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=2 * PATIENCE)
    try:
        connection.request(
            "GET", path, None, {"Host": f"{host}.localhost", **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        return Answer(connection.getresponse())
    finally:
        connection.close()


def at_once(count, action):
    """Do it from that many threads; what each gave."""
    found, errors = [], []

    def one(number):
        try:
            found.append(action(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    assert not errors, errors[0]
    assert len(found) == count
    return found


def made(client, name):
    return client.call(m.List(all=True, filters=[f"template={name}"])).envs


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def test_a_cookie_is_handed_out_and_finds_its_env_again(shared_daemon, client):
    register(client, "shop", key="cookie")
    first = ask(shared_daemon, "shop")
    assert first.status == 200
    assert first.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    again = ask(shared_daemon, "shop", Cookie=f"theme=dark; {first.cookie}")
    assert (again.env, again.headers["Set-Cookie"]) == (first.env, None)
    other = ask(shared_daemon, "shop")
    assert other.env != first.env
    envs = made(client, "shop")
    assert {env.name for env in envs} == {first.env, other.env}
    assert all(env.key.startswith("cookie:") and env.name.startswith("shop-") for env in envs)
    assert {env.key.removeprefix("cookie:") for env in envs} == {c.cookie.partition("=")[2][:32] for c in (first, other)}
    unregister(client, "shop")
    assert made(client, "shop") == []


def test_a_forged_cookie_is_none(shared_daemon, client):
    register(client, "forged", key="cookie")
    real = ask(shared_daemon, "forged")
    name, _, value = real.cookie.partition("=")
    session, _, mac = value.partition(".")
    for text in (f"{session}.{'0' * 32}", f"{'0' * 32}.{mac}", session, f"{session}.", "", value.upper(), value + "0"):
        answer = ask(shared_daemon, "forged", Cookie=f"{name}={text}")
        assert answer.status == 200
        assert answer.env != real.env
        assert answer.cookie.startswith(f"{name}=")
        remove(client, answer.env)
    register(client, "others", key="cookie")  # a cookie of one template says nothing to another
    assert ask(shared_daemon, "others", Cookie=f"sandboxd-others={value}").cookie
    for name in ("forged", "others"):
        unregister(client, name)


async def crowd(daemon, host, count):
    """The answers to that many requests at once."""

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}.localhost\r\nConnection: close\r\n\r\n".encode())
        data = await reader.read()
        writer.close()
        return data

    return await asyncio.gather(*(one() for _ in range(count)))


@contextlib.contextmanager
def many_files():
    """The usual 1,024 open files are too few for a thousand clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard if hard >= 0 else 1 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_simultaneous_first_requests_of_one_key_make_one_env(shared_daemon, client):
    register(client, "one", key="host", create=True)
    with many_files() as most:
        answers = asyncio.run(crowd(shared_daemon, "a.one", 1000 if most > 1100 else 700))
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert len({answer.partition(b"\r\n\r\n")[2].partition(b"\n")[0] for answer in answers}) == 1
    assert [env.key for env in made(client, "one")] == ["host:a"]
    unregister(client, "one")


def test_each_env_of_a_crowd_can_be_spoken_with_as_soon_as_it_is_there(shared_daemon, client):
    """Its init is met later, unless somebody wants something of it; so of sandboxd.daemon.meeting."""
    register(client, "used", key="path", create=True, rate=0)

    def use(number):
        with shared_daemon.client() as own:
            env = own.call(m.Ensure(template="used", key=f"k{number}", wait="started")).env
            own.call(m.Kill(target=env.id, service="web", signal="USR1"))
            return own.call(m.Wait(target=env.id, until="stopped", timeout=PATIENCE)).exit_code

    assert at_once(8, use) == [128 + signal.SIGUSR1] * 8
    unregister(client, "used")


def test_every_kind_of_key(shared_daemon, client):
    """Each finds its env again, nobody else's, and what is chosen by the client makes none unless it may."""
    kinds = {
        "host": lambda n: ("{0}.keys", "/", {}, f"k{n}"),
        "path": lambda n: ("keys", f"/k{n}/page?x=1", {}, ""),
        "header:X-Tenant": lambda n: ("keys", "/", {"X-Tenant": f"k{n}"}, ""),
        "token": lambda n: ("keys", "/", {"Authorization": f"Bearer secret-{n}"}, ""),
    }
    for kind, parts in kinds.items():
        register(client, "keys", key=kind, create=True)
        found = {}
        for number in (1, 2):
            host, path, headers, label = parts(number)
            answers = [ask(shared_daemon, host.format(label), path, **headers) for _ in range(2)]
            assert [answer.status for answer in answers] == [200, 200], kind
            assert answers[0].env == answers[1].env
            assert not answers[0].cookie
            assert f"GET {path} HTTP/1.1" in answers[0].body
            found[number] = answers[0].env
        assert found[1] != found[2]
        keys = {env.key for env in made(client, "keys")}
        named = {f"{kind.partition(':')[0]}:k{n}" for n in (1, 2)}
        assert keys == named or (kind == "token" and all(key.startswith("token:") and "secret" not in key for key in keys))
        without = ask(shared_daemon, "keys")
        assert without.status == (401 if kind == "token" else 400), kind
        unregister(client, "keys")


def test_an_address_is_a_key(shared_daemon, client):
    register(client, "addr", key="ip", create=True)
    answers = {ask(shared_daemon, "addr").env for _ in range(3)}
    assert len(answers) == 1
    assert [env.key for env in made(client, "addr")] == ["ip:127.0.0.1"]
    unregister(client, "addr")


def test_the_path_of_a_key_can_be_stripped(shared_daemon, client):
    register(client, "strip", key="path", strip=True, create=True)
    answer = ask(shared_daemon, "strip", "/tenant/page?x=1")
    assert "GET /page?x=1 HTTP/1.1" in answer.body
    assert [env.key for env in made(client, "strip")] == ["path:tenant"]
    unregister(client, "strip")


def test_without_create_a_request_makes_none_but_ensure_does(shared_daemon, client):
    register(client, "named", key="host")
    answer = ask(shared_daemon, "a.named")
    assert (answer.status, "sandbox ensure named" in answer.body) == (404, True)
    assert made(client, "named") == []
    reply = client.call(m.Ensure(template="named", key="a"))
    assert (reply.created, reply.env.key, reply.env.state, reply.cookie) == (True, "host:a", "ready", None)
    assert ask(shared_daemon, "a.named").env == reply.env.name
    again = client.call(m.Ensure(template="named", key="host:a"))
    assert (again.created, again.env.id) == (False, reply.env.id)
    with pytest.raises(UsageError, match="can be no key"):
        client.call(m.Ensure(template="named", key="no label"))
    with pytest.raises(NotFound, match="no template"):
        client.call(m.Ensure(template="nothing", key="a"))
    unregister(client, "named")


def test_a_chain_falls_back_to_a_cookie(shared_daemon, client):
    register(client, "chain", key=["token", "cookie"], create=True)
    token = ask(shared_daemon, "chain", Authorization="Bearer abc")
    assert not token.cookie
    visitor = ask(shared_daemon, "chain")
    assert visitor.cookie
    assert visitor.env != token.env
    both = ask(shared_daemon, "chain", Authorization="Bearer abc", Cookie=visitor.cookie)
    assert both.env == token.env
    assert ask(shared_daemon, "chain", Cookie=visitor.cookie).env == visitor.env
    unregister(client, "chain")


def test_ensure_gives_the_cookie_of_a_session(shared_daemon, client):
    register(client, "session", key="cookie")
    reply = client.call(m.Ensure(template="session", key="alice"))
    answer = ask(shared_daemon, "session", Cookie=reply.cookie)
    assert (answer.env, answer.cookie) == (reply.env.name, "")
    unregister(client, "session")


def test_no_secret_is_kept_or_logged(shared_daemon, client):
    register(client, "quiet", key=["token", "cookie"], create=True)
    token = "tok-9f8e7d6c5b4a"
    ask(shared_daemon, "quiet", Authorization=f"Bearer {token}")
    cookie = ask(shared_daemon, "quiet").cookie
    mac = cookie.rpartition(".")[2]
    events = client.call(m.Events()).events
    assert token not in str(events)
    assert mac not in str(events)
    for path in Path(shared_daemon.dir).glob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert token.encode() not in data, path
            assert mac.encode() not in data, path
    assert (shared_daemon.dir / "secret").stat().st_mode & 0o777 == 0o600
    unregister(client, "quiet")


def test_past_the_bounds_the_answer_comes_at_once(shared_daemon, client):
    register(client, "full", key="host", create=True, max=2)
    for label in ("a", "b"):
        assert ask(shared_daemon, f"{label}.full").status == 200
    refused = ask(shared_daemon, "c.full")
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert "2 environments are there" in refused.body
    with pytest.raises(QueueFull, match="2 environments are there"):
        client.call(m.Ensure(template="full", key="c"))
    assert ask(shared_daemon, "a.full").status == 200
    remove(client, made(client, "full")[0].name)
    assert ask(shared_daemon, "c.full").status == 200
    unregister(client, "full")


def test_one_address_makes_only_so_many(shared_daemon, client):
    register(client, "few", key="host", create=True, per_user=1)
    assert ask(shared_daemon, "a.few").status == 200
    refused = ask(shared_daemon, "b.few")
    assert (refused.status, "for this address" in refused.body) == (503, True)
    assert client.call(m.Ensure(template="few", key="b")).created  # its owner's own
    unregister(client, "few")
    register(client, "slow", key="cookie", rate=2)
    statuses = [ask(shared_daemon, "slow").status for _ in range(3)]
    assert statuses == [200, 200, 503]
    unregister(client, "slow")


@pytest.fixture
def small():
    """A daemon that starts four envs at once, and lets six wait."""
    yield from run_daemon(SANDBOXD_MAX_STARTING="4", SANDBOXD_QUEUE="6")


def test_a_spike_past_the_ceilings_is_answered_and_nothing_is_left(small):
    """More new keys at once than envs may start: each request is answered, with its env or with a 503 that says when."""
    with small.client() as client:
        register(client, "spike", key="cookie", rate=0)
        answers = at_once(30, lambda number: ask(small, "spike"))
        served = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(served) + len(refused) == 30
        assert len({answer.env for answer in served}) == len(served) >= 10
        assert all(answer.headers["Retry-After"] for answer in refused)
        for answer in served:
            assert ask(small, "spike", Cookie=answer.cookie).env == answer.env
        until(lambda: len(made(client, "spike")) == len(served), "none but those that were served")
        for env in made(client, "spike"):
            assert remove(client, env.id).leaked == {}
        assert client.call(m.Templates(name="spike")).templates[0].envs == 0


SLOW = """
import os, time
while not os.path.exists("go"): time.sleep(0.02)
"""


def test_what_cannot_be_written_down_is_made_for_nobody(shared_daemon, client):
    register(client, "unwritten", key="header:x-user", create=True)
    pid = shared_daemon.process.pid
    usual = resource.prlimit(
        pid, resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )  # a disk that is full
    try:
        answers = at_once(3, lambda number: ask(shared_daemon, "unwritten", X_User=f"user-{number}"))
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
    assert [answer.status for answer in answers] == [503] * 3
    assert all("state.db" in answer.body for answer in answers), answers[0].body
    until(lambda: not made(client, "unwritten"))
    assert ask(shared_daemon, "unwritten", X_User="user-0").status == 200
    unregister(client, "unwritten")


def test_a_browser_sees_a_page_meanwhile(shared_daemon, client, tmp_path):
    register(client, "page", key="cookie", path=tmp_path, command=["python3", "-S", "-c", SLOW + ECHO], waiting_page=True)
    waiting = ask(shared_daemon, "page", Accept="text/html,*/*")
    assert waiting.status == 503
    assert (waiting.headers["Refresh"], waiting.headers["Retry-After"]) == ("1", "1")
    assert "page is starting" in waiting.body
    assert waiting.cookie
    (tmp_path / "go").touch()
    app = ask(shared_daemon, "page", Accept="text/html,*/*", Cookie=waiting.cookie)
    while app.status == 503:  # the page goes on by itself
        app = ask(shared_daemon, "page", Accept="text/html,*/*", Cookie=waiting.cookie)
    assert (app.status, app.cookie) == (200, "")
    assert len(made(client, "page")) == 1
    program = ask(shared_daemon, "page", Accept="*/*")  # a program is not shown a page: its answer is the app's
    assert program.status == 200
    unregister(client, "page")


def test_what_cannot_start_says_why_and_is_not_made_again_and_again(shared_daemon, client):
    register(client, "broken", key="host", create=True, command=["sh", "-c", "exit 3"])
    assert [ask(shared_daemon, "a.broken").status for _ in range(3)] == [503] * 3
    until(lambda: made(client, "broken")[0].state == "failed", "failed")
    assert len(made(client, "broken")) == 1
    unregister(client, "broken")
    register(client, "missing", key="host", create=True, command=["/no/such/program"])
    answer = ask(shared_daemon, "a.missing")
    assert (answer.status, "no/such/program" in answer.body) == (503, True)
    until(lambda: made(client, "missing") == [], "nothing half-made stays")
    unregister(client, "missing")


def test_what_no_env_could_be_made_of_is_refused_when_it_is_registered(shared_daemon, client, tmp_path):
    before = client.call(m.Templates()).templates
    (shared_daemon.dir / "inside").mkdir()
    for path, why in ((shared_daemon.dir / "inside", "sandboxd's own directory"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(WorkspaceInvalid, match=why) as refused:
            register(client, "inside", key="host", create=True, path=path)
        assert str(path) in refused.value.message
        assert refused.value.hint
    assert client.call(m.Templates()).templates == before
    register(client, "inside", key="host", create=True, path=tmp_path)  # what was refused has taken nothing
    assert ask(shared_daemon, "a.inside").status == 200
    unregister(client, "inside")


def test_a_key_is_free_again_when_its_time_is_over(shared_daemon, client):
    register(client, "short", key="host", create=True, lifecycle=Lifecycle(ttl=2.0))
    first = ask(shared_daemon, "a.short")
    until(lambda: first.env not in [env.name for env in made(client, "short")], "removed by itself")
    second = ask(shared_daemon, "a.short")
    assert second.status == 200
    assert second.env != first.env
    unregister(client, "short")


def test_the_ladder_ends_in_its_removal(shared_daemon, client):
    rule = Idle(suspend=1.0, stop=2.0, remove=4.0)
    register(client, "ladder", key="cookie", lifecycle=Lifecycle(idle=rule))
    answer = ask(shared_daemon, "ladder")
    for state in ("suspended", "stopped"):
        until(lambda state=state: inspect(client, answer.env).state == state, state)
        assert ask(shared_daemon, "ladder", Cookie=answer.cookie).env == answer.env
    until(lambda: made(client, "ladder") == [], "removed")
    again = ask(shared_daemon, "ladder", Cookie=answer.cookie)  # the key is the visitor's for good
    assert (again.status, again.cookie) == (200, "")
    assert again.env != answer.env
    unregister(client, "ladder")


def test_envs_are_kept_warm_and_handed_out(shared_daemon, client):
    register(client, "warm", key="cookie", warm=2, max=4)
    ready = lambda: client.call(m.Templates(name="warm")).templates[0].warm_ready  # noqa: E731
    until(lambda: ready() == 2, "two warm")
    waiting = {env.name for env in made(client, "warm")}
    assert all(env.key is None for env in made(client, "warm"))
    assert client.call(m.Why(target=waiting.copy().pop())).awake == ["it is kept warm for the next key of warm"]
    answers = [ask(shared_daemon, "warm") for _ in range(2)]
    assert {answer.env for answer in answers} == waiting
    until(lambda: ready() == 2, "two more")
    assert {env.key for env in made(client, "warm") if env.name in waiting} == {
        f"cookie:{answer.cookie.partition('=')[2][:32]}" for answer in answers
    }
    for answer in answers:
        assert ask(shared_daemon, "warm", Cookie=answer.cookie).env == answer.env
    old = {env.name for env in made(client, "warm") if env.key is None}
    register(client, "warm", key="cookie", warm=1, max=4, lifecycle=Lifecycle(ttl=60.0))  # the spec's change drops them
    until(lambda: not old & {env.name for env in made(client, "warm")}, "the stale ones go")
    until(lambda: ready() == 1, "a new one")
    assert {answer.env for answer in answers} <= {env.name for env in made(client, "warm")}
    unregister(client, "warm")
    assert made(client, "warm") == []


def test_what_is_kept_warm_can_be_stopped_and_ends_with_everything(daemon):
    with daemon.client() as client:
        register(client, "warm", key="cookie", warm=1)
        until(lambda: client.call(m.Templates(name="warm")).templates[0].warm_ready == 1, "one warm")
        (env,) = made(client, "warm")
        client.call(m.Stop(target=env.id))
        until(lambda: env.id not in [other.id for other in made(client, "warm")], "it is of no use any more")
        register(client, "other", key="cookie", warm=2)
        until(lambda: client.call(m.Templates(name="other")).templates[0].warm_ready == 2, "two warm")
        # and the end of the daemon ends them, too


def hold(daemon, label, found):
    found.append(ask(daemon, f"{label}.held"))


def test_the_daemon_dies_while_requests_wait(tmp_path):
    """The router holds on: the next daemon is asked again."""
    for daemon in run_daemon():
        with daemon.client() as client:
            register(client, "held", key="host", create=True, path=tmp_path, command=["python3", "-S", "-c", SLOW + ECHO])
            found: list[Answer] = []
            threads = [threading.Thread(target=hold, args=(daemon, label, found)) for label in "aab"]
            for thread in threads:
                thread.start()
            until(lambda: len(made(client, "held")) == 2, "two envs")
        daemon.kill()
        late = threading.Thread(target=hold, args=(daemon, "c", found))
        late.start()
        daemon.start()
        (tmp_path / "go").touch()
        for thread in [*threads, late]:
            thread.join(2 * PATIENCE)
        assert [answer.status for answer in found] == [200] * 4
        assert len({answer.env for answer in found}) == 3
        with daemon.client() as client:
            assert sorted(env.key for env in made(client, "held")) == ["host:a", "host:b", "host:c"]
            assert client.call(m.Templates()).templates[0].name == "held"


def test_the_cookie_outlives_daemon_and_router(tmp_path):
    for daemon in run_daemon():
        with daemon.client() as client:
            register(client, "lasting", key="cookie")
            answer = ask(daemon, "lasting")
            client.call(m.Shutdown(all=False))
        assert daemon.process is not None
        daemon.process.wait()
        assert ask(daemon, "lasting", Cookie=answer.cookie).env == answer.env
        daemon.start()
        assert ask(daemon, "lasting", Cookie=answer.cookie).env == answer.env


def test_names_are_not_shared(shared_daemon, client):
    run(client, "sleep 1000", name="taken")
    with pytest.raises(NameTaken, match="taken by env"):
        register(client, "taken", key="cookie")
    remove(client, "taken")
    register(client, "taken", key="cookie")
    with pytest.raises(NameTaken, match="taken by a template"):
        run(client, "sleep 1000", name="taken")
    with pytest.raises(UsageError, match="is a template"):
        client.call(m.Run(spec=template("taken", key="cookie"), environ=ENVIRON))
    client.call(m.Ensure(template="taken", key="a"))
    with pytest.raises(InvalidState, match="has 1 env"):
        client.call(m.Unregister(name="taken"))
    unregister(client, "taken")


def test_a_cookie_rides_on_whatever_answer_comes(shared_daemon, client, tmp_path):
    """The app's own Set-Cookie and an upgrade stay as they are."""
    app = """
import socket
server = socket.create_server(("127.0.0.1", 3000))
while True:
    client, _ = server.accept()
    with client:
        head = client.recv(65536)
        if b"upgrade" in head.lower():
            client.sendall(b"HTTP/1.1 101 S\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\n\\r\\nhello")
        else:
            head = b"HTTP/1.1 404 No\\r\\nSet-Cookie: own=1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
            client.sendall(head + b"2\\r\\nno\\r\\n0\\r\\n\\r\\n")
"""
    register(client, "rides", key="cookie", command=["python3", "-S", "-c", app])
    plain = ask(shared_daemon, "rides")
    assert (plain.status, plain.body) == (404, "no")
    assert sorted(cookie.partition("=")[0] for cookie in plain.headers.get_all("Set-Cookie")) == ["own", "sandboxd-rides"]
    upgraded = ask(shared_daemon, "rides", Connection="Upgrade", Upgrade="x")
    assert (upgraded.status, bool(upgraded.cookie)) == (101, True)
    unregister(client, "rides")


TLS = """
import http.server, ssl, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.uname().nodename.encode())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("both.pem")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


def tls(daemon, name):
    """Who answers below that name over TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", daemon.port), 2 * PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    return data.rpartition(b"\r\n\r\n")[2].decode()


def test_a_name_in_a_tls_hello_is_a_key(shared_daemon, client, tmp_path, require):
    require("openssl")
    pem = str(tmp_path / "both.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]
    subprocess.run([*command, "-subj", "/CN=x", "-keyout", pem + ".key", "-out", pem], check=True, capture_output=True)
    (tmp_path / "both.pem").write_text((tmp_path / "both.pem").read_text() + (tmp_path / "both.pem.key").read_text())
    register(client, "tls", key="sni", create=True, max=2, path=tmp_path, command=["python3", "-c", TLS])
    first = at_once(4, lambda number: tls(shared_daemon, "a.tls.localhost"))
    assert len(set(first)) == 1
    assert tls(shared_daemon, "b.tls.localhost") != first[0]
    assert sorted(env.key for env in made(client, "tls")) == ["sni:a", "sni:b"]
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        tls(shared_daemon, "c.tls.localhost")
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        tls(shared_daemon, "tls.localhost")
    assert ask(shared_daemon, "a.tls").status == 400  # a plain request has no such key
    unregister(client, "tls")


def test_programs_ask_for_the_env_of_a_key(shared_daemon, client):
    register(client, "sdk", key="header:X-User")
    with client.ensure("sdk", "alice", timeout=PATIENCE) as env:
        assert env.state == "ready"
        assert env.info.key == "header:alice"
        assert client.ensure("sdk", "alice").id == env.id

    async def main():
        async with (
            AsyncClient(shared_daemon.dir / "control.sock", autostart=False) as other,
            await other.ensure("sdk", "bob", timeout=PATIENCE) as env,
        ):
            assert env.info.key == "header:bob"

    asyncio.run(main())
    assert made(client, "sdk") == []
    unregister(client, "sdk")


def test_the_pools_grow_with_a_burst(daemon):
    with daemon.client() as client:
        register(client, "burst", key="cookie", rate=0)
        at_once(12, lambda number: ask(daemon, "burst"))
        until(lambda: client.call(m.Status()).pool > 4, "more than the usual are parked")
        unregister(client, "burst")


def test_places_are_kept_for_the_burst_that_a_template_expects(shared_daemon, client):
    """Nothing of an env runs in them, they are filled again, and go with the template. What is too much is refused by name."""
    with pytest.raises(QueueFull, match="may be kept ready"):
        register(client, "sale", key="host", create=True, max=100_000, burst=100_000)
    assert register(client, "sale", key="host", create=True, burst=7).burst == 7

    def ready():
        return client.call(m.Templates(name="sale")).templates[0].burst_ready

    until(lambda: ready() == 7, "the places are there")
    assert made(client, "sale") == []
    assert "7/7" in shared_daemon.sandbox("template", "ls").stdout
    assert {ask(shared_daemon, f"{key}.sale").status for key in "abc"} == {200}
    until(lambda: ready() == 7, "they are filled again")
    unregister(client, "sale")
    until(lambda: client.call(m.Status()).pool <= 4, "the usual ones are left")


TOML = """
name = "shop"
[services.web]
command = ["python3", "-S", "-c", '''{echo}''']
port = 3000
[on_demand]
key = "host"
create = true
"""


def test_the_command_line(daemon, tmp_path):
    project = tmp_path / "shop"
    project.mkdir()
    (project / "sandbox.toml").write_text(TOML.format(echo=ECHO))
    said = daemon.sandbox("up", cwd=project)
    assert "shop   a template: an env for each host   http://KEY.shop.localhost" in said.stdout
    assert "a template already" in daemon.sandbox("up", cwd=project).stdout
    first = ask(daemon, "pr-1.shop")
    assert first.status == 200
    assert daemon.sandbox("ensure", "shop", "--key", "-", stdin="pr-2\n").stdout.startswith("shop-")
    listed = daemon.sandbox("ps").stdout
    assert "KEY" in listed.splitlines()[0]
    assert "host:pr-1" in listed
    assert daemon.json("ps", "--filter", "key=host:pr-1")[0]["name"] == first.env
    assert daemon.json("template", "ls")[0]["envs"] == 2
    assert "2/50" in daemon.sandbox("template", "ls").stdout
    assert json.loads(daemon.sandbox("template", "inspect", "shop").stdout)[0]["spec"]["on_demand"]["key"] == "host"
    inside = daemon.dir / "inside"
    inside.mkdir()
    (inside / "sandbox.toml").write_text(TOML.format(echo=ECHO).replace("shop", "inside"))
    refused = daemon.sandbox("up", cwd=inside, check=False)
    assert (refused.returncode, f"workspace {inside} lies in sandboxd's own directory" in refused.stderr) == (2, True)
    assert "use a directory of its own" in refused.stderr
    refused = daemon.sandbox("template", "rm", "shop", check=False)
    assert (refused.returncode, "template rm -f shop" in refused.stderr) == (1, True)
    daemon.sandbox("down", cwd=project)
    assert daemon.json("ps", "-a") == []
    assert daemon.json("template", "ls") == []
    assert daemon.sandbox("ensure", "shop", "--key", "a", check=False).returncode == 1
    daemon.sandbox("up", cwd=project)
    daemon.sandbox("template", "rm", "-f", "shop")
