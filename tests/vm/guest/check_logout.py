"""A user whose manager does not linger is told what a logout does, once; and doctor says it, too."""

VARIANTS = ("no-linger",)


def test_run_says_once_that_a_logout_ends_envs(host) -> None:
    first = host.sandbox("run", "-d", "--name", "one", "-w", host.place(), "--", "sleep", "1000")
    assert "loginctl enable-linger" in first.stderr
    assert "loginctl" not in host.sandbox("run", "-d", "--name", "two", "-w", host.place(), "--", "sleep", "1000").stderr
    assert "/sandboxd-envs-" in host.cgroup(host.inspect("one")["services"][0]["pid"])
    said = host.sandbox("doctor", check=False)
    assert "linger is off" in said.stdout, said
