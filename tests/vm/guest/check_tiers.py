"""A host without user namespaces (tier T1): what is refused is refused by name, with its reason and its fix."""

import json

VARIANTS = ("no-userns",)


def test_full_is_refused_and_doctor_says_the_tier(host) -> None:
    refused = host.sandbox("run", "--rm", "-w", host.place(), "--", "true", check=False)
    assert refused.returncode == 125
    assert "user.max_user_namespaces is 0" in refused.stderr
    assert "sysctl -w user.max_user_namespaces=" in refused.stderr
    assert host.sandbox("ps", "-aq").stdout == ""

    said = host.sandbox("doctor", "--format", "json", check=False)
    assert said.returncode == 1
    report = json.loads(said.stdout.splitlines()[0])
    assert report["tier"] == "T1"
