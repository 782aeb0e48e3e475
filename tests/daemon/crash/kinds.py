"""What envs do by themselves, and how they reach out, under a daemon that dies: keys, replicas, sleep, ways out.

Each is a story of its own (see story.py) with a death or two in it, whose end is that nothing of it is left.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sandboxd.errors import NotFound
from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Idle, Lifecycle, Network, OnDemand, Service
from tests.daemon.asking import ENVIRON
from tests.daemon.crash.story import Story

# Tells its name.
WHO = """
import os, socket
server = socket.create_server(("127.0.0.1", 3000), backlog=100)
while True:
    client, _ = server.accept()
    with client:
        client.recv(65536)
        body = os.uname().nodename.encode()
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
"""

# Has one connection to the host open all the time; tells what an echo over it gives, and how an address that it may not reach.
OUT = """
import socket, sys
kept = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
server = socket.create_server(("127.0.0.1", 3000), backlog=100)
while True:
    client, _ = server.accept()
    with client:
        client.recv(65536)
        kept.sendall(b"ping")
        said = [kept.recv(4).decode()]
        try:
            with socket.create_connection(("192.0.2.2", 80), 60) as other:
                said.append("reached" if other.recv(1) else "closed")
        except OSError as error:
            said.append("refused")
        body = " ".join(said).encode()
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
"""


def python(code: str, *argv: str) -> list[str]:
    """The command that is that program."""
    return ["python3", "-S", "-c", code, *argv]


def gone(story: Story, target: str) -> None:
    """Its removal was answered, so it is not there."""

    def look(client: Any) -> bool:
        assert target not in {env.name for env in client.call(m.List(all=True)).envs}
        return True

    story.until(look, f"{target} is gone")


def keys(story: Story, number: int) -> None:
    """A template that keeps one env warm; each key has one env, and the same however often the daemon dies."""
    name = f"shop-{number}"
    spec = EnvSpec(
        name=name,
        services={"web": Service(command=python(WHO), port=3000)},
        on_demand=OnDemand(key="header:x-user", create=True, warm=1),
    )
    held: dict[str, str] = {}
    story.families.add(f"{name}-")

    def made(client: Any) -> list[m.EnvInfo]:
        envs: list[m.EnvInfo] = client.call(m.List(all=True, filters=[f"template={name}"])).envs
        return envs

    def one_of_each(client: Any) -> None:
        envs = made(client)
        found = [env.key for env in envs if env.key]
        assert len(found) == len(set(found)), envs
        assert held.items() <= {env.key: env.name for env in envs}.items(), f"{held} {envs}"

    def as_wanted(client: Any) -> bool:
        return sorted((env.key or "", env.state) for env in made(client)) == sorted(
            [("", "ready"), *((key, "ready") for key in held)]
        )

    story.ask(name, m.Register(spec=spec, environ=ENVIRON))
    story.rules.append(one_of_each)
    for user in ("ann", "bob", "ann"):
        found = story.fetch(name, **{"X-User": user})
        assert held.setdefault(f"header:{user}", found) == found, f"{user} had {held}, and now {found}\n{story.daemon.log()}"
    assert story.ask(name, m.Ensure(template=name, key="bob")).env.name == held["header:bob"]
    story.until(as_wanted, "one of each, and one for who comes")
    held.clear()
    deaths = story.deaths
    try:
        story.ask(name, m.Unregister(name=name, force=True))
    except NotFound:
        assert story.deaths > deaths
    story.rules.remove(one_of_each)

    def none(client: Any) -> bool:
        assert made(client) == [], f"{made(client)}\n{story.daemon.log()}"
        return True

    story.until(none, "none is left")
    story.families.discard(f"{name}-")


def replicas(story: Story, number: int) -> None:
    """One more, one less, and all at once removed: as many as were asked for, and none that nobody did."""
    name = f"many-{number}"
    story.run(name, python(WHO), port=3000)
    story.families.add(f"{name}-")

    def scaled(count: int) -> None:
        info = story.ask(name, m.Scale(target=name, replicas=count, timeout=60.0)).env
        assert (info.scale.wanted, info.scale.ready) == (count, count), info
        story.known[name].sure = True

    scaled(2)
    assert story.fetch(name) in (name, f"{name}-2")
    scaled(1)
    gone(story, f"{name}-2")
    assert story.fetch(name) == name
    scaled(2)
    story.remove(name)
    gone(story, f"{name}-2")
    story.families.discard(f"{name}-")


def sleep(story: Story, number: int) -> None:
    """It goes to sleep by itself, and then further down, and the next request wakes it."""
    name = f"sleepy-{number}"
    story.make(name, python(WHO), port=3000, lifecycle=Lifecycle(idle=Idle(suspend=1.0, stop=1.2)))
    env_id = story.known[name].id

    def rests(client: Any) -> bool:
        return bool(client.call(m.Inspect(target=env_id)).env.state == "stopped")

    story.until(rests, f"{name} sleeps")
    assert story.fetch(name) == name
    story.remove(name)


@contextmanager
def echo() -> Iterator[int]:
    """A service of the host's own, by its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(client: socket.socket) -> None:
            with client:
                while data := client.recv(4):
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)  # accept(2) of the thread returns
            thread.join()


def ways(story: Story, number: int) -> None:
    """A connection to the host's own service goes on over every death, what was not let out stays in, and a rule that was given
    holds."""
    name = f"out-{number}"
    with echo() as port:
        network = Network(egress=["192.0.2.1:9"], forward=[port])
        story.run(name, python(OUT, str(port)), port=3000, network=network)

        def as_ever(_: Any) -> None:
            assert story.daemon.request(name) == (200, b"ping refused")

        assert story.fetch(name) == "ping refused"
        story.rules.append(as_ever)
        story.ask(name, m.Net(target=name, allow=["192.0.2.3:80"]))
        story.known[name].sure = True
        story.until(lambda client: "192.0.2.3:80" in client.call(m.Net(target=name)).rules, "the rule holds")
        story.rules.remove(as_ever)
        story.verb(name, m.Suspend(target=name), "suspended")
        story.verb(name, m.Resume(target=name), "ready")
        assert story.fetch(name) == "ping refused"
        net = story.ask(name, m.Net(target=name))
        assert "192.0.2.3:80" in net.rules
        assert [one.state for one in net.passages if one.port == port] == ["open"], net
        story.remove(name)
