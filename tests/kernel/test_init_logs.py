"""Logs that pid 1 writes: whole CRI records in two bounded files, whatever services print and whatever the disk says."""

import itertools
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.launch import logfile, pump
from sandboxd.launch.exits import FILE_LIMIT, Exit, ExitFile, read_exits
from sandboxd.launch.initlink import ServiceExited
from sandboxd.launch.logfile import STAMP, LogFiles, Stamp
from sandboxd.launch.loop import Loop
from sandboxd.launch.pump import LINE_LIMIT, Output
from tests.kernel.inits import Env, connected, program, run, shell, start, until

RECORD = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] [^\n]*\n", re.DOTALL)


def is_whole(text: bytes) -> bool:
    """Whether this is records and nothing else."""
    return RECORD.sub(b"", text) == b""


class Files:
    """Two log files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.paths = [directory / "0.log", directory / "1.log"]

    def open(self, limit: int) -> LogFiles:
        first, second = (os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600) for path in self.paths)
        return LogFiles((first, second), limit)

    def texts(self) -> list[bytes]:
        return [path.read_bytes() for path in self.paths]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def record(number: int, size: int = 0) -> bytes:
    return b"2026-11-23T04:38:22.%09dZ stdout F %d%s\n" % (number, number, b"x" * size)


# -- the two files ---------------------------------------------------------------------------------------------------------


def test_stamp() -> None:
    stamp = Stamp()
    assert stamp.at(1795408702123456789) == "2026-11-23T04:38:22.123456789Z"
    assert stamp.at(1795408702000000001) == "2026-11-23T04:38:22.000000001Z"
    assert stamp.at(1795408703000000000) == "2026-11-23T04:38:23.000000000Z"


def test_swap_keeps_the_latest_and_the_bound(files: Files) -> None:
    log = files.open(1000)
    for number in range(200):
        log.write(record(number))
        assert all(len(text) <= 1000 and is_whole(text) for text in files.texts())
    log.close()
    kept = sorted(int(line.rsplit(b" ", 1)[1]) for text in files.texts() for line in text.splitlines())
    assert kept == list(range(kept[0], 200))
    assert len(kept) >= 20


def test_a_batch_larger_than_both_files(files: Files) -> None:
    log = files.open(300)
    log.write(b"".join(record(5).replace(b"F 5", b"F %d" % number) for number in range(100)))
    earlier, later = sorted(files.texts())
    assert earlier.splitlines()[-1][:30] < later[:30], "no time is in both files"
    log.write(record(100, 500))  # alone over the limit: a file of its own
    log.close()
    texts = files.texts()
    assert all(is_whole(text) for text in texts)
    (alone,) = [text for text in texts if text.endswith(record(100, 500)[STAMP:])]
    assert alone.count(b"\n") == 1
    assert max(len(text) for text in texts if text != alone) <= 300


@pytest.mark.parametrize("before", range(0, 60, 7))
def test_a_new_init_goes_on_in_the_newer_file(files: Files, before: int) -> None:
    log = files.open(500)
    for number in range(before):
        log.write(record(number))
    log.close()
    log = files.open(500)
    for number in range(before, before + 5):
        log.write(record(number))
    log.close()
    kept = sorted(int(line.rsplit(b" ", 1)[1]) for text in files.texts() for line in text.splitlines())
    assert kept == list(range(kept[0], before + 5)), "what is kept has no gap"


def test_a_file_that_cannot_be_written_drops_and_counts(files: Files) -> None:
    log = LogFiles((os.open("/dev/full", os.O_WRONLY), os.open("/dev/full", os.O_WRONLY)), 1 << 20)
    log.write(record(1) + record(2))
    log.write(record(3))
    assert (log.dropped, log.reason) == (3, "No space left on device")
    log.close()
    log.write(record(4))  # even of closed files it only says so
    assert log.dropped == 4


def test_a_torn_write_is_taken_back(tmp_path: Path, files: Files) -> None:
    """RLIMIT_FSIZE makes a write end in the middle of a record."""
    pid = os.fork()
    if pid == 0:
        try:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            log = files.open(1 << 20)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
            for number in range(50):
                log.write(record(number) + record(1000 + number))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            log.write(record(2000))
            log.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    text = files.texts()[0]
    assert is_whole(text)
    *kept, notice, last = text.splitlines()
    assert 5 < len(kept) < 15
    assert last.endswith(b" F 2000")
    assert notice.endswith(b"stderr F [sandboxd: %d log records dropped: File too large]" % (100 - len(kept)))


# -- cutting a stream into records -------------------------------------------------------------------------------------------


class Stream:
    """An Output over a pipe, fed by hand."""

    def __init__(self, loop: Loop, files: Files, limit: int = 1 << 24) -> None:
        reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self.loop = loop
        self.files = files
        self.log = files.open(limit)
        self.output = Output(loop, reading, "stdout", self.log)

    def feed(self, *chunks: bytes) -> None:
        for chunk in chunks:
            for at in range(0, len(chunk), 60000):
                os.write(self.writing, chunk[at : at + 60000])
                while self.output.pull():
                    continue

    def end(self) -> list[tuple[bytes, bytes]]:
        """Close the stream; its records as (tag, text)."""
        os.close(self.writing)
        while self.output.fd >= 0:
            self.output.pull()
        self.log.close()
        text = b"".join(self.files.texts())
        assert is_whole(text)
        return [(line.split(b" ", 3)[2], line.split(b" ", 3)[3]) for line in text.split(b"\n")[:-1]]


@pytest.mark.parametrize(
    ("chunks", "records"),
    [
        ([b"one\ntwo\n"], [(b"F", b"one"), (b"F", b"two")]),
        ([b"o", b"ne\ntw", b"o", b"\n"], [(b"F", b"one"), (b"F", b"two")]),
        ([b"\n\n\n"], [(b"F", b"")] * 3),
        ([b"no newline"], [(b"F", b"no newline")]),
        ([b""], []),
        ([b"nul \0 and \xff\xfe and \r\n"], [(b"F", b"nul \0 and \xff\xfe and \r")]),
        ([b"x" * LINE_LIMIT + b"\n"], [(b"F", b"x" * LINE_LIMIT)]),
        ([b"x" * LINE_LIMIT, b"\n"], [(b"F", b"x" * LINE_LIMIT)]),
        ([b"x" * LINE_LIMIT + b"y\n"], [(b"P", b"x" * LINE_LIMIT), (b"F", b"y")]),
        ([b"x" * LINE_LIMIT + b"y"], [(b"P", b"x" * LINE_LIMIT), (b"F", b"y")]),
        (
            [b"a\n" + b"x" * 2 * LINE_LIMIT + b"\nb\n"],
            [(b"F", b"a"), (b"P", b"x" * LINE_LIMIT), (b"F", b"x" * LINE_LIMIT), (b"F", b"b")],
        ),
    ],
)
def test_records(loop: Loop, files: Files, chunks: list[bytes], records: list[tuple[bytes, bytes]]) -> None:
    stream = Stream(loop, files)
    stream.feed(*chunks)
    assert stream.end() == records


many = st.builds(bytes.__mul__, st.sampled_from([b"x", b"\n", b"ab\n"]), st.integers(0, 40000))


@given(chunks=st.lists(st.one_of(st.binary(max_size=50), many), max_size=8))
def test_any_bytes_come_out_as_they_went_in(chunks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        loop = Loop()
        stream = Stream(loop, Files(Path(directory)))
        stream.feed(*chunks)
        records = stream.end()
        loop.close()
    wrote = b"".join(chunks)
    text = b"".join(words + (b"\n" if tag == b"F" else b"") for tag, words in records)
    assert text == wrote + (b"" if wrote.endswith(b"\n") or not wrote else b"\n")
    assert all(len(words) <= LINE_LIMIT for _, words in records)
    assert not any(
        before[0] == after[0] == b"P" and len(before[1]) < LINE_LIMIT for before, after in itertools.pairwise(records)
    )


def test_batches_are_bounded_before_they_are_made(loop: Loop, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(loop, files)
    sizes: list[int] = []
    write = LogFiles.write
    monkeypatch.setattr(LogFiles, "write", lambda self, records: (sizes.append(len(records)), write(self, records))[1])
    stream.feed(b"\n" * 60000)
    assert len(stream.end()) == 60000
    assert max(sizes) <= logfile.SPREAD_LIMIT + LINE_LIMIT


def test_a_flood_has_its_share_of_a_core_and_loses_nothing(loop: Loop, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SHARE", 0.0)  # any read is too much
    stream = Stream(loop, files)
    os.write(stream.writing, b"line\n" * 10_000)
    rests = 0
    while rests < 50_000 // pump.CHUNK:
        assert loop.acts
        loop.turn(1.0)
        assert stream.output.rest is not None, "it goes on without a pause"
        assert not loop.acts
        rests += 1
        while stream.output.rest is not None:
            loop.turn(1.0)
    stream.feed(b"last\n")
    assert stream.end() == [(b"F", b"line")] * 10_000 + [(b"F", b"last")]


def test_who_reads_along_sets_the_pace(loop: Loop, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SHARE", 0.0)
    stream = Stream(loop, files)
    reading, writing = os.pipe()
    stream.output.tee(pump.Sink(loop, writing, waits=True, ended=lambda _: None))
    os.write(stream.writing, b"x" * 50_000)
    for _ in range(3):
        loop.turn(1.0)
        assert stream.output.rest is None
    assert len(os.read(reading, 1 << 16)) == 3 * pump.CHUNK
    stream.end()
    os.close(reading)


def test_an_end_while_it_rests(loop: Loop, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SHARE", 0.0)
    stream = Stream(loop, files)
    os.write(stream.writing, b"words")
    loop.turn(1.0)
    assert stream.output.rest is not None
    stream.output.drain()  # as when its service has ended
    assert b"words" in b"".join(text for _, text in stream.end())
    loop.turn(0.0)  # its timer is no more
    assert not loop.acts


def test_an_unfinished_line_shows_after_a_moment(loop: Loop, files: Files) -> None:
    stream = Stream(loop, files)
    stream.feed(b"done\npassword: ")
    assert b"password" not in files.texts()[0]
    while b"password" not in files.texts()[0]:
        loop.turn(pump.FLUSH_AFTER)
    stream.feed(b"secret\nmore\n", b"last")
    assert stream.end() == [(b"F", b"done"), (b"P", b"password: "), (b"F", b"secret"), (b"F", b"more"), (b"F", b"last")]


def test_an_unfinished_line_that_was_shown_is_ended(loop: Loop, files: Files) -> None:
    stream = Stream(loop, files)
    stream.feed(b"$ ")
    while not files.texts()[0]:
        loop.turn(pump.FLUSH_AFTER)
    assert stream.end() == [(b"P", b"$ "), (b"F", b"")]


# -- through a real init -----------------------------------------------------------------------------------------------------


def test_everything_a_service_prints(init_env) -> None:
    script = r"""import os, sys
