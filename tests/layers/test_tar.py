"""The parser against Python's own tarfile as the oracle, and against bytes that nobody should send."""

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.errors import DataLoss, InvalidArgument, PortsideError, Unimplemented
from portside.layers import tar
from portside.layers.tar import BLOCK, MAX_EXTENDED, MAX_NAME, Entry, TarParser, parse_pax
from tests.layers.archives import END, header, info, make, pax


def events_of(data, step=None):
    """Entries with their data, of an archive fed in parts of ``step`` bytes."""
    parser = TarParser()
    found = []
    step = step or max(len(data), 1)
    for part in [*(data[at : at + step] for at in range(0, len(data), step)), b""]:
        parser.feed(part)
        while (event := parser.next_event()) is not None:
            if isinstance(event, Entry):
                found.append((event, b""))
            else:
                assert len(event)
                found[-1] = (found[-1][0], found[-1][1] + bytes(event))
    assert parser.ended
    return found


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda text: text not in (".", "..")
)
members = st.lists(
    st.tuples(
        st.lists(names, min_size=1, max_size=8).map("/".join),
        st.binary(max_size=1500),
        st.integers(0, 0o7777),
        st.integers(0, 0o7777777),
        st.integers(0, 0o77777777777),
    ),
    max_size=6,
)


