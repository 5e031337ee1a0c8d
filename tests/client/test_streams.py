"""Streams over real fifos."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from portside.client.fifos import Fifos, sweep
from portside.client.streams import HIGH_WATER, InputStream, OutputStream
from portside.errors import PermissionDenied, Unavailable
from portside.linux.fd import OwnedFd


@pytest.fixture
def fifos(tmp_path: Path) -> Fifos:
    return Fifos(str(tmp_path / "base"), stdin=True, terminal=False)


def test_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Fifos(str(tmp_path / "base"), stdin=True, terminal=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(made.directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(made.stdin).st_mode) == 0o600
    made.remove()
    made.remove()
    assert list((tmp_path / "base").iterdir()) == []


def test_what_killed_clients_left_is_swept(tmp_path: Path) -> None:
    """The next client removes it; not what somebody holds, whatever the number says, and nothing that is not ours."""
    base = tmp_path / "base"
    script = f"from portside.client.fifos import *; import os; Fifos({str(base)!r}, stdin=True, terminal=False); "
    subprocess.run([sys.executable, "-c", script + "os.kill(os.getpid(), 9)"], check=False)
    (left,) = base.iterdir()
    assert sorted(path.name for path in left.iterdir()) == ["stderr", "stdin", "stdout"]
    elsewhere = base / f"{2**22 + 1}-of-another-pid-namespace"
    elsewhere.mkdir()
    with OwnedFd(os.open(elsewhere, os.O_RDONLY)) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = Fifos(str(base), stdin=True, terminal=False)
        assert {path.name for path in base.iterdir()} == {Path(made.directory).name, elsewhere.name}
    sweep(str(base))
    assert list(base.iterdir()) == [Path(made.directory)]
    made.remove()


@pytest.mark.root
def test_a_place_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(PermissionDenied, match="another user"):
        Fifos(str(tmp_path / "base"), stdin=True, terminal=False)


async def test_output_until_the_writer_closes(fifos: Fifos) -> None:
    stream = OutputStream(fifos.stdout)
    writer = os.open(fifos.stdout, os.O_WRONLY)
    reading = asyncio.create_task(stream.read())
    os.write(writer, b"one\ntwo")
    os.close(writer)
    assert await reading == b"one\ntwo"
    assert await stream.read() == b""


async def test_lines(fifos: Fifos) -> None:
    stream = OutputStream(fifos.stdout)
    writer = os.open(fifos.stdout, os.O_WRONLY)
    os.write(writer, b"one\n\ntwo\nrest")
    os.close(writer)
    assert [line async for line in stream.lines()] == [b"one", b"", b"two", b"rest"]


async def test_slow_reader_holds_the_writer(fifos: Fifos) -> None:
    stream = OutputStream(fifos.stdout)
    writer = os.open(fifos.stdout, os.O_WRONLY)
    total = HIGH_WATER + (4 << 20)

    def fill() -> None:
        os.write(writer, b"a" * total)
        os.close(writer)

    filling = asyncio.get_running_loop().run_in_executor(None, fill)
    size = 0
    async for chunk in stream:
        assert len(chunk) <= HIGH_WATER + (64 << 10)
        size += len(chunk)
    await filling
    assert (size, stream.dropped) == (total, 0)


async def test_drain_keeps_the_end(fifos: Fifos) -> None:
    stream = OutputStream(fifos.stdout)
    stream.drain()
    writer = os.open(fifos.stdout, os.O_WRONLY)
    total = 3 * HIGH_WATER

    def fill() -> None:
        os.write(writer, b"a" * total + b"end")
        os.close(writer)

    await asyncio.get_running_loop().run_in_executor(None, fill)
    data = await stream.read()
    assert data.endswith(b"end")
    assert len(data) + stream.dropped == total + 3


async def test_input(fifos: Fifos) -> None:
    stream = InputStream(fifos.stdin)
    reader = os.open(fifos.stdin, os.O_RDONLY | os.O_NONBLOCK)
    stream.opened()
    os.set_blocking(reader, True)

    def collect() -> bytes:
        parts = []
        while part := os.read(reader, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    collecting = asyncio.get_running_loop().run_in_executor(None, collect)
    await stream.write(b"x" * (1 << 20))
    stream.close()
    assert len(await collecting) == 1 << 20
    os.close(reader)
    with pytest.raises(Unavailable):
        await stream.write(b"more")


async def test_input_nobody_reads(fifos: Fifos) -> None:
    stream = InputStream(fifos.stdin)
    reader = os.open(fifos.stdin, os.O_RDONLY | os.O_NONBLOCK)
    stream.opened()
    os.close(reader)
    with pytest.raises(Unavailable):
        await stream.write(b"x")
    stream.close()
