"""Replicas with a real daemon and router: up under load, down by draining, to zero and back, and nobody's request is lost.

So of sandboxd.daemon.scaling, sandboxd.daemon.scales and sandboxd.cli.scale.
"""

import http.client
import os
import signal
import threading
from collections import Counter

import pytest

from sandboxd.errors import NotFound, TimedOut, UsageError
from sandboxd.protocol import messages as m
from sandboxd.spec import Network, Replicas
from tests.daemon.asking import inspect, remove, run, until
from tests.daemons import PATIENCE

# Answers with its host's name, which is the replica's; a request for /slow stands until somebody opens the gate.
SERVER = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow": open("gate").close()
        body = socket.gethostname().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
Server(("127.0.0.1", 3000), Handler).serve_forever()
"""


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def start(client, path, name, **scale):
    rule = Replicas(**scale) if scale else None
    return run(client, ["python3", "-c", SERVER], name=name, path=path, port=3000, wait="ready", scale=rule)


def scaled(client, name, replicas, **more):
    return client.call(m.Scale(target=name, replicas=replicas, timeout=PATIENCE, **more)).env


def names(client):
    return {info.name for info in client.call(m.List(all=True)).envs}


def answers(daemon, name, count, path="/"):
    """Who answered, each time on a connection of its own."""
    found = Counter()
    for _ in range(count):
        status, body = daemon.request(name, path)
        assert status == 200, body
        found[body.decode()] += 1
    return found


class Asking:
    """One client that asks again and again on a kept connection, and holds what went wrong."""

    def __init__(self, daemon, name, path="/"):
        self.port, self.name, self.path = daemon.port, name, path
        self.over = threading.Event()
        self.answers = Counter()
        self.wrong = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            while not self.over.is_set():
                connection.request("GET", self.path, headers={"Host": f"{self.name}.localhost"})
                response = connection.getresponse()
                body = response.read().decode()
                self.answers[body] += 1
                if response.status != 200:
                    self.wrong.append((response.status, body))
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(error)
        finally:
            connection.close()

    def end(self):
        self.over.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.wrong


def test_as_many_as_are_asked_for_and_each_has_its_share(shared_daemon, client, tmp_path):
    start(client, tmp_path, "many")
    info = scaled(client, "many", 3)
    assert (info.scale.wanted, info.scale.ready, info.scale.fixed) == (3, 3, True)
    assert info.scale.names == ["many-2", "many-3"]
    assert {"many", "many-2", "many-3"} <= names(client)
    assert inspect(client, "many-2").replica_of == info.id
    found = answers(shared_daemon, "many", 30)
    assert len(found) == 3
    assert min(found.values()) >= 5
    assert answers(shared_daemon, "many-2", 1) == {"many-2": 1}
    assert "3/3 replicas" in shared_daemon.sandbox("ps", "--filter", "name=many").stdout
    why = shared_daemon.sandbox("why", "many").stdout
    assert "3 of 3 replicas ready, as somebody asked for" in why
    assert f'sandboxd_replicas_ready{{env="many",id="{info.id[:12]}"}} 3.0' in client.call(m.Metrics()).text
    remove(client, "many")
    assert not {"many", "many-2", "many-3"} & names(client)


@pytest.fixture
def gate(tmp_path):
    """Opens the gate for good: a FIFO is open to readers once somebody writes, or might (fifo(7))."""
    os.mkfifo(tmp_path / "gate")
    opened = []
    yield lambda: opened.append(os.open(tmp_path / "gate", os.O_RDWR))
    for fd in opened:
        os.close(fd)


def test_fewer_by_draining_and_no_request_is_lost(shared_daemon, client, tmp_path, gate):
    start(client, tmp_path, "drains")
    scaled(client, "drains", 3)
    slow = [Asking(shared_daemon, "drains", "/slow") for _ in range(6)]  # some on each, as they are the least used
    try:
        until(lambda: inspect(client, "drains").scale.busy == 6, "requests under way")
        askers = [Asking(shared_daemon, "drains") for _ in range(6)]
        client.call(m.Scale(target="drains", replicas=1, wait=False))
        until(lambda: inspect(client, "drains").scale.ready == 1, "all others drain")
        assert {"drains-2", "drains-3"} <= names(client)
    finally:
        gate()
        for asker in slow:
            asker.over.set()
    until(lambda: not {"drains-2", "drains-3"} & names(client), "they are gone")
    assert [wrong for asker in (*slow, *askers) for wrong in asker.end()] == []
    assert set(sum((asker.answers for asker in slow), Counter())) == {"drains", "drains-2", "drains-3"}
    assert answers(shared_daemon, "drains", 3) == {"drains": 3}
    remove(client, "drains")


def test_up_under_load_and_down_after_it(shared_daemon, client, tmp_path, gate):
    start(client, tmp_path, "loaded", min=1, max=3, target_connections=2, down_after=0.5)
    assert inspect(client, "loaded").scale.wanted == 1
    askers = [Asking(shared_daemon, "loaded", "/slow") for _ in range(6)]
    try:
        until(lambda: inspect(client, "loaded").scale.ready == 3, "three are ready")
        until(lambda: inspect(client, "loaded").scale.busy == 6, "all of them are counted")
        assert "connections in use, 2 to each, from 1 to 3" in shared_daemon.sandbox("why", "loaded").stdout
    finally:
        gate()
        lost = [wrong for asker in askers for wrong in asker.end()]
    assert lost == []
    until(lambda: not {"loaded-2", "loaded-3"} & names(client), "one is left")
    remove(client, "loaded")


def test_a_browser_stays_where_it_was_and_is_told_when_it_cannot(shared_daemon, client, tmp_path):
    start(client, tmp_path, "sticks", min=3, max=3, sticky=True)
    until(lambda: inspect(client, "sticks").scale.ready == 3, "all are ready")
    name, cookie = asked(shared_daemon, "sticks", None)
    assert cookie.startswith("sandboxd-replica=")
    assert "HttpOnly; SameSite=Lax" in cookie
    mine = cookie.partition(";")[0]
    assert [asked(shared_daemon, "sticks", mine) for _ in range(6)] == [(name, None)] * 6
    assert asked(shared_daemon, "sticks", "sandboxd-replica=77")[1] is not None
    scaled(client, "sticks", 1)
    found, cookie = asked(shared_daemon, "sticks", "sandboxd-replica=3")
    assert (found, cookie.partition(";")[0]) == ("sticks", "sandboxd-replica=1")
    remove(client, "sticks")


def asked(daemon, name, cookie):
    """Who answered, and the cookie that came along."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Host": f"{name}.localhost", **({"Cookie": cookie} if cookie else {})})
        response = connection.getresponse()
        return response.read().decode(), response.headers["Set-Cookie"]
    finally:
        connection.close()