@given(members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(1, 3000))
@settings(max_examples=150, deadline=None)
def test_the_same_as_tarfile(members, format, step):
    data = make(*((info(name, mode=mode, uid=owner, gid=owner // 2, mtime=time), body)
                  for name, body, mode, owner, time in members), format=format)  # fmt: skip
    found = events_of(data, step)
    assert [(entry.name.decode(), body, entry.mode, entry.uid, entry.mtime_ns) for entry, body in found] == [
        (name, body, mode, owner, time * 1_000_000_000) for name, body, mode, owner, time in members
    ]


@given(st.binary(max_size=4 * BLOCK), st.integers(1, 700))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_an_archive_or_an_error_of_ours(data, step):
    try:
        events_of(data, step)
    except PortsideError:
        pass


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_archives_end_in_an_archive_or_an_error_of_ours(data):
    whole = bytearray(
        pax([(b"path", b"a/b"), (b"mtime", b"1.5")]) + header(size=b"00000000005\0") + b"12345" + bytes(507) + END
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        events_of(bytes(whole))
    except PortsideError:
        pass


def test_kinds_links_and_devices():
    found = events_of(
        make(
            (info("d/", type=tarfile.DIRTYPE), b""),
            (info("hard", type=tarfile.LNKTYPE, linkname="d/x"), b""),
            (info("soft", type=tarfile.SYMTYPE, linkname="/abs/" + "t" * 200), b""),
            (info("char", type=tarfile.CHRTYPE, devmajor=5, devminor=1), b""),
            (info("block", type=tarfile.BLKTYPE, devmajor=8, devminor=300), b""),
            (info("fifo", type=tarfile.FIFOTYPE), b""),
            format=tarfile.GNU_FORMAT,
        )
    )
    assert [(entry.name, entry.kind) for entry, _ in found] == [
        (b"d/", tar.DIRECTORY), (b"hard", tar.HARD_LINK), (b"soft", tar.SYMBOLIC_LINK), (b"char", tar.CHARACTER),
        (b"block", tar.BLOCK_DEVICE), (b"fifo", tar.FIFO),
    ]  # fmt: skip
    assert found[1][0].link == b"d/x" and found[2][0].link == b"/abs/" + b"t" * 200
    assert [(found[at][0].major, found[at][0].minor) for at in (3, 4)] == [(5, 1), (8, 300)]


def test_extended_attributes_are_binary():
    value = bytes(range(256)) + b"\n=\n"
    (found,) = events_of(pax([(b"SCHILY.xattr.user.x", value), (b"comment", b"no")]) + header() + END)
    assert found[0].xattrs == {b"user.x": value}


def test_pax_numbers_and_fractions():
    records = [(b"size", b"3"), (b"uid", b"4000000000"), (b"gid", b"7"), (b"mtime", b"1700000000.123456789123"),
               (b"atime", b"-1.5"), (b"path", b"long/" * 50 + b"x"), (b"linkpath", b"")]  # fmt: skip
    ((entry, data),) = events_of(pax(records) + header() + b"abc" + bytes(509) + END)
    assert (entry.uid, entry.gid, entry.size, data) == (4_000_000_000, 7, 3, b"abc")
    assert (entry.mtime_ns, entry.atime_ns) == (1_700_000_000_123_456_789, -1_500_000_000)
    assert entry.name == b"long/" * 50 + b"x"


def test_an_extended_header_is_for_the_next_entry_only():
    found = events_of(pax([(b"path", b"one")]) + header(b"a") + header(b"b") + END)
    assert [entry.name for entry, _ in found] == [b"one", b"b"]


def test_global_headers_change_nothing():
    found = events_of(pax([(b"path", b"no"), (b"comment", b"by git")], b"g") + header(b"a") + END)
    assert [entry.name for entry, _ in found] == [b"a"]


def test_ustar_prefix_and_v7_directories():
    found = events_of(header(b"name", prefix=b"a/b") + header(b"dir/", kind=b"\0", magic=bytes(8)) + END)
    assert [(entry.name, entry.kind) for entry, _ in found] == [(b"a/b/name", tar.REGULAR), (b"dir/", tar.DIRECTORY)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"\x80" + bytes(9) + b"\x01\x00", 256),
        (b"00000000400\0", 256),
        (b"        400 ", 256),
        (b"400\0\0\0garbage"[:12], 256),
    ],
)
def test_forms_of_a_number(field, value):
    (entry, data), *_ = events_of(header(size=field) + bytes(512) + END)
    assert entry.size == len(data) == value


def test_negative_times_are_read():
    (entry, _), *_ = events_of(header(mtime=b"\xff" * 12) + END)
    assert entry.mtime_ns == -1_000_000_000


def test_checksums_of_signed_bytes_are_accepted():
    block = bytearray(header(b"\xe9t\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert events_of(bytes(block) + END)[0][0].name == b"\xe9t\xe9"


@pytest.mark.parametrize(
    "data",
    [
        header(size=b"\xff" * 12),  # negative
        header(size=b"\x80" + b"\xff" * 11),  # 2^95
        header(size=b"0000000001x\0"),
        header(size="٣".encode() + b"0\0"),  # a digit, but not one of ours
        header(mode=b"+000644\0"),
        header(mode=b"00_0644\0"),
        header(uid=b"\xff" * 8),
        header(kind=b"L", size=b"%011o\0" % (MAX_EXTENDED + 1)),
        header(kind=b"x", size=b"\x80" + b"\0" * 6 + b"\xff" * 5),
        header(kind=b"g", size=b"%011o\0" % (MAX_EXTENDED + 1)),
        header(kind=b"Q"),
        pax([(b"path", b"a\0b")]) + header(),
        pax([(b"path", b"n" * (MAX_NAME + 1))]) + header(),
        pax([(b"linkpath", b"n" * (MAX_NAME + 1))]) + header(kind=b"2"),
        pax([(b"size", b"-1")]) + header(),
        pax([(b"size", b"9" * 30)]) + header(),
        pax([(b"uid", b"4294967296")]) + header(),
        pax([(b"mtime", b"nan")]) + header(),
        pax([(b"mtime", b"1_0")]) + header(),
        bytes(BLOCK) + header(),
        b"x" * BLOCK,
    ],
)
def test_what_is_refused(data):
    with pytest.raises(InvalidArgument):
        events_of(data + END)


@pytest.mark.parametrize(
    "data",
    [b"5 a=\n", b"6 a=b", b"6 a=bX", b"0 a=b\n", b"99 a=b\n", b" a=b\n", b"5 =b\n", b"x a=b\n", b"6 a_b\n", b"0" * 20],
)
def test_malformed_pax_records(data):
    with pytest.raises(InvalidArgument):
        parse_pax(data + b"\n" if data == b"5 a=\n" else data)


def test_sparse_files_are_refused_by_name():
    with pytest.raises(Unimplemented, match='entry "f": GNU sparse'):
        events_of(header(kind=b"S") + END)
    with pytest.raises(Unimplemented, match="GNU sparse"):
        events_of(pax([(b"GNU.sparse.major", b"1")]) + header() + END)


@pytest.mark.parametrize("cut", [1, 100, BLOCK + 1, BLOCK + 511, 2 * BLOCK, 3 * BLOCK - 1])
def test_an_early_end_is_data_loss(cut):
    whole = header(size=b"%011o\0" % 1000) + bytes(1024) + header() + END
    with pytest.raises(DataLoss):
        events_of(whole[: len(whole) - len(END) - cut])


def test_the_end_may_be_the_end_of_the_stream():
    assert len(events_of(header())) == 1
    assert len(events_of(header() + bytes(BLOCK))) == 1
    assert events_of(b"") == []


def test_what_follows_the_end_is_not_looked_at():
    parser = TarParser()
    parser.feed(END + b"garbage" * 1000)
    assert parser.next_event() is None and parser.ended and parser.complete
    parser.feed(header())
    assert parser.next_event() is None


def test_data_is_handed_on_without_waiting_for_the_rest():
    parser = TarParser()
    parser.feed(header(size=b"\x80" + bytes(4) + b"\x10" + bytes(6)) + b"begin")
    entry = parser.next_event()
    assert isinstance(entry, Entry) and entry.size == 1 << 52
    assert bytes(parser.next_event()) == b"begin"
    assert parser.next_event() is None
