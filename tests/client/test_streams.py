"""Streams over real fifos."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from portside.client.streams import HIGH_WATER, Fifos, InputStream, OutputStream
from portside.errors import Unavailable


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