os.write(1, b"\x00\xff\xfe bytes\n" + b"x" * 40000 + b"\n" + b"\n" * 3 + "ü\n".encode())
os.write(2, b"to stderr\n")
os.write(1, b"no newline")"""
    env: Env = init_env({"web": program("/usr/bin/python3", "-I", "-S", "-c", script)})

    async def main() -> None:
        async with connected(env) as (link, heard):
            if (await link.status()).services["web"].wait_status is None:
                await heard.wait(ServiceExited)

    run(main())
    assert is_whole(env.log("web"))
    assert env.text("web") == b"\x00\xff\xfe bytes\n" + b"x" * 40000 + b"\n\n\n\n" + "ü\n".encode() + b"no newline\n"
    assert env.text("web", "stderr") == b"to stderr\n"


def test_logs_stay_bounded(init_env) -> None:
    env: Env = init_env({"web": shell("seq 1 30000; echo end")}, log_limit=20000)
    run(until(lambda: env.text("web").endswith(b"\nend\n")))
    assert all(path.stat().st_size <= 20000 for path in (env.dir / "logs").iterdir())
    numbers = [int(line) for line in env.text("web").splitlines()[:-1]]
    assert numbers == list(range(numbers[0], 30001))


def test_a_full_disk_never_blocks_a_service(init_env, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = "seq 1 20000; echo done >&2; : > $0/said; while [ ! -e $0/go ]; do sleep 0.05; done; seq 1 10; exit 4"
    env: Env = init_env(
        {"web": program("/bin/sh", "-c", script, str(tmp_path)), "other": shell("sleep 1000")},
        tmpfs={str(disk): "128k"},
        logs={"web": [str(disk / "0.log"), str(disk / "1.log")]},
    )
    inside = Path(f"/proc/{env.harness.pid}/root{disk}")  # the mount is in the env's namespace only

    async def main() -> None:
        async with connected(env) as (link, heard):
            await until((tmp_path / "said").exists)
            assert (inside / "0.log").stat().st_size > 100_000
            await until(
                lambda: is_whole((inside / "0.log").read_bytes())
            )  # no torn record is left, though one is there at times
            (tmp_path / "go").touch()
            exit = await heard.wait(ServiceExited)
            assert os.waitstatus_to_exitcode(exit.wait_status) == 4, "it ran to its end though nothing could be written"
            os.truncate(inside / "0.log", 0)  # there is space again
            logs = [os.open(inside / f"{n}.log", os.O_WRONLY) for n in (0, 1)]
            await link.start({"name": "web", **shell("echo back; echo again")}, logs=(logs[0], logs[1]))
            for fd in logs:
                os.close(fd)
            await until(lambda: b" again\n" in (inside / "0.log").read_bytes())

    run(main())
    text = (inside / "0.log").read_bytes().lstrip(b"\0")
    assert is_whole(text)
    first, *rest = text.splitlines()
    dropped = re.search(rb"stderr F \[sandboxd: (\d+) log records dropped: No space left on device\]$", first)
    assert dropped, first
    assert int(dropped[1]) > 15000
    assert [line.rsplit(b" ", 1)[1] for line in rest] == [b"back", b"again"]


# -- exits -------------------------------------------------------------------------------------------------------------------


def open_exits(path: Path) -> ExitFile:
    return ExitFile(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def test_exits_go_on_where_an_earlier_init_stopped(tmp_path: Path) -> None:
    path = tmp_path / "exits"
    assert read_exits(path) == []
    for _ in range(2):
        file = open_exits(path)
        assert file.record("web", 5, 256, 1.5)
        assert file.record("db", 6, 9, 2.5)
        os.close(file.fd)
    found = read_exits(path)
    assert [(exit.service, exit.n) for exit in found] == [("web", 1), ("db", 2), ("web", 3), ("db", 4)]
    assert found[0] == Exit("web", 5, 256, 1.5, 1)


def test_exits_stay_under_the_cap_and_keep_the_last_of_each(tmp_path: Path) -> None:
    file = open_exits(tmp_path / "exits")
    file.record("once", 1, 0, 0.0)
    for number in range(5000):
        assert file.record("often", number, 256, float(number))
        assert file.size <= FILE_LIMIT
    os.close(file.fd)
    assert (tmp_path / "exits").stat().st_size == file.size
    last = {exit.service: exit.n for exit in read_exits(tmp_path / "exits")}
    assert last == {"once": 1, "often": 5001}


def test_exits_on_a_full_disk_are_kept_until_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "exits"
    file = open_exits(path)
    real, file.fd = file.fd, os.open("/dev/full", os.O_WRONLY)
    assert not file.record("web", 1, 0, 1.0)
    assert not file.record("web", 2, 0, 2.0)
    assert not file.retry()
    os.close(file.fd)
    file.fd = real
    assert file.retry()
    assert file.record("web", 3, 0, 3.0)
    os.close(file.fd)
    assert [exit.pid for exit in read_exits(path)] == [1, 2, 3]


def test_a_hostile_exits_file_is_read_without_trust(tmp_path: Path) -> None:
    good = Exit("web", 1, 0, 1.0, 1)
    path = tmp_path / "exits"
    lines = [b"\xff\n", b"{}\n", b"[" * 10000 + b"\n", b'{"service":1,"pid":1,"wait_status":0,"time":0,"n":1}\n', b"null\n"]
    lines += [
        b'{"service":"a","pid":true,"wait_status":0,"time":0,"n":1}\n',
        b'{"service":"a","pid":"1","wait_status":0,"time":0,"n":1}\n',
    ]
    path.write_bytes(b"".join(lines) + good.line() + good.line()[:20])
    assert read_exits(path) == [good]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        read_exits(tmp_path / "link")
    assert ExitFile(-1).record("web", 1, 0, 1.0)


def test_a_service_whose_exit_cannot_be_recorded_is_told_all_the_same(init_env) -> None:
    env: Env = init_env({}, rlimits={"FSIZE": [0, 0]})

    async def main() -> None:
        async with connected(env) as (link, heard):
            await start(env, link, "web", shell("echo lost; exit 2"))
            exit = await heard.wait(ServiceExited)
            assert os.waitstatus_to_exitcode(exit.wait_status) == 2
            assert (await link.status()).services["web"].wait_status == exit.wait_status

    run(main())
    assert env.log("web") == b""
    assert read_exits(env.dir / "exits") == []
