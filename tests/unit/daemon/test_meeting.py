"""Inits that are spoken with later: when that is put off, who has the link at once all the same, and what is not missed."""

import asyncio
import socket
import threading

import pytest

from sandboxd.daemon import meeting
from sandboxd.launch.doorway import listen
from sandboxd.launch.frames import VERSION, encode
from sandboxd.lifecycle import events as ev
from sandboxd.router import knocking


class Heard:
    """As much of an env's live side as is asked for; its init is the test."""

    def __init__(self, directory, template="t"):
        self.directory, self.posted, self.tasks = directory, [], []
        self.actor = self.supervisor = self.rundir = self.readiness = self
        self.record = self
        self.template, self.name, self.id, self.services = template, "e", "e", {}
        self.prepared_attach = {}
        self.unmet = self.link = self.greeting = None
        self.pidfd, self.pid, self.netns_cookie, self.status = 0, 1, 7, None
        self.post = self.posted.append

    def env_dir(self, _):
        return self.directory

    def prepare(self, cookie):
        assert cookie == self.netns_cookie

    def own(self, work, name):
        self.tasks.append(asyncio.ensure_future(work))

    def on_init_event(self, event):
        self.posted.append(event)


def greeting(server):
    """What accepts one and greets."""
    server.setblocking(True)
    peer, _ = server.accept()
    with peer:
        peer.sendall(encode({"event": "hello", "version": VERSION, "status": {}}))
        peer.recv(1)


def test_it_is_put_off_only_where_many_start_and_nobody_is_about_to_use_it(tmp_path):
    async def main():
        crowded = meeting.Meetings(lambda: True)
        attached = Heard(tmp_path)
        attached.prepared_attach = {"web": {}}
        assert not crowded.put_off(attached, attached)
        assert not crowded.put_off(Heard(tmp_path, template=""), None)
        assert not meeting.Meetings(lambda: False).put_off(Heard(tmp_path), None)
        body = Heard(tmp_path)
        assert crowded.put_off(body, body)
        assert body.unmet is body
        crowded.close()

    asyncio.run(main())


@pytest.mark.parametrize("most", [0.0, 1000.0])
def test_each_is_met_once_it_is_quiet_or_has_waited_for_long(tmp_path, monkeypatch, most):
    monkeypatch.setattr(meeting, "MOST", most)

    async def main(server):
        is_crowded = [True]
        meetings = meeting.Meetings(lambda: is_crowded[0])
        body = Heard(tmp_path)
        assert meetings.put_off(body, body)
        await asyncio.sleep(3 * meeting.PAUSE)
        if most:
            assert body.link is None
            is_crowded[0] = False
        async with asyncio.timeout(20):
            while body.link is None:  # noqa: ASYNC110 - its own timer looks
                await asyncio.sleep(0.01)
        assert body.unmet is None
        await body.link.greeted()
        body.link.close()
        await asyncio.gather(*body.tasks)
        meetings.close()

    with listen(tmp_path, "init.sock", socket.SOCK_STREAM) as server:
        init = threading.Thread(target=greeting, args=(server,))
        init.start()
        asyncio.run(main(server))
        init.join()


def test_it_is_met_before_a_request_gives_up_looking_by_itself():
    """From then on that one waits for what init tells the daemon."""
    looks = sum(knocking.PAUSE * knocking.GROWTH**n for n in range(knocking.MOST))
    assert looks > meeting.MOST + meeting.PAUSE


def test_an_init_that_nobody_can_connect_to_is_ended_unless_it_has_ended(tmp_path):
    async def main():
        body = Heard(tmp_path)
        body.unmet = body
        assert meeting.introduce(body)
        assert [type(event) for event in body.posted] == [ev.KillAsked]
        gone = Heard(tmp_path)
        gone.unmet, gone.pidfd = gone, -1
        assert meeting.introduce(gone)
        assert gone.posted == []
        assert gone.unmet is None

    asyncio.run(main())
