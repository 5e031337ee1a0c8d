"""Layers' compression: find out which, undo it in bounded steps, do it.

gzip goes through ISA-L, zstd through libzstd; each is imported when a layer needs it. A stream is pulled: ``read``
gives at most ``STEP`` bytes whatever the input, so a bomb costs its consumer's patience and nobody's memory.
"""

from __future__ import annotations

from portside.errors import DataLoss, InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class ByteStream(Protocol):
        """What is read from."""

        def read(self, size: int) -> bytes:
            """Up to ``size`` bytes; empty at the end."""
            ...

    class Decompressor(Protocol):
        """A stream, uncompressed."""

        def read(self) -> bytes:
            """The next bytes, about ``STEP`` at most; empty at the end. DataLoss if the input ends early."""
            ...


STEP = 1 << 20
_INPUT = 256 << 10
_MAX_WINDOW = 1 << 27

GZIP, ZSTD, PLAIN = "gzip", "zstd", ""
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAGIC_SIZE = 4


def detect(start: bytes) -> str:
    """The compression of a stream that begins with ``start`` (``MAGIC_SIZE`` bytes, or all there are)."""
    if start.startswith(_GZIP_MAGIC):
        return GZIP
    if start.startswith(_ZSTD_MAGIC) or (len(start) >= 4 and start[0] & 0xF0 == 0x50 and start[1:4] == b"\x2a\x4d\x18"):
        return ZSTD
    return PLAIN


_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_SUFFIXES = {"": PLAIN, "+gzip": GZIP, ".gzip": GZIP, "+zstd": ZSTD, ".zstd": ZSTD}


def compression_of(media_type: str) -> str:
    """What a layer's media type says; Unimplemented for what is no layer of ours (encrypted ones, EROFS …)."""
    for base in _LAYERS:
        if media_type.startswith(base) and media_type[len(base) :] in _SUFFIXES:
            return _SUFFIXES[media_type[len(base) :]]
    raise Unimplemented(f"media type {media_type[:200]!r} is not a layer that can be unpacked")


def check_media_type(media_type: str, found: str) -> None:
    """A layer called compressed may be compressed in another way or not at all (there are such images, and containerd
    takes them); one called plain must be plain. InvalidArgument, or as ``compression_of``."""
    if compression_of(media_type) == PLAIN and found != PLAIN:
        raise InvalidArgument(f"the media type {media_type} says uncompressed, but the bytes are {found}")


def open_stream(source: ByteStream, compression: str) -> Decompressor:
    """Undo ``compression`` of what ``source`` gives."""
    if compression == GZIP:
        return _Gzip(source)
    if compression == ZSTD:
        return _Zstd(source)
    return _Plain(source)


class _Plain:
    def __init__(self, source: ByteStream) -> None:
        self._source = source

    def read(self) -> bytes:
        return self._source.read(STEP)


class _Gzip:
    """All members of a gzip file, one after the other (RFC 1952 2.2). After the last, zeros are padding."""

    def __init__(self, source: ByteStream) -> None:
        from isal import igzip_lib

        self._make: Callable[[], Any] = lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._error: Any = igzip_lib.error
        self._source: ByteStream = source
        self._member = self._make()
        self._members = 0

    def read(self) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = b""
            if self._member.needs_input:
                data = self._source.read(_INPUT)
                if not data:
                    raise DataLoss("the gzip stream ends early")
            try:
                out: bytes = self._member.decompress(data, STEP)
            except self._error as error:
                raise InvalidArgument(f"the gzip stream is damaged: {error}") from error
            if out:
                return out

    def _next_member(self) -> bool:
        self._members += 1
        rest = self._member.unused_data.lstrip(b"\0")
        while not rest:
            more = self._source.read(_INPUT)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        while len(rest) < 3 and (more := self._source.read(_INPUT)):
            rest += more
        if not rest.startswith(_GZIP_MAGIC):
            raise InvalidArgument("the gzip stream is followed by something else")
        self._source = _Prefixed(rest, self._source)
        self._member = self._make()
        return True


class _Prefixed:
    """``first``, then the rest of ``source``."""

    def __init__(self, first: bytes, source: ByteStream) -> None:
        self._first = first
        self._source: ByteStream = source._source if isinstance(source, _Prefixed) and not source._first else source

    def read(self, size: int) -> bytes:
        if not self._first:
            return self._source.read(size)
        data, self._first = self._first[:size], self._first[size:]
        return data


class _Zstd:
    """All frames of a zstd stream, skippable ones included (RFC 8878)."""

    def __init__(self, source: ByteStream) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._frames = _ZstdFrames(source)
        self._reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            self._frames,  # type: ignore[arg-type]
            read_size=_INPUT,
            read_across_frames=True,
        )

    def read(self) -> bytes:
        try:
            data = self._reader.read(STEP)
        except self._error as error:
            raise InvalidArgument(f"the zstd stream is damaged: {error}") from error
        if not data and not self._frames.between:
            raise DataLoss("the zstd stream ends early")
        return data


class _ZstdFrames:
    """Passes its source on and follows frames and blocks (RFC 8878 3.1), since the library is silent about an early
    end."""

    def __init__(self, source: ByteStream) -> None:
        self._source = source
        self._head = b""
        self._want = 4
        self._skip = 0
        self._parse: Callable[[bytes], None] = self._magic
        self._checksum = 0

    @property
    def between(self) -> bool:
        """Whether what was read ends with a whole frame, or is nothing."""
        return not self._skip and not self._head and self._parse == self._magic

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            step = min(self._want - len(self._head), len(data) - position)
            self._head += data[position : position + step]
            position += step
            if len(self._head) == self._want:
                head, self._head = self._head, b""
                self._parse(head)
        return data

    def _expect(self, size: int, parse: Callable[[bytes], None], skip: int = 0) -> None:
        self._want, self._parse, self._skip = size, parse, skip

    def _magic(self, head: bytes) -> None:
        if head == _ZSTD_MAGIC:
            self._expect(1, self._descriptor)
        else:
            self._expect(4, self._skippable)

    def _skippable(self, head: bytes) -> None:
        self._expect(4, self._magic, int.from_bytes(head, "little"))

    def _descriptor(self, head: bytes) -> None:
        flags = head[0]
        single = flags >> 5 & 1
        self._checksum = 4 * (flags >> 2 & 1)
        size = (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        self._expect(3, self._block, size)

    def _block(self, head: bytes) -> None:
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        size = 1 if kind == 1 else size
        if last:
            self._expect(4, self._magic, size + self._checksum)
        else:
            self._expect(3, self._block, size)
