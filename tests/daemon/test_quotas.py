"""Quotas of a config file in a real daemon: refused by name, taken on by a reload, and nobody waits behind whose is met.

So of sandboxd.daemon.quotas.
"""

import getpass

import pytest

from sandboxd.daemon.quotas import person
from sandboxd.errors import QuotaExceeded
from sandboxd.protocol import messages as m
from sandboxd.spec import Limits
from tests.daemon.asking import remove, run
from tests.daemon.test_config import say, settings
from tests.daemons import Daemon

SLEEP = "sleep 1000"
MIB = 1 << 20


def test_names_and_groups_are_the_hosts() -> None:
    root = person(0)
    assert root.name == "root"
    assert "root" in root.groups
    assert person(4_000_000_000).groups == frozenset()


def test_a_quota_refuses_by_its_name_and_a_reload_brings_another(daemon: Daemon) -> None:
    me = getpass.getuser()
    say(daemon, f'[quota]\nenvs = 0\n[quota.user.{me}]\nenvs = 2\nmemory = "300m"\n')
    assert "quota.envs: - -> 0, now" in daemon.sandbox("daemon", "reload").stdout
    assert settings(daemon)[f"quota.user.{me}.memory"][0] == "300MiB"
    with daemon.client() as client:
        with pytest.raises(QuotaExceeded, match=f"no limit of memory, and the quota of user {me} is 300MiB") as refused:
            run(client, SLEEP, name="x")
        assert "-m" in refused.value.hint
        run(client, SLEEP, name="a", limits=Limits(memory=200 * MIB))
        done = daemon.sandbox("run", "-d", "--name", "b", "-m", "200m", "--", "sleep", "1", check=False)
        assert (done.returncode, "its envs have 200MiB of that" in done.stderr) == (125, True), done.stderr
        run(client, SLEEP, name="b", limits=Limits(memory=100 * MIB))
        with pytest.raises(QuotaExceeded, match="is 2 envs, and 2 are there"):
            run(client, SLEEP, name="c", limits=Limits(memory=1 * MIB))
        client.call(m.Stop(target="b", timeout=0.1))
        client.call(m.Update(target="a", limits={"memory": 250 * MIB}))
        with pytest.raises(QuotaExceeded, match="asks for 301MiB"):
            client.call(m.Update(target="a", limits={"memory": 301 * MIB}))
        with pytest.raises(QuotaExceeded, match="its envs have 250MiB of that") as refused:
            client.call(m.Start(target="b"))
        assert refused.value.details["limit"] == "memory"
        client.call(m.Update(target="a", limits={"memory": 200 * MIB}))
        assert client.call(m.Start(target="b")).env.state in ("starting", "ready")
        say(daemon, "[quota]\nrate = 1\n")
        assert f"quota.user.{me}.memory: 300MiB -> -, now" in daemon.sandbox("daemon", "reload").stdout
        run(client, SLEEP, name="c")
        with pytest.raises(QuotaExceeded, match="1 starts a minute") as refused:
            run(client, SLEEP, name="d")
        assert 0 < refused.value.details["retry_after"] <= 60
        for name in ("a", "b", "c"):
            remove(client, name)
