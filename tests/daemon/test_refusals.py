"""Bad input: an error that says what, where, why and what to do; nothing half-made stays behind, nobody else is disturbed."""

import json
import os
import socket
import stat
import time

import msgspec
import pytest

from sandboxd import errors
from sandboxd.protocol import messages as m
from sandboxd.spec import Isolation, Limits, Mount, Network, Publish, Service
from tests.daemon.asking import ENVIRON, SERVER, remove, run, spec
from tests.daemons import PATIENCE, Daemon


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_half_made(client, shared_daemon):
    yield
    assert client.call(m.List(all=True)).envs == []
    assert [name for name in os.listdir(shared_daemon.dir / "envs") if not name.startswith(".ready-")] == []


def refusal(client, kind, command="true", **parts):
    with pytest.raises(kind) as refused:
        run(client, command, **parts)
    assert refused.value.message
    assert refused.value.hint, "no word on what to do"
    return refused.value


def test_no_such_command(client):
    error = refusal(client, errors.CommandNotFound, ["nope-such", "x"])
    assert "nope-such" in error.message
    assert error.exit_code == 127


def test_not_executable(client, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    error = refusal(client, errors.CommandNotExecutable, ["./notes.txt"], path=tmp_path)
    assert error.exit_code == 126
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    assert "/no/such/interpreter" in refusal(client, errors.SandboxdError, ["./script"], path=tmp_path).message


def test_workspace_missing_unreadable_or_not_to_be_shared(client, tmp_path):
    assert "nowhere" in refusal(client, errors.WorkspaceInvalid, path=tmp_path / "nowhere").message
    (tmp_path / "file").touch()
    refusal(client, errors.WorkspaceInvalid, path=tmp_path / "file")
    (tmp_path / "shut").mkdir(mode=0)
    refusal(client, errors.WorkspaceInvalid, path=tmp_path / "shut")
    (tmp_path / "shut").chmod(stat.S_IRWXU)
    for place in ("/", "/usr", "/etc", os.path.expanduser("~")):
        refusal(client, errors.WorkspaceInvalid, path=place)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (errors.SpecInvalid, {"name": "No_Label"}),
        (errors.NameInvalid, {"name": "sandboxd"}),
        (
            errors.SpecInvalid,
            {"services": {"a": Service(command="x", depends_on=["b"]), "b": Service(command="x", depends_on=["a"])}},
        ),
        (errors.SpecInvalid, {"services": {"a": Service(command="x", depends_on=["zz"])}}),
        (errors.SpecInvalid, {"services": {}}),
        (errors.LimitUnenforceable, {"limits": Limits(cpus=1.5)}),
        (errors.LimitUnenforceable, {"limits": Limits(memory_high=1 << 30)}),
        (errors.WallUnavailable, {"isolation": Isolation(level="landlock", home="readonly")}),
        (errors.WallUnavailable, {"isolation": Isolation(level="none"), "network": Network(mode="none")}),
        (errors.SpecInvalid, {"network": Network(egress=["no such rule"])}),
        (errors.NotOffered, {"network": Network(mode="none", forward=[5432])}),
        (errors.SpecInvalid, {"mounts": [Mount(source="/no/such/place", target="/x")]}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_spec_may_not_say(client, kind, parts):
    refusal(client, kind, **parts)


def test_a_port_out_of_range_is_named(shared_daemon):
    body = {"spec": {"services": {"main": {"command": "true", "port": 70000}}}}
    answer = raw(shared_daemon, json.dumps({"method": "io.sandboxd.Control.Run", "parameters": body}).encode() + b"\0")
    assert answer["error"] == "org.varlink.service.InvalidParameter"
    assert "port" in answer["parameters"]["parameter"]


def test_a_published_port_that_is_taken_names_its_holder(client, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        error = refusal(client, errors.PortTaken, network=Network(publish=[Publish(host_port=port, port=80)]))
    assert str(port) in error.message
    assert str(os.getpid()) in f"{error.message}{error.details}"


def test_a_published_port_of_another_env_is_taken_until_that_env_goes(client, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    published = Network(publish=[Publish(host_port=port, port=3000)])
    (tmp_path / "index.html").write_text("raw")
    run(client, [*SERVER, "3000"], name="holder", path=tmp_path, port=3000, network=published, wait="ready")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200 OK" in sock.recv(4096)
    with pytest.raises(errors.PortTaken, match=str(port)):
        run(client, "true", network=published)
    remove(client, "holder")
    run(client, "sleep 100", name="next", network=published)
    remove(client, "next")


def test_the_router_port_taken_names_its_holder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        other = Daemon(SANDBOXD_LISTEN=f"127.0.0.1:{port}")
        try:
            with pytest.raises(AssertionError, match="refused to start") as refused:
                other.start()
            said = json.loads(str(refused.value).split("refused to start: ", 1)[1].splitlines()[0])
            assert said["error"] == "PortTaken"
            assert str(port) in said["message"]
            assert str(os.getpid()) in said["message"]
            assert "SANDBOXD_LISTEN" in said["hint"]
        finally:
            assert other.process is not None
            assert other.process.wait() == 125
            other.environ["SANDBOXD_LISTEN"] = "127.0.0.1:0"
            other.close()


def test_a_second_daemon_on_the_directory_is_refused(shared_daemon):
    argv = [__import__("sys").executable, "-m", "sandboxd"]
    done = shared_daemon.keeper.run(argv, shared_daemon.environ)
    assert done.returncode == 125
    assert f"pid {shared_daemon.process.pid}" in done.stderr


def test_a_stale_socket_is_replaced(daemon):
    daemon.kill()
    assert (daemon.dir / "control.sock").exists()
    daemon.start()
    with daemon.client() as client:
        assert client.call(m.Status()).pid == daemon.process.pid


def raw(daemon, frame: bytes) -> dict:
    """Send bytes, read one reply; {} when the daemon hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(daemon.dir / "control.sock"))
        try:
            sock.sendall(frame)
        except (BrokenPipeError, ConnectionResetError):
            pass
        data = b""
        while not data.endswith(b"\0"):
            try:
                chunk = sock.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            data += chunk
        return json.loads(data.split(b"\0")[0]) if data else {}


@pytest.mark.parametrize(
    "frame",
    [
        b"x" * ((1 << 20) + 1),
        b"not json\0",
        b'{"method":"io.sandboxd.Control.List","parameters":' + b"[" * 100_000 + b"]" * 100_000 + b"}\0",
        b'{"method":"io.sandboxd.Control.Nope"}\0',
        b'{"method":"io.sandboxd.Control.List","parameters":{"all":"yes"}}\0',
        b'{"method":"io.sandboxd.Control.List","parameters":{"colour":1}}\0',
    ],
    ids=["over the cap", "not JSON", "deep", "unknown method", "wrong type", "unknown key"],
)
def test_hostile_frames_get_an_error_and_disturb_nobody(shared_daemon, client, frame):
    answer = raw(shared_daemon, frame)
    assert "error" in answer
    assert client.call(m.Status()).pid == shared_daemon.process.pid


def test_a_client_that_leaves_mid_stream_is_forgotten(shared_daemon, client):
    with shared_daemon.client() as other:
        next(other.stream(m.Events(follow=True)))
    env = run(client, "true")
    remove(client, env.id)
    assert client.call(m.Status()).pid == shared_daemon.process.pid


def test_a_client_that_leaves_while_it_waits_ends_only_its_wait(shared_daemon, client):
    slow = m.Run(spec=spec("sleep 100", name="goes-on", port=80), environ=ENVIRON, wait="ready")
    frame = {"method": "io.sandboxd.Control.Run", "parameters": msgspec.to_builtins(slow)}
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(shared_daemon.dir / "control.sock"))
        other.sendall(json.dumps(frame).encode() + b"\0")
        appeared(client)
    assert [env.name for env in client.call(m.List()).envs] == ["goes-on"]
    remove(client, "goes-on")


def appeared(client) -> str:
    """The id of the one env, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for env in client.call(m.List()).envs:
            return env.id
    raise AssertionError("no env came")
