from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.shim.logfile import MAX_TEXT, MIN_SIZE, LineWriter, LogFile, parse_size

LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)", re.DOTALL)


def replay(path: Path, stream: str = "stdout") -> bytes:
    """The bytes that a stream was, from its log."""
    out = b""
    for line in path.read_bytes().split(b"\n")[:-1]:
        match = LINE.fullmatch(line)
        assert match, line
        if match[2] == stream.encode():
            assert len(match[4]) <= MAX_TEXT
            out += match[4] + (b"\n" if match[3] == b"F" else b"")
    return out


@given(chunks=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\x00", b"\n")), max_size=20))
@settings(max_examples=60, deadline=None)
def test_bytes_come_back_whatever_the_chunks(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "c.log"
    log = LogFile(str(path))
    writer = LineWriter(log, "stdout")
    for chunk in chunks:
        writer.feed(chunk)
    writer.finish()
    log.close()
    assert replay(path) == b"".join(chunks)


def test_long_line_is_cut_into_pieces_and_comes_back(tmp_path: Path) -> None:
    data = os.urandom(5 * MAX_TEXT + 3).replace(b"\n", b"x") + b"\nshort\n" + b"y" * (2 * MAX_TEXT)
    log = LogFile(str(tmp_path / "c.log"))
    writer = LineWriter(log, "stdout")
    for start in range(0, len(data), 7000):
        writer.feed(data[start : start + 7000])
    writer.finish()
    log.close()
    assert replay(tmp_path / "c.log") == data


def test_two_streams_share_a_log(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "sub" / "c.log"))
    out, err = LineWriter(log, "stdout"), LineWriter(log, "stderr")
    out.feed(b"a\npart")
    err.feed(b"b\n")
    out.feed(b" of it\n")
    log.close()
    assert replay(tmp_path / "sub" / "c.log") == b"a\npart of it\n"
    assert replay(tmp_path / "sub" / "c.log", "stderr") == b"b\n"


def test_rotation_keeps_one_older_file_and_cuts_no_line(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    log = LogFile(str(path), max_size=MIN_SIZE)
    writer = LineWriter(log, "stdout")
    lines = [f"line {number:05d}\n".encode() for number in range(4000)]
    for start in range(0, len(lines), 300):
        writer.feed(b"".join(lines[start : start + 300]))
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["c.log", "c.log.1"]
    assert path.stat().st_size <= MIN_SIZE and (tmp_path / "c.log.1").stat().st_size <= MIN_SIZE
    kept = replay(tmp_path / "c.log.1") + replay(path)
    assert b"".join(lines).endswith(kept) and len(kept) > 8_000


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = LogFile(str(tmp_path / "c.log"))
        LineWriter(log, "stdout").feed(text)
        log.close()
    assert replay(tmp_path / "c.log") == b"one\ntwo\n"


def test_a_full_disk_is_counted_and_not_raised() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    log = LogFile("/dev/full")
    log.write(b"x" * 100)
    assert log.lost == 100
    log.close()


def test_a_link_in_place_of_the_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "c.log").symlink_to("victim")
    with pytest.raises(OSError):
        LogFile(str(tmp_path / "c.log"))


@pytest.mark.parametrize(("text", "size"), [("10m", 10 << 20), ("4K", 4096), ("1g", 1 << 30), ("77", 77), ("0", 0)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1_0", "+5", "1.5m", "1t", "²", "9" * 20])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)
