"""The same application five times at once, each sure that it owns port 3000."""

from tests.daemons import Daemon

NAMES = [f"twin-{number}" for number in range(1, 6)]


def test_five_own_the_same_port(shared_daemon: Daemon, project) -> None:
    directory = project("twins")
    done = shared_daemon.keeper.run(["./up"], shared_daemon.environ, cwd=directory, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr + shared_daemon.log()
    listed = {env["name"]: env for env in shared_daemon.json("ps")}
    assert sorted(listed) == NAMES
    assert {(env["state"], env["services"][0]["port"]) for env in listed.values()} == {("ready", 3000)}
    for asked, name in enumerate(NAMES, start=1):
        for count in range(1, asked + 1):
            expected = f"{name} on port 3000, asked {count} times\n"
            assert shared_daemon.request(name) == (200, expected.encode())
    # From inside, localhost:3000 is one's own, and nobody else's.
    fetch = "import urllib.request as u; print(u.urlopen('http://localhost:3000').read().decode())"
    for name in NAMES:
        assert shared_daemon.sandbox("exec", name, "--", "python3", "-c", fetch).stdout.startswith(f"{name} on port 3000")
    shared_daemon.sandbox("rm", "-f", *NAMES)
    assert shared_daemon.json("ps", "-a") == []
