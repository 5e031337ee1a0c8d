import gzip
import io
import random

import pytest
import zstandard

from portside.errors import DataLoss, InvalidArgument, Unimplemented
from portside.layers.compression import (
    GZIP,
    MAGIC_SIZE,
    PLAIN,
    STEP,
    ZSTD,
    check_media_type,
    compression_of,
    detect,
    open_stream,
)
from portside.oci.descriptor import DOCKER_LAYER, DOCKER_LAYER_GZIP, LAYER, LAYER_GZIP, LAYER_ZSTD, MANIFEST

RAW = random.Random(1).randbytes(300_000) + bytes(3 << 20)
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def zstd(data, **options):
    compressor = zstandard.ZstdCompressor(**options).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESS = {GZIP: lambda data: gzip.compress(data, 1), ZSTD: zstd, PLAIN: lambda data: data}


class Dribble(io.BytesIO):
    """Gives few bytes at a time, as a pipe does."""

    def read(self, size=-1):
        return super().read(min(size, 1009))


def undone(data, source=io.BytesIO):
    stream = open_stream(source(data), detect(data[:MAGIC_SIZE]))
    parts = []
    while part := stream.read():
        assert len(part) <= STEP
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
def test_there_and_back(kind, source):
    data = COMPRESS[kind](RAW)
    assert detect(data) == kind
    assert undone(data, source) == RAW


def test_plain():
    assert undone(RAW) == RAW and detect(b"") == PLAIN and detect(b"\x1f\x8b") == PLAIN


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
def test_several_members_are_one_stream(kind, source):
    parts = [b"one", b"", RAW, b"two" * 1000]
    assert undone(b"".join(map(COMPRESS[kind], parts)), source) == b"".join(parts)


def test_thousands_of_small_members():
    parts = [b"%d" % number for number in range(3000)]
    assert undone(b"".join(map(COMPRESS[GZIP], parts))) == b"".join(parts)


@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
def test_skippable_frames_and_checksums(source):
    data = SKIPPABLE + zstd(RAW, write_checksum=True) + SKIPPABLE + zstd(b"", write_checksum=True) + zstd(b"x" * 99)
    assert detect(data) == ZSTD
    assert undone(data, source) == RAW + b"x" * 99


@pytest.mark.parametrize("cut", [1, 4, 5, 100, 100_000])
@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_an_early_end_is_data_loss(kind, cut):
    with pytest.raises(DataLoss, match="ends early"):
        undone(COMPRESS[kind](RAW)[:-cut])


def test_an_early_end_of_the_second_member_or_of_a_skippable_frame():
    for data in (COMPRESS[GZIP](RAW) + COMPRESS[GZIP](RAW)[:50], zstd(RAW) + SKIPPABLE[:-1], zstd(RAW) + zstd(RAW)[:7]):
        with pytest.raises(DataLoss):
            undone(data)


def test_after_gzip_zeros_are_padding_and_anything_else_is_refused():
    assert undone(COMPRESS[GZIP](RAW) + bytes(600_000)) == RAW
    for junk in (b"junk", bytes(5) + b"\x1f", b"\x1f\x8b\x07xxxx"):
        with pytest.raises(InvalidArgument, match="followed by something else"):
            undone(COMPRESS[GZIP](RAW) + junk)


def test_after_zstd_nothing_may_follow():
    with pytest.raises(InvalidArgument):
        undone(zstd(RAW) + b"junk")


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_damage_is_found(kind):
    data = bytearray(gzip.compress(RAW) if kind == GZIP else zstd(RAW, write_checksum=True))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises((InvalidArgument, DataLoss)):
        undone(bytes(data))


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_a_bomb_comes_in_steps(kind):
    one = COMPRESS[kind](bytes(64 << 20))
    stream = open_stream(io.BytesIO(one * 16), kind)
    for _ in range(40):
        assert 0 < len(stream.read()) <= STEP


def test_a_window_larger_than_128_mib_is_refused():
    # Magic, descriptor without single segment, window descriptor for 2 GiB, one raw block of one byte.
    data = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x09\x00\x00x"
    with pytest.raises(InvalidArgument):
        undone(data)


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (LAYER, PLAIN), (LAYER_GZIP, GZIP), (LAYER_ZSTD, ZSTD), (DOCKER_LAYER, PLAIN), (DOCKER_LAYER_GZIP, GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", ZSTD),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", GZIP),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", ZSTD),
    ],
)  # fmt: skip
def test_media_types(media_type, kind):
    assert compression_of(media_type) == kind


@pytest.mark.parametrize("media_type", ["", MANIFEST, LAYER + "+encrypted", LAYER_GZIP + "+encrypted", LAYER + "+xz"])
def test_what_is_no_layer(media_type):
    with pytest.raises(Unimplemented, match="is not a layer"):
        compression_of(media_type)


def test_a_plain_label_means_plain_and_a_compressed_one_any():
    check_media_type(LAYER_GZIP, ZSTD)
    check_media_type(LAYER_GZIP, PLAIN)
    check_media_type(LAYER, PLAIN)
    with pytest.raises(InvalidArgument, match="says uncompressed, but the bytes are gzip"):
        check_media_type(LAYER, GZIP)


def test_nothing_at_all():
    assert undone(b"") == b""
