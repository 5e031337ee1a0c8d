"""The reader of bolt databases: what a writer meant, both metas, and files that nobody should trust."""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.doctor.bolt import MAX_LEVELS, BoltFile, Bucket
from portside.errors import DataLoss, FailedPrecondition, NotFound, PortsideError, Unavailable
from tests.doctor.bolt_files import PAGE, Writer

CONTENT = {
    b"v1": {
        b"ns": {
            b"big": {f"key{number:05}".encode(): os.urandom(number % 90) for number in range(3000)},
            b"long": {b"x": b"y" * 20_000},
            b"small": {b"a": b"b", b"nothing": b""},
            b"empty": {},
        },
        b"version": b"\x06",
    }
}


def everything(bucket: Bucket, limit: int = 100) -> dict:
    assert limit
    return {key: everything(value, limit - 1) if isinstance(value, Bucket) else value for key, value in bucket.items()}


def write(directory: Path, data: bytes) -> Path:
    path = directory / "meta.db"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("per_leaf", [3, 50])
def test_what_was_written_is_read(tmp_path, page_size, per_leaf):
    with BoltFile(write(tmp_path, Writer(page_size, per_leaf).file(CONTENT))) as file:
        assert everything(file.root) == CONTENT
        namespace = file.root.bucket("v1", "ns")
        assert namespace is not None and namespace.texts("small") == {"a": "b", "nothing": ""}
        assert file.root.bucket("v1", "nobody", "small") is None and file.root.bucket("v1", "version") is None
        assert [name for name, _ in file.root.buckets("v1", "ns")] == ["big", "empty", "long", "small"]
        assert namespace.value("small") == b"" and namespace.text("missing") == ""


@pytest.mark.parametrize("bad", [0, 1])
def test_the_other_meta_counts_where_one_is_torn(tmp_path, bad):
    data = bytearray(Writer().file(CONTENT))
    data[bad * PAGE + 40] ^= 1
    with BoltFile(write(tmp_path, bytes(data))) as file:
        assert everything(file.root) == CONTENT


def test_the_newer_meta_counts(tmp_path):
    writer = Writer()
    writer.file({b"old": {b"a": b"b"}})
    old = len(writer.pages) - 1
    new = writer.bucket({b"new": {b"c": b"d"}})
    writer.pages[0], writer.pages[1] = writer.meta(0, new, 9), writer.meta(1, old, 8)
    with BoltFile(write(tmp_path, b"".join(writer.pages))) as file:
        assert everything(file.root) == {b"new": {b"c": b"d"}}


def refused(path: Path, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught, BoltFile(path) as file:
        everything(file.root)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "nothing", NotFound)
    for data in (b"", b"x", b"garbage " * 4000, Writer().file(CONTENT)[:50]):
        refused(write(tmp_path, data), DataLoss, "no whole meta page")
    writer = Writer()
    writer.file(CONTENT)
    writer.pages[0] = writer.meta(0, 3, 1, version=3)
    writer.pages[1] = writer.meta(1, 3, 2, version=3)
    refused(write(tmp_path, b"".join(writer.pages)), FailedPrecondition, "format 3 is not known")


def test_one_that_is_cut_off(tmp_path):
    data = Writer().file(CONTENT)
    refused(write(tmp_path, data[: len(data) - PAGE * 3]), DataLoss, "page")


def test_one_that_is_open(tmp_path):
    path = write(tmp_path, Writer().file(CONTENT))
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="stop containerd first"):
            BoltFile(path)
    with BoltFile(path), path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_key_that_is_no_text(tmp_path):
    path = write(tmp_path, Writer().file({b"v1": {b"\xff": b"\xfe"}}))
    with BoltFile(path) as file, pytest.raises(DataLoss, match="not text"):
        file.root.texts("v1")


def test_pages_that_lead_in_circles(tmp_path):
    """A branch that names itself, a bucket that is its own child, and one page as the child of many."""
    writer = Writer()
    writer.add(struct.pack("<QHHIIIQ", 0, 1, 1, 0, 16, 0, 3))
    writer.pages[:2] = [writer.meta(number, 3, number) for number in (0, 1)]
    refused(write(tmp_path, b"".join(writer.pages)), DataLoss, "too deep")

    writer = Writer()
    writer.add(writer.leaf([(b"k", 1, struct.pack("<QQ", 3, 0))]))
    writer.pages[:2] = [writer.meta(number, 3, number) for number in (0, 1)]
    refused(write(tmp_path, b"".join(writer.pages)), DataLoss, f"more than {MAX_LEVELS} buckets")

    writer = Writer()
    for level in range(20):
        inner = struct.pack("<QQ", 4 + level, 0)
        writer.add(writer.leaf([(bytes([key]), 1, inner) for key in range(100)]))
    writer.add(writer.leaf([]))
    writer.pages[:2] = [writer.meta(number, 3, number) for number in (0, 1)]
    refused(write(tmp_path, b"".join(writer.pages)), DataLoss, "in circles")


SMALL = Writer(512, 4).file(
    {b"v1": {b"ns": {f"k{n}".encode(): {b"a": b"b" * n, b"c": {b"d": b"e"}} for n in range(12)}, b"version": b"\x06"}}
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
def test_any_bytes_anywhere_end_in_an_answer(changes):
    """Either it reads, or it is refused with a sentence; never anything else, and never without end."""
    data = bytearray(SMALL)
    for at, new in changes:
        data[at : at + len(new)] = new[: len(data) - at]
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), bytes(data))
        try:
            with BoltFile(path) as file:
                everything(file.root)
        except PortsideError as error:
            assert str(path) in str(error)


KEYS = st.binary(min_size=1, max_size=20)
TREES = st.recursive(
    st.dictionaries(KEYS, st.binary(max_size=60), max_size=8),
    lambda inner: st.dictionaries(KEYS, st.binary(max_size=600) | inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.sampled_from([512, 1024, 4096]), st.integers(2, 9))
def test_whatever_is_written_is_read(tree, page_size, per_leaf):
    data = Writer(page_size, per_leaf).file(tree)
    with tempfile.TemporaryDirectory() as directory, BoltFile(write(Path(directory), data)) as file:
        assert everything(file.root) == tree


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_no_file_at_all_like_one(data):
    with tempfile.TemporaryDirectory() as directory:
        refused(write(Path(directory), data), DataLoss)
