"""Logs as the shim writes them, read back to the bytes that were written."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portside.client.labels import LOG, LOG_FORMAT
from portside.client.log_lines import LogEntry, parse_line, parse_time
from portside.client.logs import _LogReader, logs
from portside.client.places import Places
from portside.client.remove import remove_log
from portside.core.containers import Container
from portside.core.tasks import Process, Status, TaskIO
from portside.errors import FailedPrecondition
from portside.shim.logfile import MIN_SIZE, LineWriter, LogFile
from portside.shim.sinks import split_uri


@dataclass
class _Tasks:
    status: Status = Status.STOPPED

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        return Process(container_id, "", 1, self.status, TaskIO())


@dataclass
class _Services:
    tasks: _Tasks = field(default_factory=_Tasks)
    namespace: str = "default"


def container(path: Path, **labels: str) -> Container:
    return Container("c", "r", labels={LOG: str(path)} | labels)


async def read(services: _Services, path: Path, **options: object) -> list[LogEntry]:
    return [entry async for entry in logs(services, container(path), **options)]  # type: ignore[arg-type]


def write(path: Path, *pieces: tuple[str, bytes], max_size: int = 0) -> None:
    log = LogFile(str(path), max_size)
    writers = {stream: LineWriter(log, stream) for stream in ("stdout", "stderr")}
    for stream, data in pieces:
        writers[stream].feed(data)
    for writer in writers.values():
        writer.finish()
    log.close()


async def test_exact_bytes_come_back(tmp_path: Path) -> None:
    long = b"x" * 40_000
    write(
        tmp_path / "log", ("stdout", b"one\ntw"), ("stderr", b"oops\n\n"), ("stdout", b"o\n" + long + b"\n\xff\x00 end")
    )
    entries = await read(_Services(), tmp_path / "log")
    by_stream = {name: b"".join(e.data for e in entries if e.stream == name) for name in ("stdout", "stderr")}
    assert by_stream == {"stdout": b"one\ntwo\n" + long + b"\n\xff\x00 end", "stderr": b"oops\n\n"}


async def test_cancelled_while_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed after the read, so that the descriptor cannot be another file's by then."""
    reading, go_on = threading.Event(), threading.Event()
    readers: list[_LogReader] = []

    class Slow(_LogReader):
        def _parse(self, data: bytes) -> list[LogEntry]:
            readers.append(self)
            reading.set()
            assert go_on.wait(60)
            os.fstat(self._fd)
            return super()._parse(data)

    monkeypatch.setattr("portside.client.logs._LogReader", Slow)
    write(tmp_path / "log", ("stdout", b"one\n"))
    task = asyncio.create_task(read(_Services(), tmp_path / "log", follow=True))
    await asyncio.to_thread(reading.wait)
    task.cancel()
    await asyncio.sleep(0)
    (reader,) = readers
    os.fstat(reader._fd)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader._fd == -1
    assert reader.read() == []


async def test_tail_and_times(tmp_path: Path) -> None:
    lines = [f"2026-01-02T03:04:0{second}.000000001Z stdout F line {second}" for second in range(6)]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    times = [parse_time(line.split()[0]) for line in lines]
    assert [entry.data for entry in await read(_Services(), tmp_path / "log", tail=2)] == [b"line 4\n", b"line 5\n"]
    assert await read(_Services(), tmp_path / "log", tail=0) == []
    some = await read(_Services(), tmp_path / "log", since_ns=times[2], until_ns=times[3])
    assert [entry.time_ns for entry in some] == times[2:4]


async def test_rotated_log_comes_first(tmp_path: Path) -> None:
    pieces = [("stdout", b"%06d" % number + b"." * 1000 + b"\n") for number in range(60)]
    write(tmp_path / "log", *pieces, max_size=MIN_SIZE)
    assert (tmp_path / "log.1").exists()
    numbers = [int(entry.data[:6]) for entry in await read(_Services(), tmp_path / "log")]
    assert numbers == list(range(numbers[0], 60))


async def test_follow_across_rotation_until_the_end(tmp_path: Path) -> None:
    services = _Services(_Tasks(Status.RUNNING))
    log = LogFile(str(tmp_path / "log"), MIN_SIZE)
    writer = LineWriter(log, "stdout")
    writer.feed(b"000\n")
    seen: list[int] = []
    more = asyncio.Event()

    async def follow() -> None:
        async for entry in logs(services, container(tmp_path / "log"), follow=True):  # type: ignore[arg-type]
            seen.append(int(entry.data[:3]))
            more.set()

    async def caught_up(number: int) -> None:
        while not seen or seen[-1] < number:
            more.clear()
            await asyncio.wait_for(more.wait(), 10)

    task = asyncio.create_task(follow())
    await caught_up(0)
    for number in range(1, 70):
        writer.feed(b"%03d" % number + b"." * 1000 + b"\n")
        if number % 20 == 0:
            # The follower must see each file before the next rotation but one.
            await caught_up(number)
    writer.finish()
    services.tasks.status = Status.STOPPED
    await task
    log.close()
    assert seen == list(range(70))


async def test_missing_and_foreign(tmp_path: Path) -> None:
    assert await read(_Services(), tmp_path / "nothing") == []
    with pytest.raises(FailedPrecondition):
        [entry async for entry in logs(_Services(), Container("c", "r"))]  # type: ignore[arg-type]
    (tmp_path / "log").write_bytes(b"just\nbytes")
    raw = container(tmp_path / "log", **{LOG_FORMAT: "raw"})
    entries = [entry async for entry in logs(_Services(), raw)]  # type: ignore[arg-type]
    assert b"".join(entry.data for entry in entries) == b"just\nbytes"


def test_torn_and_odd_lines() -> None:
    for line in (
        b"",
        b"x",
        b"2026-01-02T03:04:05Z stdout F",
        b"nonsense stdout F x",
        b"2026-01-02T03:04:05Z stdin F x",
    ):
        assert parse_line(line) is None
    entry = parse_line(b"2026-01-02T03:04:05.5+01:00 stderr P  two  blanks")
    assert entry == LogEntry(parse_time("2026-01-02T02:04:05.5Z"), "stderr", b" two  blanks")


def test_uris_are_what_the_shim_reads() -> None:
    places = Places("/logs/with space", "/fifo")
    path = places.log_path("default", "id?&%")
    uri = places.log_uri(path, max_size=10, stdout="/fifo/a&b", stderr="/fifo/ü")
    assert split_uri(uri) == (
        "log", path, {"max-size": "10", "attach-stdout": "/fifo/a&b", "attach-stderr": "/fifo/ü"},
    )  # fmt: skip
    assert Places("/l", "/f", lines=False).log_uri("/l/x") == "file:///l/x"


def test_only_logs_of_ours_are_removed(tmp_path: Path) -> None:
    for name in ("log", "log.1", "other"):
        (tmp_path / name).write_text("x")
    remove_log(str(tmp_path / "other"))
    remove_log("log")
    assert (tmp_path / "other").exists()
    remove_log(str(tmp_path / "log"))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
