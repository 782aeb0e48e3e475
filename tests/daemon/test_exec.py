"""Sessions: commands run inside, terminals, and the in-band form for clients that take no descriptors.

So of sandboxd.daemon.sessions and sandboxd.daemon.pumping.
"""

import base64
import os
import time

import pytest

from sandboxd.errors import CommandNotExecutable, CommandNotFound, InvalidState, NotFound, UsageError
from sandboxd.protocol import messages as m
from tests.daemon.asking import ended, inspect, remove, run


@pytest.fixture(scope="module", autouse=True)
def _host(shared_daemon, tmp_path_factory):
    place = tmp_path_factory.mktemp("exec")
    (place / "plain.txt").write_text("text")
    with shared_daemon.client() as client:
        run(client, "sleep 1000", name="host", path=place, env={"COLOUR": "red"})
    yield
    with shared_daemon.client() as client:
        remove(client, "host")


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def read_all(fd: int) -> bytes:
    data = b""
    while True:
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # EIO: a pty whose other side is closed
            return data
        if not chunk:
            return data
        data += chunk


def execute(client, *argv, **params):
    with client.open(m.Exec(target="host", argv=list(argv), fds=True, **params)) as session:
        out = {name: read_all(fd) for name, fd in session.fds.items() if name != "stdin"}
        return session.wait().exit_code, out


def test_output_errors_and_code(client):
    code, out = execute(client, "sh", "-c", "echo $COLOUR; echo bad >&2; exit 5")
    assert (code, out["stdout"], out["stderr"]) == (5, b"red\n", b"bad\n")


def test_bytes_come_whole(client):
    code, out = execute(client, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' '\\377'")
    assert code == 0
    assert out["stdout"] == b"\xff" * 3_000_000


def test_input_reaches_it_and_its_end_too(client):
    with client.open(m.Exec(target="host", argv=["wc", "-c"], stdin=True, fds=True)) as session:
        os.write(session.fds["stdin"], b"x" * 1000)
        os.close(session.fds.pop("stdin"))
        assert read_all(session.fds["stdout"]).strip() == b"1000"
        assert session.wait().exit_code == 0


def test_a_terminal_is_one_inside_and_has_a_size(client):
    code, out = execute(
        client, "sh", "-c", "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo terminal", tty=True, rows=33, cols=99
    )
    assert code == 0
    assert out["pty"].replace(b"\r", b"").split() == [b"/dev/pts/0", b"33", b"99", b"terminal"]


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("KILL", 137)])
def test_a_signal_that_ends_it_is_told(client, signal, code):
    assert execute(client, "sh", "-c", f"kill -{signal} $$")[0] == code


def test_a_command_that_is_not_there(client):
    with pytest.raises(CommandNotFound, match="nope-such") as refused:
        execute(client, "nope-such")
    assert refused.value.exit_code == 127


def test_a_file_that_is_no_program(client):
    with pytest.raises(CommandNotExecutable):
        execute(client, "./plain.txt")


def test_unknown_service_and_empty_command(client):
    with pytest.raises(NotFound, match="no service 'nope'"):
        execute(client, "true", service="nope")
    with pytest.raises(UsageError):
        execute(client)


def test_an_ended_env_takes_no_command(client):
    env = run(client, "true", name="over")
    ended(client, env.id)
    with pytest.raises(InvalidState, match="does not run"):
        client.open(m.Exec(target="over", argv=["true"], fds=True))
    remove(client, "over")


def test_in_band_a_command_is_fed_and_heard(shared_daemon, client):
    with shared_daemon.client() as other:
        stream = client.stream(m.Exec(target="host", argv=["sh", "-c", "cat; echo end >&2; exit 3"], stdin=True))
        session = next(stream).session
        other.call(m.SessionInput(session=session, data=base64.b64encode(b"first ").decode()))
        other.call(m.SessionInput(session=session, data=base64.b64encode(b"second").decode(), eof=True))
        heard: dict[str, bytes] = {}
        code = None
        for reply in stream:
            heard[reply.stream] = heard.get(reply.stream, b"") + base64.b64decode(reply.data)
            code = reply.exit_code
        assert (heard["stdout"], heard["stderr"], code) == (b"first second", b"end\n", 3)


def test_a_session_dies_with_its_connection(shared_daemon, client, tmp_path):
    with shared_daemon.client() as other:
        session = other.open(m.Exec(target="host", argv=["sleep", "987"], fds=True))
        before = inspect(client, "host").usage.pids
        session.close()
    deadline = time.monotonic() + 20
    while inspect(client, "host").usage.pids >= before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert inspect(client, "host").usage.pids == before - 1


def test_the_last_byte_reaches_who_reads_slowly(client):
    from tests.daemon.asking import ENVIRON, spec

    command = "head -c 5000000 /dev/zero; exit 3"
    asked = m.Run(spec=spec(command, name="tail"), environ=ENVIRON, attach=True, fds=True)
    with client.open(asked) as session:
        deadline = time.monotonic() + 0.5  # the command may end, init must not
        while time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(read_all(session.fds["stdout"])) == 5_000_000
        assert session.wait().env.exit_code == 3
    remove(client, "tail")


def test_a_reader_that_never_reads_is_ended_by_a_stop(client, shared_daemon):
    from tests.daemon.asking import ENVIRON, spec

    asked = m.Run(spec=spec("head -c 5000000 /dev/zero", name="stuck"), environ=ENVIRON, attach=True, fds=True)
    with shared_daemon.client() as other, other.open(asked) as session:
        assert client.call(m.Stop(target="stuck", timeout=0.2)).env.state in ("stopped", "failed")
        assert session.wait().env.state in ("stopped", "failed")
    remove(client, "stuck")


def test_attach_tells_the_services_own_code(client):
    run(client, "while ! test -e go; do sleep 0.02; done; echo bye; exit 7", name="codes")
    with client.open(m.Attach(target="codes", fds=True)) as session:
        assert execute_in(client, "codes", "touch", "go") == 0
        assert read_all(session.fds["stdout"]) == b"bye\n"
        assert session.wait().exit_code == 7
    remove(client, "codes")


def execute_in(client, target, *argv):
    with client.open(m.Exec(target=target, argv=list(argv), fds=True)) as session:
        return session.wait().exit_code


def test_attached_from_the_first_byte(client):
    from tests.daemon.asking import ENVIRON, spec

    asked = m.Run(spec=spec("cat; exit 4", name="attached", stdin=True), environ=ENVIRON, attach=True, fds=True)
    with client.open(asked) as session:
        os.write(session.fds["stdin"], b"hello")
        os.close(session.fds.pop("stdin"))
        assert read_all(session.fds["stdout"]) == b"hello"
        assert session.wait().env.exit_code == 4
    remove(client, "attached")


def test_after_a_restart_a_command_tells_its_own_code(client):
    """Not that of the first command before the restart, whose session a new init would have counted alike."""
    run(client, "sleep 600", name="again")
    assert [execute_in(client, "again", "true"), execute_in(client, "again", "sh", "-c", "exit 5")] == [0, 5]
    client.call(m.Restart(target="again"))
    assert [execute_in(client, "again", "sh", "-c", f"exit {code}") for code in (3, 4)] == [3, 4]
    remove(client, "again")
