"""Those who hear of envs (sandboxd.daemon.news): in order, bounded, each thing once."""

import asyncio

from sandboxd.daemon.news import SUBSCRIBER_CAP, News, Subscription
from sandboxd.protocol.messages import Event


def event(number):
    return Event(time="", event=str(number), id="", name="", detail={})


def test_who_lags_loses_the_oldest():
    async def taken():
        subscription = Subscription()
        for number in range(SUBSCRIBER_CAP + 2):
            subscription.put(event(number))
        first = await subscription.take()
        subscription.put(event("last"))
        return first, await subscription.take()

    first, then = asyncio.run(taken())
    assert [one.event for one in first] == [str(number) for number in range(2, SUBSCRIBER_CAP + 2)]
    assert [one.event for one in then] == ["last"]


def test_what_is_new_is_taken_once():
    news = News()
    for env_id in ("a", "b", "a"):
        news.add(env_id)
    assert news.arrived.is_set()
    assert (news.take(), news.take()) == ({"a", "b"}, set())
    assert not news.arrived.is_set()
