"""Verbs on a fake client: what is asked, what is printed where, and the exit code."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sandboxd.cli.listing import USUAL, PsFlags
from sandboxd.cli.ps import ps
from sandboxd.errors import InvalidState, NotFound, TimedOut
from sandboxd.protocol import messages as m
from tests.unit.cli.fakes import ID, Sandbox, env

OTHER = "f" * 32


def listing(*envs: m.EnvInfo) -> m.ListReply:
    return m.ListReply(envs=list(envs))


# -- ps, inspect


def test_ps_asks_for_what_was_said(sandbox: Sandbox) -> None:
    done = sandbox("ps", "-a", "-f", "status=ready", "--filter", "name=s", List=listing(env()))
    assert done.asked == [m.List(all=True, filters=["status=ready", "name=s"])]
    assert "Up " in done.out


def test_ps_quiet_json_and_last(sandbox: Sandbox) -> None:
    both = listing(env(), env(id=OTHER, name="two", labels={"a": "1", "b": "2"}))
    assert sandbox("ps", "-q", List=both).out == f"{ID[:12]}\n{OTHER[:12]}\n"
    assert sandbox("ps", "-q", "--no-trunc", List=both).out == f"{ID}\n{OTHER}\n"
    assert [json.loads(line)["name"] for line in sandbox("ps", "--format", "json", List=both).out.splitlines()] == [
        "shop",
        "two",
    ]
    last = sandbox("ps", "-n", "1", "--format", "{{.Name}}", List=both)
    assert (last.out, last.asked) == ("shop\n", [m.List(all=True)])
    assert sandbox("ps", "-q", "-l", "a=1", "-l", "b", List=both).out == f"{OTHER[:12]}\n"
    assert sandbox("ps", "-q", "-l", "a=1", "-l", "c", List=both).out == ""


@pytest.mark.parametrize("words", USUAL)
def test_usual_spellings_of_ps_mean_what_click_says(words: tuple[str, ...]) -> None:
    with ps.make_context("ps", list(words)) as parsed:
        assert PsFlags(**parsed.params) == USUAL[words]


def test_inspect_is_an_array(sandbox: Sandbox) -> None:
    done = sandbox("inspect", "shop", "two", Inspect=lambda asked: m.InspectReply(env=env(name=asked.target)))
    assert [one["name"] for one in json.loads(done.out)] == ["shop", "two"]
    one_line = sandbox("inspect", "shop", "--format", "json", Inspect=m.InspectReply(env=env()))
    assert json.loads(one_line.out)[0]["id"] == ID
    assert one_line.out.count("\n") == 1
    assert sandbox("inspect", "shop", "--format", "{{.State}}", Inspect=m.InspectReply(env=env())).out == "ready\n"


def test_inspect_shows_those_that_are_there(sandbox: Sandbox) -> None:
    def answer(asked: m.Inspect) -> Any:
        return NotFound("no env 'gone'") if asked.target == "gone" else m.InspectReply(env=env())

    done = sandbox("inspect", "gone", "shop", Inspect=answer)
    assert done.code == 1
    assert len(json.loads(done.out)) == 1
    assert done.err == "sandbox: no env 'gone'\n"


# -- targets


def test_no_target_is_the_env_of_this_directory(sandbox: Sandbox) -> None:
    done = sandbox("stop", Inspect=m.InspectReply(env=env()), Stop=m.InspectReply(env=env()))
    assert done.asked == [m.Inspect(directory=os.getcwd()), m.Stop(target=ID)]
    assert done.out == "shop\n"


def test_several_targets_are_printed_as_typed(sandbox: Sandbox) -> None:
    done = sandbox("stop", "-t", "2", "shop", "0123", "shop", Stop=m.InspectReply(env=env()))
    assert done.out == "shop\n0123\n"
    assert sorted(asked.target for asked in done.asked if isinstance(asked, m.Stop)) == ["0123", "shop"]
    assert all(asked.timeout == 2.0 for asked in done.asked if isinstance(asked, m.Stop))


def test_one_that_fails_keeps_no_other_from_its_turn(sandbox: Sandbox) -> None:
    def answer(asked: m.Stop) -> Any:
        return TimedOut("too long") if asked.target == "a" else m.InspectReply(env=env())

    done = sandbox("stop", "a", "b", "c", Stop=answer)
    assert done.out == "b\nc\n"
    assert done.err == "sandbox: too long\n"
    assert done.code == 124


def test_labels_select_and_mean_and(sandbox: Sandbox) -> None:
    both = listing(env(labels={"a": "1"}), env(id=OTHER, name="two", labels={"a": "1", "b": "2"}))
    done = sandbox("stop", "-l", "a=1", "-l", "b", List=both, Stop=m.InspectReply(env=env()))
    assert done.out == "two\n"
    one = sandbox("stop", "-l", "a=1", List=both, Stop=m.InspectReply(env=env()))
    assert one.asked[0] == m.List(all=True, filters=["label=a=1"])
    assert sandbox("stop", "-l", "a", "shop").code == 2


@pytest.mark.parametrize("verb", ["rm", "kill", "down"])
def test_all_needs_yes_where_it_destroys(sandbox: Sandbox, verb: str) -> None:
    done = sandbox(verb, "all")
    assert done.code == 2
    assert f"sandbox {verb} all --yes" in done.err
    assert not done.asked


def test_all_with_yes(sandbox: Sandbox) -> None:
    receipt = m.Receipt(before={}, after={})
    removed = m.RemoveReply(id=ID, name="shop", receipt=receipt)
    done = sandbox("rm", "-f", "all", "--yes", List=listing(env(), env(id=OTHER, name="two")), Remove=removed)
    assert done.out == "shop\ntwo\n"
    assert {asked.target for asked in done.asked if isinstance(asked, m.Remove)} == {ID, OTHER}
    assert sandbox("rm", "all", "shop", "--yes").code == 2
    assert (
        sandbox("stop", "all", List=listing(env()), Stop=m.InspectReply(env=env())).out == "shop\n"
    )  # it can be started again


# -- life


def test_kill_start_restart_wait(sandbox: Sandbox) -> None:
    reply = m.InspectReply(env=env())
    killed = sandbox("kill", "-s", "HUP", "shop/web", Kill=reply)
    assert killed.asked == [m.Kill(target="shop", signal="HUP", service="web")]
    assert sandbox("kill", "/web").code == 2
    started = sandbox("start", "shop", "--wait", "--timeout", "1m", Start=m.RunReply(env=env()))
    assert started.asked == [m.Start(target="shop", wait="ready", timeout=60.0)]
    assert sandbox("restart", "shop", Restart=m.RunReply(env=env())).asked == [m.Restart(target="shop")]
    waited = sandbox("wait", "shop", Wait=m.WaitReply(env=env(), exit_code=137))
    assert (waited.code, waited.out) == (0, "137\n")
    ready = sandbox("wait", "shop", "--for", "ready", "--timeout", "3", Wait=m.WaitReply(env=env()))
    assert (ready.out, ready.asked) == ("", [m.Wait(target="shop", until="ready", timeout=3.0)])
    assert sandbox("wait", "shop", Wait=TimedOut("after 3 s")).code == 124


def test_rm_receipt_and_leaks(sandbox: Sandbox) -> None:
    receipt = m.Receipt(before={"tasks": 3}, after={"tasks": 1}, leaked={"tasks": 1})
    done = sandbox("rm", "shop", "--receipt", Remove=m.RemoveReply(id=ID, name="shop", receipt=receipt))
    assert json.loads(done.out)["receipt"]["leaked"] == {"tasks": 1}
    assert "left 1 tasks behind" in done.err
    refused = sandbox("rm", "shop", Remove=InvalidState("env shop is ready", hint="sandbox rm -f shop"))
    assert (refused.code, refused.out) == (1, "")


def test_rm_force_wants_what_is_gone_already(sandbox: Sandbox) -> None:
    def answer(asked: m.Remove) -> Any:
        return NotFound("no env 'gone'", hint="h") if asked.target == "gone" else removed

    removed = m.RemoveReply(id=ID, name="shop", receipt=m.Receipt(before={}, after={}, leaked={}))
    done = sandbox("rm", "-f", "gone", "shop", Remove=answer)
    assert (done.code, done.out, done.err) == (0, "shop\n", "sandbox: no env 'gone'\n")
    assert sandbox("rm", "-f", "gone", Remove=answer).code == 0
    assert sandbox("rm", "gone", Remove=answer).code == 1


def test_prune_does_not_ask_without_a_terminal(sandbox: Sandbox) -> None:
    done = sandbox("prune", "--filter", "label=a", Prune=m.PruneReply(removed=[ID]))
    assert (done.out, done.asked) == (f"{ID}\n", [m.Prune(filters=["label=a"])])


# -- reaching


PORTS = [
    m.PortInfo(service="web", port=3000, expose="http", url="http://web.shop.localhost:7070", address="127.0.0.1:8080"),
    m.PortInfo(service="db", port=5432, expose="tcp"),
]
SERVICES = [
    m.ServiceInfo(name="web", state="ready", port=3000, url="http://web.shop.localhost:7070"),
    m.ServiceInfo(name="db", state="ready", port=5432),
]


def test_url_and_ports(sandbox: Sandbox) -> None:
    reply = m.InspectReply(env=env(services=SERVICES, ports=PORTS))
    assert sandbox("url", "shop", Inspect=reply).out == "http://shop.localhost:7070\n"
    assert sandbox("url", "shop/web", Inspect=reply).out == "http://web.shop.localhost:7070\n"
    assert "no URL" in sandbox("url", "shop/db", Inspect=reply).err
    missing = sandbox("url", "shop/api", Inspect=reply)
    assert (missing.code, "it has web, db" in missing.err) == (1, True)
    ended = sandbox("url", "shop", Inspect=m.InspectReply(env=env(url=None, state="stopped")))
    assert "sandbox start shop" in ended.err
    listed = sandbox("ports", "shop", Inspect=reply).out.splitlines()
    assert listed[0].split() == ["SERVICE", "PORT", "EXPOSE", "ADDRESS", "URL"]
    assert listed[1].split() == ["web", "3000/tcp", "http", "127.0.0.1:8080", "http://web.shop.localhost:7070"]
    two = sandbox("ports", "shop", "two", Inspect=lambda asked: m.InspectReply(env=env(name=asked.target, ports=PORTS)))
    assert [line.split()[0] for line in two.out.splitlines()] == ["NAME", "shop", "shop", "two", "two"]


def test_open_without_a_browser_prints_the_url(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    done = sandbox("open", "shop", Inspect=m.InspectReply(env=env()))
    assert done.out == "http://shop.localhost:7070\n"
    assert done.code == 125


# -- streams


def log(text: str, service: str = "web", stream: str = "stdout", *, partial: bool = False) -> m.LogLine:
    return m.LogLine(time="2026-11-23T04:38:22.123456789Z", service=service, stream=stream, text=text, partial=partial)


def test_logs_of_one_service_are_as_written(sandbox: Sandbox) -> None:
    lines = [log("a"), log("b", partial=True), log("c"), log("oops", stream="stderr"), log("d", partial=True)]
    one = m.InspectReply(env=env(services=SERVICES[:1]))
    done = sandbox("logs", "shop", "--tail", "3", "--since", "5m", Inspect=one, Logs=[m.LogsReply(lines=lines)])
    assert done.out == "a\nbc\nd"
    assert done.err == "oops\n"
    assert done.asked[-1] == m.Logs(target="shop", tail=3, since="5m")


def test_logs_of_several_say_whose_they_are(sandbox: Sandbox) -> None:
    two = m.InspectReply(env=env(services=SERVICES))
    lines = [log("a"), log("b", "db", partial=True), log("c"), log("d", "db")]
    done = sandbox("logs", "shop", Inspect=two, Logs=[m.LogsReply(lines=lines[:2]), m.LogsReply(lines=lines[2:])])
    assert done.out == "web | a\ndb  | b\nweb | c\ndb  | d\n"
    alone = sandbox("logs", "shop/web", "-t", Logs=[m.LogsReply(lines=[log("a")])])
    assert alone.out == "2026-11-23T04:38:22.123456789Z a\n"
    assert alone.asked == [m.Logs(target="shop", service="web")]
    bare = sandbox("logs", "shop", "--no-log-prefix", Logs=[m.LogsReply(lines=lines[:1])])
    assert bare.out == "a\n"


def test_logs_as_json(sandbox: Sandbox) -> None:
    done = sandbox("logs", "shop", "-f", "--tail", "all", "--format", "json", Logs=[m.LogsReply(lines=[log("a"), log("b")])])
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["a", "b"]
    assert done.asked == [m.Logs(target="shop", follow=True)]


def test_events(sandbox: Sandbox) -> None:
    happened = [
        m.Event(time="2026-11-23T04:38:22Z", event="ready", id=ID, name="shop", detail={"port": "3000"}),
        m.Event(time="2026-11-23T04:38:23Z", event="failed", id=OTHER, name="two"),
    ]
    done = sandbox("events", "--since", "1h", "--filter", "event=ready", Events=[m.EventsReply(events=happened)])
    assert done.out.splitlines()[0] == f"2026-11-23T04:38:22Z env ready {ID} (name=shop, port=3000)"
    assert done.asked == [m.Events(since="1h", filters=["event=ready"])]
    about = sandbox("events", "-f", "ffff", "--format", "{{.Name}} {{.Event}}", Events=[m.EventsReply(events=happened)])
    assert about.out == "two failed\n"


def test_stats(sandbox: Sandbox) -> None:
    row = m.StatsRow(
        id=ID, name="shop", cpu_percent=12.3456, memory_bytes=64 << 20, memory_limit=512 << 20, pids=3,
        io_read=0, io_write=4096, net_connections=2,
    )  # fmt: skip
    done = sandbox("stats", "--no-stream", Stats=m.StatsReply(stats=[row]))
    assert done.asked == [m.Stats()]
    assert re.split(" {3,}", done.out.splitlines()[1]) == [
        ID[:12], "shop", "12.35%", "64MiB / 512MiB", "12.50%", "2", "0B / 4KiB", "3"
    ]  # fmt: skip
    free = m.StatsReply(stats=[m.StatsRow(**{**m_fields(row), "memory_limit": None})])
    assert re.search("64MiB / none +-- ", sandbox("stats", "--no-stream", "shop", Stats=free).out)
    streamed = sandbox("stats", "shop", "--interval", "500ms", "--format", "json", Stats=[m.StatsReply(stats=[row])] * 2)
    assert len(streamed.out.splitlines()) == 2
    assert streamed.asked == [m.Stats(targets=["shop"], follow=True, interval=0.5)]


def m_fields(row: m.StatsRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def test_top_shows_what_lies_below_init(sandbox: Sandbox) -> None:
    own = sandbox("top", "shop", Inspect=m.InspectReply(env=env(pid=os.getpid())))
    assert own.out.split() == ["PID", "PPID", "USER", "STATE", "RSS", "TIME", "COMMAND"]
    ended = sandbox("top", "shop", Inspect=m.InspectReply(env=env(state="stopped")))
    assert (ended.code, "it has no processes" in ended.err) == (1, True)


# -- run -d, up, down


def test_run_detached_prints_the_id_alone(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = sandbox("run", "-d", "--name", "shop", "-p", "3000", "--", "npm", "run", "--", "x", Run=m.RunReply(env=env()))
    assert done.out == f"{ID}\n"
    (asked,) = done.asked
    assert isinstance(asked, m.Run)
    assert asked.spec.services["main"].command == ["npm", "run", "--", "x"]
    assert asked.spec.workspace.path == asked.directory == str(tmp_path)
    assert (asked.wait, asked.attach, asked.exists) == ("started", False, "error")
    ready = sandbox("run", "--wait", "--timeout", "5", "--format", "json", "true", Run=m.RunReply(env=env()))
    assert json.loads(ready.out)["id"] == ID
    assert isinstance(ready.asked[0], m.Run)
    assert (ready.asked[0].wait, ready.asked[0].timeout) == ("ready", 5.0)


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["npm", "run", "dev", "--", "--port", "1"], ["npm", "run", "dev", "--", "--port", "1"]),
        (["--", "npm", "-d"], ["npm", "-d"]),
        (["ls", "-d", "--name"], ["ls", "-d", "--name"]),
        (["--", "--", "x"], ["--", "x"]),
        (["echo", "é", "", " "], ["echo", "é", "", " "]),
    ],
)
def test_the_command_is_left_alone(sandbox: Sandbox, argv: list[str], command: list[str]) -> None:
    done = sandbox("run", "-d", *argv, Run=m.RunReply(env=env()))
    assert isinstance(done.asked[0], m.Run)
    assert done.asked[0].spec.services["main"].command == command


def test_run_from_home_shares_nothing_and_says_so(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = sandbox("run", "-d", "true", Run=m.RunReply(env=env()))
    assert isinstance(done.asked[0], m.Run)
    assert done.asked[0].spec.workspace.path is None
    assert "workspace is empty" in done.err
    assert done.out == f"{ID}\n"
    asked_for = sandbox("run", "-d", "-w", ".", "true", Run=m.RunReply(env=env()))
    assert isinstance(asked_for.asked[0], m.Run)
    assert asked_for.asked[0].spec.workspace.path == str(tmp_path)
    assert asked_for.err == ""


def test_run_needs_a_terminal_for_it(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda _: False)
    done = sandbox("run", "-it", "bash")
    assert (done.code, "not a terminal" in done.err) == (125, True)
    assert sandbox("run", "--format", "json", "true").code == 125
    assert sandbox("run", "--env-file", "/nonexistent/file", "true").code == 125


SPEC = '[services.web]\ncommand = "npm run dev"\nport = 3000\n'


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "sandbox.toml").write_text(SPEC)
    monkeypatch.chdir(directory)
    return directory


def test_up_says_where_it_is(sandbox: Sandbox, shop: Path) -> None:
    replies = [m.RunReply(env=env(state="starting"), done=False), m.RunReply(env=env(ports=PORTS, workspace=str(shop)))]
    done = sandbox("up", Inspect=NotFound("no env 'shop'"), Run=replies)
    assert done.code == 0
    words = done.out.split()
    assert (words[:3], words[4:]) == (["shop", "ready", "in"], ["s", "http://shop.localhost:7070"])
    run = done.asked[1]
    assert isinstance(run, m.Run)
    assert (run.spec.name, run.spec.workspace.path, run.directory) == ("shop", str(shop), str(shop))
    assert (run.exists, run.wait, run.timeout) == ("replace", "ready", None)


def test_up_of_what_is_up(sandbox: Sandbox, shop: Path) -> None:
    here = env(workspace=str(shop))
    done = sandbox("up", Inspect=m.InspectReply(env=here), Run=[m.RunReply(env=here, changed=False)])
    assert done.out == "shop   ready already   http://shop.localhost:7070\n"


def test_up_from_below_and_by_directory(sandbox: Sandbox, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "src").mkdir()
    monkeypatch.chdir(shop / "src")
    reply = [m.RunReply(env=env())]
    for argv in (["up", "--no-wait"], ["up", "--no-wait", ".."], ["up", "--no-wait", "-f", "../sandbox.toml"]):
        run = sandbox(*argv, Inspect=NotFound("no"), Run=reply).asked[1]
        assert isinstance(run, m.Run)
        assert (run.directory, run.wait) == (str(shop), "started")


def test_up_leaves_another_directorys_env_alone(sandbox: Sandbox, shop: Path) -> None:
    done = sandbox("up", Inspect=m.InspectReply(env=env(workspace="/elsewhere/shop")))
    assert done.code == 125
    assert "/elsewhere/shop" in done.err
    assert "--name shop-2" in done.err
    assert len(done.asked) == 1


def test_up_without_a_file(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for argv, says in (
        (["up"], "no sandbox.toml in this directory"),
        (["up", "nowhere"], "no directory"),
        (["up", "."], "no sandbox"),
    ):
        done = sandbox(*argv)
        assert (done.code, says in done.err) == (2, True), done.err
        assert "hint: " in done.err


def test_up_in_a_linked_worktree_has_its_own_name(sandbox: Sandbox, shop: Path) -> None:
    git = shop.parent / "main" / ".git" / "worktrees" / "wt"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/fix/ui\n")
    (shop / ".git").write_text(f"gitdir: {git}\n")
    run = sandbox("up", Inspect=NotFound("no"), Run=[m.RunReply(env=env())]).asked[1]
    assert isinstance(run, m.Run)
    assert run.spec.name == "fix-ui.main"
    (shop / "sandbox.toml").write_text('name = "store"\n' + SPEC)
    run = sandbox("up", Inspect=NotFound("no"), Run=[m.RunReply(env=env())]).asked[1]
    assert isinstance(run, m.Run)
    assert run.spec.name == "fix-ui.store"
    run = sandbox("up", "--name", "mine", Inspect=NotFound("no"), Run=[m.RunReply(env=env())]).asked[1]
    assert isinstance(run, m.Run)
    assert run.spec.name == "mine"


def test_down(sandbox: Sandbox, shop: Path) -> None:
    here = m.InspectReply(env=env(workspace=str(shop)))
    removed = m.RemoveReply(id=ID, name="shop", receipt=m.Receipt(before={}, after={}))
    done = sandbox("down", Inspect=here, Stop=here, Remove=removed)
    assert done.asked[1:] == [m.Stop(target=ID), m.Remove(target=ID, force=True)]
    assert done.out == "shop\n"
    by_name = sandbox("down", "other", "-t", "1", Stop=here, Remove=removed)
    assert by_name.asked[0] == m.Stop(target="other", timeout=1.0)
    gone = sandbox("down", "other", Stop=here, Remove=NotFound("it went by itself"))
    assert gone.code == 0


def test_what_destroys_falls_on_no_directory_above(sandbox: Sandbox, shop: Path) -> None:
    above = m.InspectReply(env=env(name="above", workspace=str(shop.parent)))
    not_up = sandbox("down", Inspect=lambda asked: NotFound("no") if asked.target else above)
    assert (not_up.code, not_up.out, not_up.err) == (0, "", "shop is not up\n")
    (shop / "sandbox.toml").unlink()
    for argv in (["down"], ["down", "."], ["rm", "-f"], ["kill"]):
        done = sandbox(*argv, Inspect=above)
        assert (done.code, done.asked) == (1, [m.Inspect(directory=str(shop))])
        assert f"sandbox {argv[0]} above" in done.err


# -- the daemon


STATUS = m.StatusReply(
    pid=2**22 + 5,
    version="0.1.0",
    socket="/s/control.sock",
    listen=["127.0.0.1:7070"],
    dir="/s",
    uptime=65.0,
    envs={"ready": 2},
)


def test_daemon_status_and_stop(sandbox: Sandbox) -> None:
    done = sandbox("daemon", "status", Status=STATUS)
    assert "127.0.0.1:7070" in done.out
    assert "2 ready" in done.out
    assert json.loads(sandbox("daemon", "status", "--format", "json", Status=STATUS).out)["pid"] == STATUS.pid
    stopped = sandbox("daemon", "stop", Status=STATUS, Shutdown=m.Empty())
    assert stopped.asked == [m.Status(), m.Shutdown(all=False)]
    assert "envs run on" in stopped.err
    assert sandbox("daemon", "start", Status=STATUS).out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(sandbox: Sandbox, shell: str) -> None:
    done = sandbox("completion", shell)
    assert done.code == 0
    assert "_SANDBOX_COMPLETE" in done.out
    assert sandbox("completion", "tcsh").code == 2
