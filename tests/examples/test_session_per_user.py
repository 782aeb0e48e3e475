"""A burst of visitors, each with notes of their own, that nobody else sees and that outlive a stop."""

import http.client
import json
import threading
from typing import Any

from tests.daemon.asking import until
from tests.daemons import PATIENCE, Daemon

VISITORS = 12


class Visitor:
    """A browser with its cookie."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.cookie = ""

    def ask(self, method: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=2 * PATIENCE)
        try:
            sent = {"Host": "notes.localhost", "Cookie": self.cookie, **headers}
            connection.request(method, "/", body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            self.cookie = (response.headers["Set-Cookie"] or "").partition(";")[0] or self.cookie
            return response.status, response.read().decode()
        finally:
            connection.close()

    def notes(self) -> list[str]:
        status, body = self.ask("GET")
        assert status == 200, body
        found: list[str] = json.loads(body)
        return found


def at_once(visitors: list[Visitor], action: Any) -> list[Any]:
    results: list[Any] = [None] * len(visitors)

    def one(number: int) -> None:
        results[number] = action(visitors[number], number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(visitors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    return results


def test_each_visitor_has_an_env_and_notes_of_their_own(shared_daemon: Daemon, project: Any) -> None:
    shared_daemon.sandbox("up", cwd=project("session-per-user"))
    visitors = [Visitor(shared_daemon) for _ in range(VISITORS)]
    assert at_once(visitors, lambda visitor, _: visitor.notes()) == [[]] * VISITORS
    assert len({visitor.cookie for visitor in visitors}) == VISITORS
    assert at_once(visitors, lambda visitor, number: visitor.ask("POST", f"note=mine+{number}")[0]) == [303] * VISITORS
    assert at_once(visitors, lambda visitor, _: visitor.notes()) == [[f"mine {number}"] for number in range(VISITORS)]
    kept = [env for env in shared_daemon.json("ps") if env["key"]]
    assert len(kept) == VISITORS
    # As after a quarter of an hour, or a restart of the machine: what was written is there.
    shared_daemon.sandbox("stop", *(env["name"] for env in kept))
    shared_daemon.sandbox("start", *(env["name"] for env in kept))
    assert visitors[3].notes() == ["mine 3"]
    # A forged cookie is no key: its sender gets an env of their own.
    forger = Visitor(shared_daemon)
    name, _, value = visitors[3].cookie.partition("=")
    forger.cookie = f"{name}={'0' * 32}{value[32:]}"
    assert forger.notes() == []
    # A browser may be shown a page meanwhile, which leads to its own by itself.
    browser = Visitor(shared_daemon)
    until(lambda: "Your notes" in browser.ask("GET", Accept="text/html")[1], "its own page")
    shared_daemon.sandbox("template", "rm", "-f", "notes")
    until(lambda: not shared_daemon.json("ps", "-a"), "all are gone")
