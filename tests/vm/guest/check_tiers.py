"""A host without user namespaces (tier T1): what is refused is refused by name, with its reason and its fix."""

import json
from pathlib import Path

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


def test_landlock_asked_for_by_name_holds_without_namespaces(host) -> None:
    """Each attack beside its control: outside of the env the same works, and inside the workspace may be written."""
    secret, out = Path.home() / ".ssh/id", Path.home() / "out"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("secret")
    script = f"cat {secret}; echo x >{out}; echo y >here && cat here; grep NoNewPrivs /proc/self/status"
    outside = host.run("sh", "-c", script, cwd=host.place())
    assert outside.stdout.startswith("secrety\n")
    assert out.read_text() == "x\n"
    out.unlink()
    inside = host.sandbox("run", "--rm", "--isolation", "landlock", "-w", host.place(), "--", "sh", "-c", script)
    assert inside.stdout.split() == ["y", "NoNewPrivs:", "1"]
    assert inside.stderr.count("Permission denied") == 2, inside.stderr
    assert "isolation landlock: own files and ports only" in inside.stderr, "what it does not hold is said"
    assert not out.exists()
