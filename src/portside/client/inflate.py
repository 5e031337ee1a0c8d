"""An archive that came compressed, as it was: gzip and zstd, found by how the stream begins.

Bounded whatever the input: a step gives about ``STEP`` bytes, so that a bomb costs its sender's patience. That a stream
ends early is for the archive's own form to show. Layers have their own way (``layers/compression.py``), in processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from portside.core.work import in_thread
from portside.errors import InvalidArgument
from portside.layers.compression import GZIP, MAGIC_SIZE, PLAIN, detect

STEP = 1 << 20
_SLICE = 512
"""Bytes of zstd given to the library at a time: each four of them may stand for a block of 128 KiB."""
_MAX_WINDOW = 1 << 27

_Inflate: TypeAlias = Callable[[bytes], tuple[bytes, bytes]]
"""Takes compressed bytes; gives about ``STEP`` bytes of what they stand for, and those that are left."""


async def inflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``chunks``, inflated if they are compressed; InvalidArgument for a damaged stream."""
    inflate: _Inflate | None = None
    head = b""
    known = False
    async for chunk in chunks:
        if not known:
            head += chunk
            if len(head) < MAGIC_SIZE:
                continue
            chunk, known = head, True
            kind = detect(head)
            inflate = None if kind == PLAIN else _gzip() if kind == GZIP else _zstd()
        if inflate is None:
            yield chunk
            continue
        part = b""
        while chunk or len(part) >= STEP:  # a full step may leave something behind that took all input
            part, chunk = await in_thread(inflate, chunk)
            yield part
    if not known:
        yield head


def _gzip() -> _Inflate:
    """All members, as gzip(1) reads them."""
    import zlib

    inflater = zlib.decompressobj(31)

    def inflate(data: bytes) -> tuple[bytes, bytes]:
        nonlocal inflater
        if inflater.eof:
            inflater = zlib.decompressobj(31)
            data = data.lstrip(b"\0")  # padding of tapes
        try:
            part = inflater.decompress(data, STEP)
        except zlib.error as error:
            raise InvalidArgument(f"archive: the gzip stream is damaged: {error}") from error
        return part, inflater.unused_data if inflater.eof else inflater.unconsumed_tail

    return inflate


def _zstd() -> _Inflate:
    """All frames."""
    import zstandard

    inflater = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj(read_across_frames=True)

    def inflate(data: bytes) -> tuple[bytes, bytes]:
        parts, size, at = [], 0, 0
        try:
            while at < len(data) and size < STEP:
                parts.append(inflater.decompress(data[at : at + _SLICE]))
                size += len(parts[-1])
                at += _SLICE
        except zstandard.ZstdError as error:
            raise InvalidArgument(f"archive: the zstd stream is damaged: {error}") from error
        return b"".join(parts), data[at:]

    return inflate
