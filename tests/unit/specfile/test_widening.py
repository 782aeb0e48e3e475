"""What a changed sandbox.toml asks more of the host than before."""

from typing import Any

import pytest

from sandboxd.spec import EnvSpec, Isolation, Mount, Network, Publish, Service
from sandboxd.specfile.widening import Reach, in_force, reach_of, widened

DATA = Mount(source="/data", target="/srv")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"isolation": Isolation(level="landlock")}, 'isolation.level = "landlock" (was "full")'),
        ({"isolation": Isolation(level="landlock")}, {"isolation": Isolation(level="none")}, '"none" (was "landlock")'),
        ({}, {"isolation": Isolation(home="readonly")}, "your home"),
        ({}, {"isolation": Isolation(user="root")}, "root"),
        ({}, {"isolation": Isolation(nested=True)}, "nested"),
        ({}, {"network": Network(mode="host")}, 'network.mode = "host" (was "private")'),
        ({"network": Network(mode="none")}, {}, 'network.mode = "private" (was "none")'),
        ({"network": Network(egress="none")}, {}, 'egress = "open"'),
        ({"network": Network(egress=["a.org"])}, {"network": Network(egress="open")}, 'egress = "open"'),
        ({"network": Network(egress="none")}, {"network": Network(egress=["a.org"])}, "a.org"),
        ({}, {"network": Network(egress=["open", "host:5432"])}, "host:5432"),
        ({}, {"network": Network(egress=["open", "lan"])}, "lan"),
        ({}, {"network": Network(egress=["open", "10.0.0.0/8"])}, "10.0.0.0/8"),
        ({"network": Network(egress=["a.org"])}, {"network": Network(egress=["a.org", "b.org"])}, "b.org"),
        ({}, {"network": Network(forward=[5432])}, "5432"),
        ({}, {"network": Network(publish=[Publish(host_port=80, port=80, address="0.0.0.0")])}, "0.0.0.0:80"),
        ({}, {"mounts": [DATA]}, "/data, to be written"),
        ({"mounts": [Mount(source="/data", target="/srv", readonly=True)]}, {"mounts": [DATA]}, "/data, to be written"),
    ],
)
def test_more_is_told_and_less_is_not(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    (told,) = widened(Reach(**before), Reach(**after))
    assert said in told
    assert widened(Reach(**after), Reach(**before)) == []
    assert widened(Reach(**after), Reach(**after)) == []


def test_what_opens_nothing_is_not_looked_at() -> None:
    spec = EnvSpec(services={"web": Service(command="x", port=1)}, env={"A": "b"}, name="n")
    assert reach_of(spec) == Reach()
    assert widened(Reach(), Reach(network=Network(publish=[Publish(host_port=8080, port=80)]))) == []
    for less in ("none", "open", ["a.org"], ["open", "!10.0.0.0/8"]):
        assert widened(Reach(), Reach(network=Network(egress=less))) == []


def test_what_was_accepted_holds_as_long_as_the_spec_opens_it() -> None:
    wide = Reach(isolation=Isolation(level="landlock"), mounts=[DATA])
    accepted = ['isolation.level = "landlock" (was "full")', "mounts: /data, to be written"]
    assert in_force([*accepted, *accepted], wide) == accepted
    assert in_force(accepted, Reach(mounts=[DATA])) == accepted[1:]
    assert in_force(accepted, Reach()) == []
