"""HPACK: the examples of RFC 7541, its rules, and the package ``hpack`` as oracle."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.wire.http2 import huffman
from portside.wire.http2.errors import COMPRESSION_ERROR, RemoteProtocolError
from portside.wire.http2.hpack import NEVER_INDEXED, NO_TABLE, STATIC, Decoder, encode

Fields = list[tuple[bytes, bytes]]


names = st.sampled_from([b":path", b":status", b"content-type", b"x-custom", b"authorization", b"a" * 40])
fields_lists = st.lists(st.tuples(names, st.binary(max_size=60)), max_size=12)

REQUEST_1: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"www.example.com"),
]
REQUEST_2 = [*REQUEST_1, (b"cache-control", b"no-cache")]
REQUEST_3: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
RESPONSE_1: Fields = [
    (b":status", b"302"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
    (b"location", b"https://www.example.com"),
]
RESPONSE_2 = [(b":status", b"307"), *RESPONSE_1[1:]]
RESPONSE_3: Fields = [
    (b":status", b"200"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
    (b"location", b"https://www.example.com"),
    (b"content-encoding", b"gzip"),
    (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
]

# RFC 7541, Appendix C: the size of the decoder's table, then block after block with what it says.
APPENDIX_C: dict[str, tuple[int, list[tuple[str, Fields]]]] = {
    "C.2.1 literal with indexing": (
        4096,
        [("400a637573746f6d2d6b65790d637573746f6d2d686561646572", [(b"custom-key", b"custom-header")])],
    ),
    "C.2.2 literal without indexing": (4096, [("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")])]),
    "C.2.3 literal never indexed": (4096, [("100870617373776f726406736563726574", [(b"password", b"secret")])]),
    "C.2.4 indexed": (4096, [("82", [(b":method", b"GET")])]),
    "C.3 requests without Huffman": (
        4096,
        [
            ("828684410f7777772e6578616d706c652e636f6d", REQUEST_1),
            ("828684be58086e6f2d6361636865", REQUEST_2),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", REQUEST_3),
        ],
    ),
    "C.4 requests with Huffman": (
        4096,
        [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUEST_1),
            ("828684be5886a8eb10649cbf", REQUEST_2),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", REQUEST_3),
        ],
    ),
    "C.5 responses without Huffman": (
        256,
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
                "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                RESPONSE_1,
            ),
            ("4803333037c1c0bf", RESPONSE_2),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f"
                "3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076"
                "657273696f6e3d31",
                RESPONSE_3,
            ),
        ],
    ),
    "C.6 responses with Huffman": (
        256,
        [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f"
                "0b97c8e9ae82ae43d3",
                RESPONSE_1,
            ),
            ("4883640effc1c0bf", RESPONSE_2),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335df"
                "dfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                RESPONSE_3,
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", APPENDIX_C)
def test_examples_of_the_specification(name: str) -> None:
    size, blocks = APPENDIX_C[name]
    decoder = Decoder(size)
    decoder._limit = size  # as the examples of C.5 and C.6 assume, by a setting
    for block, fields in blocks:
        assert list(decoder.decode(bytes.fromhex(block)).fields) == fields


@pytest.mark.parametrize(
    ("value", "mask", "encoded"),
    [(10, 0x1F, "0a"), (1337, 0x1F, "1f9a0a"), (42, 0xFF, "2a")],  # C.1
)
def test_integers_of_the_specification(value: int, mask: int, encoded: str) -> None:
    from portside.wire.http2.hpack import _integer, _prefixed

    raw = bytes.fromhex(encoded)
    assert _prefixed(0, mask, value) == raw
    assert _integer(raw, 0, mask) == (value, len(raw))


def test_static_table_is_that_of_the_oracle() -> None:
    from hpack.table import HeaderTable

    assert tuple(HeaderTable.STATIC_TABLE) == STATIC


@given(fields_lists)
def test_the_oracle_understands_our_encoder(fields: Fields) -> None:
    decoded = hpack.Decoder().decode(NO_TABLE + encode(fields), raw=True)
    assert [(bytes(name), bytes(value)) for name, value in decoded] == fields
    for field in decoded:
        assert isinstance(field, hpack.NeverIndexedHeaderTuple) == (field[0] in NEVER_INDEXED)


@given(st.lists(st.tuples(fields_lists, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=8))
def test_we_understand_the_oracles_encoder(blocks: list[tuple[Fields, bool, int | None]]) -> None:
    """Indexing, eviction, Huffman and size updates, over blocks that build on each other, some of them repeated."""
    encoder = hpack.Encoder()
    ours = Decoder()
    for fields, code, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        for _ in range(2):
            block = encoder.encode(fields, huffman=code)
            assert list(ours.decode(block).fields) == fields
    theirs = [(bytes(name), bytes(value)) for name, value in encoder.header_table.dynamic_entries]
    assert list(ours._table) == theirs
    assert ours._table_size == encoder.header_table._current_size


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
@settings(max_examples=300)
def test_same_verdict_on_any_bytes(blocks: list[bytes]) -> None:
    """What the oracle decodes means the same to us; what we refuse it refuses too, and neither fails otherwise."""
    ours = Decoder()
    oracle = hpack.Decoder()
    for block in blocks:
        try:
            expected = [(bytes(name), bytes(value)) for name, value in oracle.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(RemoteProtocolError) as caught:
                ours.decode(block)
            assert caught.value.code == COMPRESSION_ERROR
            return
        try:
            assert list(ours.decode(block).fields) == expected
        except RemoteProtocolError as error:
            assert "too large" in str(error) or "Huffman" in str(error)  # the oracle bounds neither
            return


@given(st.binary(max_size=200))
def test_huffman_there_and_back(text: bytes) -> None:
    assert huffman.decode(huffman.encode(text)) == text


@given(st.binary(max_size=40))
@settings(max_examples=300)
def test_huffman_has_one_encoding(raw: bytes) -> None:
    """What decodes is what encoding would give: bad padding and EOS do not pass."""
    try:
        text = huffman.decode(raw)
    except ValueError:
        return
    assert huffman.encode(text) == raw


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "no entry 0"),
        ("be", "no entry 62"),
        ("ff00", "no entry 127"),
        ("7e01", "no entry 62"),
        ("3fe21f", "a dynamic table of 4097"),
        ("8220", "a table size update after a field"),
        ("ffffffffff7f", "too large"),
        ("ff8080808080808080808000", "too large"),
        ("4085", "ends in the middle"),
        ("400a6375", "ends in the middle"),
        ("7f", "ends in the middle"),
        ("4082ffff", "Huffman"),
        ("4084ffffffff", "EOS"),
    ],
)
def test_bad_blocks(block: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        Decoder().decode(bytes.fromhex(block))
    assert caught.value.code == COMPRESSION_ERROR


def test_a_smaller_table_must_be_confirmed() -> None:
    """RFC 7541, section 4.2: the block after the acknowledgement begins with a size update that fits."""
    decoder = Decoder(100)
    decoder.decode(encode(REQUEST_1))
    decoder.allow(100)
    with pytest.raises(RemoteProtocolError, match="not made smaller"):
        decoder.decode(encode(REQUEST_1))
    decoder.allow(100)
    assert list(decoder.decode(b"\x3f\x45" + encode(REQUEST_1)).fields) == REQUEST_1
    assert list(decoder.decode(encode(REQUEST_1)).fields) == REQUEST_1


def test_a_block_seen_before_is_the_same_object_until_the_table_changes() -> None:
    decoder = Decoder()
    insert = bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572")
    decoder.decode(insert)
    first = decoder.decode(b"\xbe")
    assert decoder.decode(b"\xbe") is first
    decoder.decode(bytes.fromhex("40036b65790576616c7565"))
    again = decoder.decode(b"\xbe")
    assert again is not first
    assert again.fields == ((b"key", b"value"),)


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder()
    encoder = hpack.Encoder()
    decoder.decode(encoder.encode([(b"small", b"1")]))
    decoder.decode(encoder.encode([(b"large", b"x" * 5000)], huffman=False))
    assert not decoder._table
    assert decoder._table_size == 0


def test_a_list_too_large_is_cut_but_the_table_stays_in_step() -> None:
    decoder = Decoder(4096, max_list_size=200)
    encoder = hpack.Encoder()
    fields = [(b"name", b"x" * 100), (b"other", b"y" * 100), (b"last", b"z")]
    headers = decoder.decode(encoder.encode(fields))
    assert headers.size == sum(len(name) + len(value) + 32 for name, value in fields)
    assert headers.fields == tuple(fields[:1])
    assert list(decoder.decode(encoder.encode(fields[2:])).fields) == fields[2:]


def test_the_cache_of_blocks_is_bounded() -> None:
    decoder = Decoder()
    for number in range(1000):
        decoder.decode(encode([(b"number", b"%d" % number)]))
    decoder.decode(encode([(b"large", b"x" * 3000)]))
    assert len(decoder.seen) <= 128
