from __future__ import annotations

import fcntl
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portside.errors import InvalidArgument, NotFound, Unimplemented
from portside.shim import sinks as sinks_module
from portside.shim.loop import Loop
from portside.shim.sinks import LiveCopy, split_uri
from portside.shim.stdio import Streams
from tests.shim.conftest import Turner
from tests.shim.test_logfile import replay


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def fifo(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        path = str(tmp_path / name)
        os.mkfifo(path)
        return path

    return make


class Reader(threading.Thread):
    """A client: reads a fifo to its end."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self.fd, True)
        self.data = b""
        self.ended = False

    def run(self) -> None:
        while chunk := os.read(self.fd, 65536):
            self.data += chunk
        self.ended = True
        os.close(self.fd)


def start(streams: Streams, direct: bool = False) -> list[int]:
    """What a process would have inherited."""
    streams.prepare()
    child = [os.dup(fd) if fd >= 0 else -1 for fd in streams.child_fds(direct)]
    streams.started(direct=direct)
    streams.begin_input()
    return child


def close(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize("direct", [True, False])
def test_output_reaches_a_fifo_exactly_and_ends(
    loop: Loop, turner: Turner, fifo: Callable[[str], str], direct: bool
) -> None:
    path = fifo("out")
    streams = Streams(loop, ("", path, ""), False)
    child = start(streams, direct)
    assert child[0] == -1 and child[2] == -1
    reader = Reader(path)
    reader.start()
    data = os.urandom(300_000)

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(child[1], view) :]
        os.close(child[1])

    writer = threading.Thread(target=write)
    writer.start()
    turner.until(lambda: not writer.is_alive() or (not direct and len(reader.data) == len(data)))
    writer.join()
    told: list[bool] = []
    streams.exited(lambda: told.append(True))
    turner.until(lambda: reader.ended)
    assert reader.data == data and told == [True]
    streams.close()


def test_a_reader_may_go_and_another_come(loop: Loop, turner: Turner, fifo: Callable[[str], str]) -> None:
    path = fifo("out")
    streams = Streams(loop, ("", path, ""), False)
    child = start(streams)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(child[1], b"one")
    seen: list[bytes] = []

    def arrived() -> bool:
        try:
            seen.append(os.read(first, 100))
        except BlockingIOError:
            return False
        return True

    turner.until(arrived)
    os.close(first)
    os.write(child[1], b"two")
    second = Reader(path)
    second.start()
    close(child)
    turner.until(lambda: second.ended)
    assert seen == [b"one"] and second.data == b"two"
    streams.close()


def test_a_reader_that_does_not_read_slows_the_writer_and_loses_nothing(
    loop: Loop, turner: Turner, fifo: Callable[[str], str]
) -> None:
    path = fifo("out")
    streams = Streams(loop, ("", path, ""), False)
    child = start(streams)
    os.set_blocking(child[1], False)
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    written = b""

    def full() -> bool:
        nonlocal written
        try:
            chunk = os.urandom(4096)
            written += chunk[: os.write(child[1], chunk)]
        except BlockingIOError:
            alarm = loop.later(0.02, lambda: None)
            loop.turn()  # What the loop could move it has moved: if there is room now, it was not full.
            alarm.cancel()
            try:
                written += chunk[: os.write(child[1], chunk)]
            except BlockingIOError:
                return True
        return False

    turner.until(full)
    assert len(written) <= 4 << 20
    reader = Reader(path)
    os.close(held)
    reader.start()
    close(child)
    turner.until(lambda: reader.ended)
    assert reader.data == written
    streams.close()


def test_delete_gives_up_on_a_child_that_holds_the_pipe_but_does_not_kill_it(
    loop: Loop, turner: Turner, fifo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portside.shim.stdio.FINISH_TIMEOUT", 0.05)
    path = fifo("out")
    streams = Streams(loop, ("", path, ""), False)
    child = start(streams)
    reader = Reader(path)
    reader.start()
    os.write(child[1], b"before")
    told: list[str] = []
    streams.exited(lambda: told.append("exit"))
    assert told == ["exit"]
    streams.finish(lambda: told.append("finished"))
    turner.until(lambda: reader.ended)
    assert told == ["exit", "finished"] and reader.data == b"before"
    for _ in range(5):  # More than a pipe holds: somebody still reads it.
        os.write(child[1], bytes(60_000))
        turner.loop.turn()
    close(child)
    streams.close()


@pytest.mark.parametrize("direct", [True, False])
def test_input_ends_with_close_io_and_not_before(
    loop: Loop, turner: Turner, fifo: Callable[[str], str], direct: bool
) -> None:
    path = fifo("in")
    streams = Streams(loop, (path, "", ""), False)
    child = start(streams, direct)
    os.set_blocking(child[0], False)
    got: list[bytes] = []

    def read() -> bool:
        try:
            got.append(os.read(child[0], 65536))
        except BlockingIOError:
            return False
        return True

    for text in (b"first client", b"second client"):
        client = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(client, text)
        os.close(client)
        turner.until(read)
    assert got == [b"first client", b"second client"] and not read()
    streams.close_stdin()
    turner.until(read)
    assert got[-1] == b""
    close(child)
    streams.close()


def test_a_log_is_complete_when_the_exit_is_told(loop: Loop, tmp_path: Path) -> None:
    uri = f"log://{tmp_path}/c.log"
    streams = Streams(loop, ("", uri, uri), False)
    child = start(streams)
    os.write(child[1], b"out\nhalf")
    os.write(child[2], b"err\n")
    told: list[bytes] = []
    kept = os.dup(child[1])  # A child of the process, which keeps the pipe open.
    close(child)
    streams.exited(lambda: told.append(replay(tmp_path / "c.log", "stderr")))
    assert told == [b"err\n"]
    streams.finish(lambda: None)
    os.close(kept)
    streams.close()
    assert replay(tmp_path / "c.log") == b"out\nhalf"


def test_a_live_copy_gets_what_is_written_while_it_is_read(
    loop: Loop, turner: Turner, fifo: Callable[[str], str], tmp_path: Path
) -> None:
    path = fifo("live")
    streams = Streams(loop, ("", f"log://{tmp_path}/c.log?attach-stdout={path}", ""), False)
    child = start(streams)

    def logged(text: bytes) -> None:
        turner.until(lambda: replay(tmp_path / "c.log").endswith(text))

    os.write(child[1], b"nobody\n")
    logged(b"nobody\n")
    # A live copy comes and goes; who wants to hear no end before the first byte holds the fifo for writing, too.
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(child[1], b"somebody\n")
    logged(b"somebody\n")
    close(child)
    streams.exited(lambda: None)
    assert os.read(reader, 100) == b"somebody\n"
    os.close(reader)
    assert replay(tmp_path / "c.log") == b"nobody\nsomebody\n"
    streams.close()


def test_a_live_reader_that_stalls_does_not_stop_the_workload(
    loop: Loop, turner: Turner, fifo: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portside.shim.pump.PATIENCE", 0.02)
    path = fifo("live")
    streams = Streams(loop, ("", f"log://{tmp_path}/c.log?attach-stdout={path}", ""), False)
    child = start(streams)
    stalled = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    data = (b"x" * 999 + b"\n") * 400

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(child[1], view) :]

    writer = threading.Thread(target=write)
    writer.start()
    turner.until(lambda: not writer.is_alive())
    close(child)
    streams.exited(lambda: None)
    assert replay(tmp_path / "c.log") == data
    os.close(stalled)
    streams.close()


def test_a_stalled_live_copy_recovers(tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    copy = LiveCopy(path)
    assert copy.write(b"a" * 4096)
    assert not copy.write(b"b" * 100)
    assert copy.give_up()
    assert copy.write(b"lost") and copy.dropped == 4
    assert os.read(reader, 8192) == b"a" * 4096
    assert copy.write(b"c") and copy.dropped == 4
    assert os.read(reader, 8192) == b"b" * 100 + b"c"
    os.close(reader)
    assert copy.write(b"gone") and copy.dropped == 8
    copy.close()
    assert sinks_module.PATIENCE > 0


def test_a_terminal_is_copied_both_ways(loop: Loop, turner: Turner, fifo: Callable[[str], str]) -> None:
    output, keyboard = fifo("out"), fifo("in")
    streams = Streams(loop, (keyboard, output, ""), True)
    streams.prepare()
    assert streams.child_fds(False) == (-1, -1, -1)
    master, slave = pty.openpty()
    streams.started(master)
    reader = Reader(output)
    reader.start()
    client = os.open(keyboard, os.O_WRONLY | os.O_NONBLOCK)
    os.write(client, b"typed\n")
    turner.until(lambda: reader.data == b"typed\r\n")  # the terminal's echo
    assert os.read(slave, 100) == b"typed\n"
    os.write(slave, b"answer\n")
    os.close(slave)
    streams.exited(lambda: None)
    turner.until(lambda: reader.ended)
    assert reader.data == b"typed\r\nanswer\r\n"
    os.close(client)
    os.close(master)
    streams.close()


def test_a_file_is_appended_to(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old ")
    streams = Streams(loop, ("", f"file://{tmp_path}/f", ""), False)
    child = start(streams)
    os.write(child[1], b"new")
    close(child)
    streams.exited(lambda: None)
    assert (tmp_path / "f").read_bytes() == b"old new"
    streams.close()


@pytest.mark.parametrize(
    ("io", "kind"),
    [
        (("/nowhere/in", "", ""), NotFound),
        (("", "/nowhere/out", ""), NotFound),
        (("", "", "binary:///bin/logger"), Unimplemented),
        (("", "log://relative/path", ""), InvalidArgument),
        (("", "log:///tmp/x?max-size=many", ""), InvalidArgument),
    ],
)
def test_streams_that_cannot_be_opened(loop: Loop, io: tuple[str, str, str], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Streams(loop, io, False).prepare()


def test_uris() -> None:
    assert split_uri("/run/fifo?x") == ("fifo", "/run/fifo?x", {})
    assert split_uri("log:///a%20b/c?max-size=1m&attach-stdout=/d%26e") == (
        "log", "/a b/c", {"max-size": "1m", "attach-stdout": "/d&e"},
    )  # fmt: skip


def test_whoever_waits_for_the_end_is_told_in_order(loop: Loop, turner: Turner, tmp_path: Path) -> None:
    """Two Deletes, and the report of an exit before them: none supersedes another."""
    streams = Streams(loop, ("", f"file://{tmp_path}/out", ""), False)
    child = start(streams)
    heard: list[str] = []
    for name in ("report", "first", "second"):
        streams._when_finished(lambda name=name: heard.append(name), 20.0)
    assert not heard
    close(child)
    turner.until(lambda: len(heard) == 3)
    assert heard == ["report", "first", "second"]
    streams.close()


def test_a_time_limit_of_a_later_one_tells_the_earlier_first(loop: Loop, turner: Turner, tmp_path: Path) -> None:
    streams = Streams(loop, ("", f"file://{tmp_path}/out", ""), False)
    child = start(streams)
    heard: list[str] = []
    streams._when_finished(lambda: heard.append("report"), 20.0)
    streams._when_finished(lambda: heard.append("delete"), 0.01)
    turner.until(lambda: len(heard) == 2)
    assert heard == ["report", "delete"]
    close(child)
    streams.close()
