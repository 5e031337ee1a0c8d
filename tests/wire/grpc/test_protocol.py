"""Messages, timeouts, percent-encoding and metadata on the wire."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside import errors
from portside.wire.grpc import protocol
from portside.wire.grpc.protocol import (
    MAX_STATUS_MESSAGE,
    PREFIX,
    MessageReader,
    decode_message,
    decode_metadata,
    decode_timeout,
    decompress,
    encode_message,
    encode_metadata,
    encode_timeout,
    error_of_http,
    error_of_reset,
    frame,
    frame_compressed,
)

# Messages


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 3000), max_size=20))
def test_messages_survive_any_cutting(messages: list[bytes], places: list[int]) -> None:
    raw = b"".join(map(frame, messages))
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    reader = MessageReader()
    got = [each for start, end in zip([0, *edges], edges, strict=False) for each in reader.feed(raw[start:end])]
    assert got == [(0, message) for message in messages]
    assert reader.held == 0


def test_a_truncated_message_is_held() -> None:
    reader = MessageReader()
    assert reader.feed(frame(b"abc") + frame(b"def")[:-1]) == [(0, b"abc")]
    assert reader.held == 7
    assert reader.feed(b"f") == [(0, b"def")]


def test_a_message_too_large_is_refused_by_its_prefix() -> None:
    reader = MessageReader(limit=10)
    assert reader.feed(frame(bytes(10))) == [(0, bytes(10))]
    with pytest.raises(errors.ResourceExhausted, match="a message of 11 bytes; the limit is 10"):
        reader.feed(PREFIX.pack(0, 11))


def test_unknown_flags() -> None:
    with pytest.raises(errors.Internal, match="0x80"):
        MessageReader().feed(b"\x80\0\0\0\0")


@given(st.binary(max_size=2000))
def test_compression_there_and_back(message: bytes) -> None:
    ((flag, packed),) = MessageReader().feed(frame_compressed(message))
    assert flag == 1
    assert gzip.decompress(packed) == message
    assert decompress(packed) == message


def test_decompression_stops_at_the_limit() -> None:
    packed = gzip.compress(bytes(1000))
    assert decompress(packed, 1000) == bytes(1000)
    with pytest.raises(errors.ResourceExhausted, match="more than 999 bytes"):
        decompress(packed, 999)


@pytest.mark.parametrize("packed", [b"", b"no gzip", gzip.compress(b"x" * 100)[:-9]])
def test_bad_compression(packed: bytes) -> None:
    with pytest.raises(errors.Internal, match="decompress"):
        decompress(packed)


# Timeouts


@pytest.mark.parametrize(
    ("seconds", "encoded"),
    [
        (0.0, b"1n"),
        (1e-9, b"1n"),
        (0.05, b"50000000n"),
        (1.5, b"1500000u"),
        (100.0, b"100000m"),
        (3600.0 * 24, b"86400000m"),
        (1e9, b"16666666M"),
        (1e30, b"99999999H"),
    ],
)
def test_timeouts(seconds: float, encoded: bytes) -> None:
    assert encode_timeout(seconds) == encoded


@given(st.floats(1e-6, 1e9))
def test_a_timeout_never_grows_on_its_way(seconds: float) -> None:
    decoded = decode_timeout(encode_timeout(seconds))
    assert decoded == pytest.approx(seconds, rel=0.02)
    assert decoded <= seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"123456789S", b"1s", b"1.5S", b"-1S", b"+1S", b" 1S", b"1 S", b"1h"]
)
def test_malformed_timeouts(value: bytes) -> None:
    with pytest.raises(ValueError, match="malformed grpc-timeout"):
        decode_timeout(value)


# grpc-message


@given(st.text())
def test_status_messages_there_and_back(text: str) -> None:
    encoded = encode_message(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert encoded.strip() == encoded
    assert decode_message(encoded) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"plain", "plain"),
        (b"a%20b", "a b"),
        (b"%e2%98%BA", "☺"),
        (b"100%", "100%"),
        (b"%", "%"),
        (b"%4", "%4"),
        (b"%zz", "%zz"),
        (b"%%41", "%A"),
        (b"%FF", "�"),
        (b"\xe2\x98\xba", "☺"),
    ],
)
def test_what_is_badly_encoded_stays_readable(encoded: bytes, text: str) -> None:
    assert decode_message(encoded) == text


def test_long_messages_are_cut() -> None:
    encoded = encode_message("ä" * 10000)
    assert decode_message(encoded).endswith("ä...")
    assert len(decode_message(encoded).encode()) <= MAX_STATUS_MESSAGE


# Metadata


@given(st.lists(st.tuples(st.sampled_from(["a-bin", "b.c_d-bin"]), st.binary(max_size=50)), max_size=5))
def test_binary_metadata_there_and_back(pairs: list[tuple[str, bytes]]) -> None:
    assert decode_metadata(encode_metadata(pairs)) == pairs


def test_text_metadata() -> None:
    assert encode_metadata([("key", " some text ")]) == [(b"key", b"some text")]
    fields = [(b":path", b"/"), (b"te", b"trailers"), (b"key", b"a"), (b"key", b"b"), (b"grpc-timeout", b"1S")]
    assert decode_metadata(fields) == [("key", "a"), ("key", "b")]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("", "x", "key ''"),
        ("Upper", "x", "key 'Upper'"),
        ("with blank", "x", "not allowed"),
        (":path", "x", "not allowed"),
        ("grpc-timeout", "x", "not allowed"),
        ("content-type", "x", "not allowed"),
        ("ü", "x", "not allowed"),
        ("key", "a\nb", "not printable ASCII"),
        ("key", "ü", "not printable ASCII"),
    ],
)
def test_metadata_that_cannot_be_sent(key: str, value: str, why: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=why):
        encode_metadata([(key, value)])


def test_metadata_that_is_no_base64() -> None:
    with pytest.raises(errors.Internal, match="'x-bin' is not base64"):
        decode_metadata([(b"x-bin", b"a")])


# What HTTP means


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, errors.Internal),
        (7, errors.Unavailable),
        (8, errors.Cancelled),
        (11, errors.ResourceExhausted),
        (12, errors.PermissionDenied),
        (0xABC, errors.Internal),
    ],
)
def test_resets(code: int, kind: type[errors.PortsideError]) -> None:
    assert type(error_of_reset(code)) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (b"400", errors.Internal),
        (b"401", errors.Unauthenticated),
        (b"403", errors.PermissionDenied),
        (b"404", errors.Unimplemented),
        (b"429", errors.Unavailable),
        (b"502", errors.Unavailable),
        (b"503", errors.Unavailable),
        (b"504", errors.Unavailable),
        (b"200", errors.Unknown),
        (b"418", errors.Unknown),
    ],
)
def test_http_statuses(status: bytes, kind: type[errors.PortsideError]) -> None:
    assert type(error_of_http(status)) is kind


def test_the_limit_is_containerds() -> None:
    assert protocol.MAX_MESSAGE_SIZE == 16 << 20