def test_to_zero_and_back_by_a_request(shared_daemon, client, tmp_path):
    start(client, tmp_path, "zero", min=0, max=2, down_after=1.0)
    until(lambda: inspect(client, "zero").state == "stopped", "nobody uses it")
    found = inspect(client, "zero")
    assert (found.scale.wanted, found.scale.ready) == (0, 0)
    assert answers(shared_daemon, "zero", 1) == {"zero": 1}
    remove(client, "zero")


def test_a_replica_that_is_killed_is_replaced_and_so_is_the_first(shared_daemon, client, tmp_path):
    start(client, tmp_path, "killed")
    scaled(client, "killed", 2)
    for name in ("killed-2", "killed"):
        before = inspect(client, name)
        os.kill(before.pid, signal.SIGKILL)
        until(lambda name=name, before=before: is_another(client, name, before), "another is there")
    assert len(answers(shared_daemon, "killed", 10)) == 2
    remove(client, "killed")


def is_another(client, name, before):
    try:
        now = inspect(client, name)
    except NotFound:  # it may go at any time, to be made anew
        return False
    return now.state == "ready" and now.pid != before.pid


def test_zero_by_hand_stops_it_and_a_number_starts_it_again(shared_daemon, client, tmp_path):
    start(client, tmp_path, "off")
    scaled(client, "off", 2)
    info = scaled(client, "off", 0)
    assert (info.state, info.scale.wanted) == ("stopped", 0)
    assert "off-2" not in names(client)
    assert scaled(client, "off", 2).scale.ready == 2
    assert scaled(client, "off", 1).scale.ready == 1
    assert "off-2" not in names(client)
    remove(client, "off")


