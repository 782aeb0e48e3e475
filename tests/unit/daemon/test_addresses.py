"""Where the router listens when it is told port 0. So of sandboxd.daemon.addresses."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from sandboxd.daemon.addresses import FACT, as_before, the_same
from sandboxd.errors import PortTaken
from sandboxd.store.journal import Journal

ANY = "127.0.0.1:0"


@pytest.fixture
def journal(tmp_path):
    with contextlib.closing(Journal(tmp_path / "state.db")) as made:
        yield made


def started(journal, asked, gives, taken=()):
    """The addresses that were tried, and what the router has."""
    tried = []

    async def start(listen):
        tried.append(listen)
        if set(listen) & set(taken):
            raise PortTaken("somebody has it")
        return SimpleNamespace(listen=gives if ANY in listen else listen)

    return asyncio.run(the_same(journal, asked, start)).listen, tried


def test_a_chosen_port_is_asked_for_again(journal):
    assert started(journal, [ANY], ["127.0.0.1:4001"]) == (["127.0.0.1:4001"], [[ANY]])
    assert started(journal, [ANY], ["127.0.0.1:4002"]) == (["127.0.0.1:4001"], [["127.0.0.1:4001"]])


def test_another_is_taken_and_kept_where_somebody_else_has_it(journal):
    started(journal, [ANY], ["127.0.0.1:4001"])
    found = started(journal, [ANY], ["127.0.0.1:4002"], taken=["127.0.0.1:4001"])
    assert found == (["127.0.0.1:4002"], [["127.0.0.1:4001"], [ANY]])
    assert as_before(journal, [ANY]) == ["127.0.0.1:4002"]


def test_what_was_asked_for_by_number_is_that_or_nothing(journal):
    started(journal, [ANY], ["127.0.0.1:4001"])
    assert as_before(journal, ["127.0.0.1:80"]) == ["127.0.0.1:80"]
    with pytest.raises(PortTaken):
        started(journal, ["127.0.0.1:80"], [], taken=["127.0.0.1:80"])


@pytest.mark.parametrize("asked", [["[::1]:0"], [ANY, ANY], ["127.0.0.1:4002"], []])
def test_what_was_told_of_other_addresses_is_passed_over(journal, asked):
    started(journal, [ANY], ["127.0.0.1:4001"])
    assert as_before(journal, asked) == asked


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[1]"])
def test_a_fact_that_is_none_is_passed_over(journal, text):
    journal.put_fact(FACT, text)
    assert as_before(journal, [ANY]) == [ANY]
