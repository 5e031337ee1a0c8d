"""Compressed archives, piece by piece."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.client import inflate
from portside.client.inflate import STEP, inflated
from portside.errors import InvalidArgument


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int = 70_001) -> bytes:
    return b"".join([part async for part in inflated(pieces(data, size))])


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(1).compress(data)


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=3000), st.integers(1, 500), st.sampled_from([bytes, gzip.compress, zstd]))
def test_any_bytes_in_any_pieces(data: bytes, size: int, pack: object) -> None:
    if pack is bytes and data[:2] == b"\x1f\x8b":
        return
    assert asyncio.run(read(pack(data), size)) == data  # type: ignore[operator]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
async def test_several_members_are_one(pack: object) -> None:
    """As pigz, bgzip and concatenation make them."""
    one, other = os.urandom(3 << 20), b"and more" * 1000
    assert await read(pack(one) + pack(other)) == one + other  # type: ignore[operator]
    assert await read(pack(one) + pack(b"") + pack(other), 511) == one + other  # type: ignore[operator]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
async def test_a_bomb_comes_in_small_parts(pack: object) -> None:
    size = 0
    async for part in inflated(pieces(pack(bytes(200 << 20)), 1 << 20)):  # type: ignore[operator]
        assert len(part) <= 20 * STEP
        size += len(part)
    assert size == 200 << 20
    assert inflate._SLICE // 4 * (128 << 10) <= 20 * STEP


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
async def test_a_damaged_stream_is_told(pack: object) -> None:
    data = bytearray(pack(os.urandom(100_000)))  # type: ignore[operator]
    data[8:5000] = bytes(4992)
    data[10] = 0xFF
    with pytest.raises(InvalidArgument, match=r"archive: the .* stream is damaged"):
        await read(bytes(data))