def test_other_limits_reach_the_replicas(shared_daemon, client, tmp_path):
    start(client, tmp_path, "limited")
    scaled(client, "limited", 2)
    before = inspect(client, "limited-2").id
    client.call(m.Update(target="limited", limits={"pids": 512}))
    until(lambda: is_renewed(client, before), "the old one is gone")
    remove(client, "limited")


def is_renewed(client, before):
    found = inspect(client, "limited").scale
    try:
        replicas = [inspect(client, name) for name in found.names]
    except NotFound:  # it may go at any time
        return False
    return found.ready == 2 and [one.limits["pids"] for one in replicas] == [512] and replicas[0].id != before


def test_another_daemon_finds_them_again(daemon, tmp_path):
    with daemon.client() as client:
        start(client, tmp_path, "kept")
        ids = scaled(client, "kept", 2).scale.names
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        until(lambda: inspect(client, "kept").scale.ready == 2, "both are there")
        assert inspect(client, "kept").scale.names == ids
        assert len(answers(daemon, "kept", 10)) == 2
        pid = inspect(client, "kept-2").pid
        assert pid == inspect(client, "kept-2").pid


def test_what_cannot_be_scaled_is_refused(client, tmp_path):
    start(client, tmp_path, "plain")
    with pytest.raises(UsageError, match=r"no \[scale\]"):
        scaled(client, "plain", None)
    scaled(client, "plain", 2)
    with pytest.raises(UsageError, match="itself a replica") as caught:
        scaled(client, "plain-2", 3)
    assert "sandbox scale plain=N" in caught.value.hint
    remove(client, "plain")
    run(client, ["sleep", "1000"], name="offline", path=tmp_path, network=Network(mode="none"))
    with pytest.raises(UsageError, match="networks of their own"):
        scaled(client, "offline", 2)
    remove(client, "offline")


def test_what_does_not_get_ready_is_told_and_goes_on(client, tmp_path):
    start(client, tmp_path, "taken")
    run(client, ["sleep", "1000"], name="taken-2", path=tmp_path)
    with pytest.raises(TimedOut, match=r"1 of 2 replicas of taken are ready after .*the name taken-2 is taken"):
        client.call(m.Scale(target="taken", replicas=2, timeout=2.0))
    remove(client, "taken-2")
    until(lambda: inspect(client, "taken").scale.ready == 2, "its name is free")
    remove(client, "taken")


def test_from_the_command_line(shared_daemon, client, tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "sandbox.toml").write_text(
        'name = "typed"\n[services.web]\ncommand = "python3 server.py"\nport = 3000\n[scale]\nmin = 1\nmax = 4\n'
    )
    up = shared_daemon.sandbox("up", "--scale", "2", cwd=tmp_path).stdout
    assert "2 of 2 replicas ready" in up
    assert shared_daemon.sandbox("scale", "typed=3").stdout.startswith("typed   3 of 3 replicas ready")
    assert shared_daemon.sandbox("scale", "auto", cwd=tmp_path).stdout.startswith("typed")
    assert inspect(client, "typed").scale.fixed is False
    wrong = shared_daemon.sandbox("scale", "typed=many", check=False)
    assert (wrong.returncode, "no number of replicas" in wrong.stderr) == (2, True)
    assert shared_daemon.sandbox("down", cwd=tmp_path).stdout == "typed\n"
    assert not {name for name in names(client) if name.startswith("typed")}
