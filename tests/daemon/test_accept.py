"""`up` asks before a project's changed sandbox.toml opens more than before (of sandboxd.daemon.accepting)."""

import json

import pytest

NARROW = '[services.web]\ncommand = "sleep 600"\n'
WIDE = NARROW + '[isolation]\nlevel = "none"\n[[mounts]]\nsource = "{data}"\ntarget = "{data}"\n'


@pytest.fixture
def project(daemon, tmp_path):
    place = tmp_path / "shop"
    place.mkdir()
    (tmp_path / "data").mkdir()

    def write(text):
        (place / "sandbox.toml").write_text(text.format(data=tmp_path / "data"))
        return place

    return write


def test_more_than_last_time_needs_a_word(daemon, project):
    place = project(NARROW)
    daemon.sandbox("up", str(place))
    daemon.sandbox("down", str(place))
    project(WIDE)
    refused = daemon.sandbox("up", str(place), check=False)
    assert refused.returncode == 125
    assert 'isolation.level = "none" (was "full")' in refused.stderr
    assert "/data, to be written" in refused.stderr
    assert "sandbox up --accept" in refused.stderr
    assert json.loads("[" + ",".join(daemon.sandbox("ps", "-a", "--format", "json").stdout.splitlines()) + "]") == []
    daemon.sandbox("up", "--accept", str(place))
    assert "its owner accepted: isolation.level" in daemon.log()
    accepted = json.loads(daemon.sandbox("inspect", "shop").stdout)[0]["accepted"]
    assert accepted[0] == 'isolation.level = "none" (was "full")'
    assert accepted[-1].endswith("/data, to be written")
    daemon.sandbox("down", str(place))
    daemon.sandbox("up", str(place))
    assert json.loads(daemon.sandbox("inspect", "shop").stdout)[0]["accepted"] == accepted, "as long as it holds"
    project(NARROW)
    daemon.sandbox("up", str(place))
    assert json.loads(daemon.sandbox("inspect", "shop").stdout)[0]["accepted"] == []
    project(WIDE)
    assert daemon.sandbox("up", str(place), check=False).returncode == 125, "less in between, then more again"


def test_what_is_accepted_is_known_to_the_next_daemon(daemon, project):
    place = project(NARROW)
    daemon.sandbox("up", str(place))
    daemon.kill()
    daemon.start()
    project(WIDE)
    assert daemon.sandbox("up", str(place), check=False).returncode == 125
