"""Blobs and ingests on disk: layout, resuming, leftovers, links, and a full disk."""

import hashlib
import os
import stat
import subprocess

import pytest

from portside.content.blobs import BlobStore
from portside.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from portside.oci.digest import Digest
from tests.support.disks import fill_up, small_disk

DATA = b"some content"
DIGEST = Digest.of(DATA)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "content")


def put(store, data=DATA, key="key"):
    ingest = store.ingest(key)
    ingest.write(data)
    return ingest.commit(len(data), Digest.of(data))


def read(store, digest):
    descriptor, size = store.open(digest)
    try:
        return os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)


def directory_of(store, key):
    return store.root / "ingest" / hashlib.sha256(key.encode()).hexdigest()


def test_layout_is_containerds(store):
    ingest = store.ingest("ns/1/ref", 12)
    ingest.write(DATA)
    directory = directory_of(store, "ns/1/ref")
    assert (directory / "ref").read_text() == "ns/1/ref"
    assert (directory / "total").read_text() == "12"
    assert (directory / "startedat").read_text().endswith("Z")
    assert (directory / "data").read_bytes() == DATA
    assert ingest.commit() == DIGEST
    assert not directory.exists()
    blob = store.root / "blobs/sha256" / DIGEST.hex
    assert blob.read_bytes() == DATA
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    for path in (store.root, store.root / "blobs", store.root / "ingest"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_blobs(store):
    assert store.size(DIGEST) is None
    with pytest.raises(NotFound):
        store.open(DIGEST)
    assert put(store) == DIGEST
    assert store.size(DIGEST) == len(DATA)
    assert read(store, DIGEST) == DATA
    assert list(store.digests()) == [(DIGEST, len(DATA))]
    store.remove(DIGEST)
    store.remove(DIGEST)
    assert list(store.digests()) == []


def test_commit_of_a_blob_that_is_here(store):
    put(store)
    with pytest.raises(AlreadyExists):
        put(store)
    assert store.keys() == []
    assert read(store, DIGEST) == DATA


def test_a_blob_that_a_crash_cut_short_is_replaced(store):
    put(store)
    path = store.path(DIGEST)
    path.unlink()
    path.write_bytes(b"")
    assert put(store) == DIGEST
    assert read(store, DIGEST) == DATA


def test_one_writer_per_key(store):
    ingest = store.ingest("key")
    with pytest.raises(Unavailable):
        store.ingest("key")
    with pytest.raises(Unavailable):
        store.abort("key")
    assert store.is_open("key")
    ingest.close()
    ingest.close()
    assert not store.is_open("key")
    store.ingest("key").close()


def test_resuming_in_another_process(store):
    ingest = store.ingest("key", 12)
    ingest.write(DATA[:5])
    ingest.close()
    ingest = BlobStore(store.root).ingest("key", 12)
    assert ingest.offset == 5
    ingest.write(DATA[5:])
    assert ingest.commit(12, DIGEST) == DIGEST


def test_another_total(store):
    store.ingest("key", 12).close()
    with pytest.raises(FailedPrecondition, match="12"):
        store.ingest("key", 13)
    store.ingest("key").close()


def test_truncate(store):
    ingest = store.ingest("key")
    ingest.write(b"some junk")
    with pytest.raises(OutOfRange):
        ingest.truncate(10)
    with pytest.raises(OutOfRange):
        ingest.truncate(-1)
    ingest.truncate(5)
    ingest.write(DATA[5:])
    assert ingest.commit() == DIGEST


@pytest.mark.parametrize(("size", "expected"), [(1, None), (0, Digest.of(b"x"))])
def test_a_commit_that_does_not_fit_keeps_the_ingest(store, size, expected):
    ingest = store.ingest("key")
    ingest.write(DATA)
    with pytest.raises(FailedPrecondition):
        ingest.commit(size, expected)
    assert list(store.digests()) == []
    assert store.facts("key").offset == len(DATA)
    assert store.ingest("key").commit(12, DIGEST) == DIGEST


def test_use_after_close(store):
    ingest = store.ingest("key")
    ingest.close()
    for use in (lambda: ingest.write(b"x"), lambda: ingest.truncate(0), ingest.commit):
        with pytest.raises(FailedPrecondition):
            use()


def test_abort(store):
    store.ingest("key").close()
    assert store.keys() == ["key"]
    store.abort("key")
    with pytest.raises(NotFound):
        store.abort("key")
    with pytest.raises(NotFound):
        store.facts("key")


def test_leftovers_are_swept_and_ingests_stay(store):
    ingest = store.ingest("good")
    ingest.write(DATA)
    ingest.close()
    ingests = store.root / "ingest"
    (ingests / ".new-abc-1").mkdir()
    (ingests / ".old-abc-2").mkdir()
    (ingests / ".old-abc-2" / "data").write_bytes(DATA)
    directory_of(store, "no data").mkdir()
    (ingests / "stray file").write_text("x")
    store = BlobStore(store.root)
    assert os.listdir(ingests) == [directory_of(store, "good").name]
    assert store.facts("good").offset == len(DATA)


def test_links_are_never_followed(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    store.path(DIGEST).symlink_to(secret)
    assert store.size(DIGEST) is None
    assert list(store.digests()) == []
    with pytest.raises(DataLoss, match="link"):
        store.open(DIGEST)
    put(store)
    assert not store.path(DIGEST).is_symlink() and read(store, DIGEST) == DATA
    directory_of(store, "linked").symlink_to(tmp_path)
    ingest = store.ingest("linked")
    ingest.write(b"x")
    ingest.close()
    assert sorted(os.listdir(tmp_path)) == ["content", "secret"]


def test_a_data_file_that_is_a_link(store, tmp_path):
    store.ingest("key").close()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    data = directory_of(store, "key") / "data"
    data.unlink()
    data.symlink_to(target)
    ingest = store.ingest("key")
    ingest.write(DATA)
    assert ingest.commit() == DIGEST
    assert target.read_bytes() == b"precious"


def test_odd_names_and_odd_files(store):
    folder = store.root / "blobs/sha256"
    (folder / "not a digest").write_text("x")
    (folder / DIGEST.hex.upper()).write_text("x")
    (folder / Digest.of(b"dir").hex).mkdir()
    os.mkfifo(folder / Digest.of(b"fifo").hex)
    assert list(store.digests()) == []
    for content in (b"dir", b"fifo"):
        with pytest.raises(DataLoss):
            store.open(Digest.of(content))
    (directory_of(store, "key") / "ref").parent.mkdir()
    (directory_of(store, "key") / "ref").write_bytes(b"\xff\xfe")
    assert store.keys() == []


@pytest.fixture
def small(tmp_path):
    with small_disk(tmp_path / "small", "1m") as target:
        yield target


def test_a_full_disk_names_the_blob_and_leaves_the_ingest_as_it_was(small):
    store = BlobStore(small / "content")
    chunk = os.urandom(300_000)
    data = chunk * 4
    ingest = store.ingest("key", what=str(Digest.of(data)))
    written = 0
    with pytest.raises(ResourceExhausted, match=str(Digest.of(data))):
        for _ in range(4):
            ingest.write(chunk)
            written += 1
    assert written == 3 and ingest.offset == 3 * len(chunk)
    with pytest.raises(ResourceExhausted):
        ingest.write(chunk)
    ingest.close()
    store = BlobStore(store.root)
    assert store.facts("key").offset == 3 * len(chunk)
    subprocess.run(["mount", "-o", "remount,size=2m", small], check=True)
    ingest = store.ingest("key")
    ingest.write(chunk)
    assert ingest.commit(len(data), Digest.of(data)) == Digest.of(data)


def test_no_room_for_a_new_ingest(small):
    store = BlobStore(small / "content")
    filler = fill_up(small)
    with pytest.raises(ResourceExhausted, match="my ref"):
        store.ingest("key", what="my ref")
    assert store.keys() == [] and not store.is_open("key")
    assert os.listdir(store.root / "ingest") == []
    filler.unlink()
    put(store)
