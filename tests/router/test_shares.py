"""Whom an env is shared with, asked by name over real connections. So of sandboxd.router.access and sandboxd.routing.links.

Who comes from this machine is known by uid, so what is somebody else's is made an env of another uid.
"""

import os
from collections.abc import Callable

import pytest

from sandboxd.router.access import Access
from sandboxd.routing.table import Endpoint
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

TOKEN = "abcdefghijklmnop-_012345"
THEIRS = os.getuid() + 1


def test_private_is_its_owners_and_box_is_every_users(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    with Talk(bench.connect()) as talk:
        for share, status in (("", 403), ("private", 403), ("link", 403), ("box", 200), ("private", 403)):
            bench.push([env.endpoint(owner=THEIRS, share=share)])
            assert talk.get().status == status, share
        for share in ("", "private", "link", "box"):
            bench.push([env.endpoint(share=share)])
            assert talk.get().status == 200, share


def test_a_link_lets_in_who_shows_it_and_each_request_shows_it(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint(owner=THEIRS, share="link", token=TOKEN)])
    with Talk(bench.connect()) as talk:
        refused = talk.get()
        assert refused.status == 403
        assert b"shared by its link" in refused.body
        html = "Accept: text/html"
        first = talk.get(f"/a?sandboxd-link={TOKEN}&b=1", "shop.localhost", html)
        assert (first.status, first.fields["location"]) == (303, "/a?b=1")
        cookie = first.fields["set-cookie"].partition(";")[0]
        assert talk.get("/a?b=1", "shop.localhost", html, f"Cookie: {cookie}").status == 200
        assert talk.get("/").status == 403  # the same connection may be another's, behind a proxy
        program = talk.get(f"/show?sandboxd-link={TOKEN}")
        assert (program.status, program.fields["set-cookie"].partition(";")[0]) == (200, cookie)
        assert TOKEN.encode() not in program.body  # the service need not see it in its log
        bench.push([env.endpoint(owner=THEIRS, share="link", token=TOKEN[::-1])])
        assert talk.get("/", "shop.localhost", f"Cookie: {cookie}").status == 403


class Visitor:
    """A connection from another machine."""

    source, here, local, uid = ("192.0.2.1", 5), ("192.0.2.2", 7070), False, None


@pytest.mark.parametrize(("share", "reached"), [("", True), ("private", False), ("box", False), ("link", False)])
def test_of_who_comes_from_another_machine_nothing_is_known(share: str, reached: bool) -> None:
    place = Endpoint(
        env_id="e",
        name="shop",
        service="web",
        state="ready",
        dial="",
        port=1,
        netns_cookie=0,
        owner=os.getuid(),
        share=share,  # type: ignore[arg-type]
    )
    assert Access().allows(Visitor(), place) is reached
