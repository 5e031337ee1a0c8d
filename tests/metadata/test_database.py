"""The database: group commit, rollback, what readers see, full disks, bad files."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.leases import Lease, Resource
from portside.core.mount import Mount
from portside.core.mounts import Activation, ActiveMount
from portside.core.sandboxes import Sandbox
from portside.core.snapshots import Kind, SnapshotInfo, Usage
from portside.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from portside.metadata.database import Database
from portside.metadata.records import Activated, Ingest, Snapshot
from portside.metadata.schema import (
    ADDED,
    CONTAINERS,
    CONTENT,
    COUNTERS,
    IMAGES,
    INGESTS,
    LEASES,
    MOUNTS,
    NAMESPACES,
    RESOURCES,
    SANDBOXES,
    SNAPSHOTS,
    VERSION,
    resource_key,
)
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.platform import Platform
from tests.support.disks import fill_up, small_disk

SCOPE = ("ns",)


def box(id="box", size=100):
    return Container(id, "runtime", AnyMessage(SPEC, os.urandom(size)), {"k": "v"})


def put(id="box", size=100):
    return lambda tx: tx.put(CONTAINERS, SCOPE, id, box(id, size))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metadata" / "meta.db"


@pytest.fixture
async def db(path):
    db = Database.open(path)
    yield db
    await db.close()


async def reopened(db, path):
    await db.close()
    return Database.open(path)


async def test_every_kind_of_record_comes_back_as_it_was(db, path):
    digest = Digest.of(b"x")
    records = [
        (CONTAINERS, SCOPE, "box", Container(
            "box", "rt", AnyMessage(SPEC, b"\x00\xff"), {"ключ": "值"}, "image", AnyMessage("o", b""), "overlayfs",
            "key", 1, 2, {"e": AnyMessage("t", b"\x80")}, "pod")),
        (CONTAINERS, SCOPE, "bare", Container("bare", "rt")),
        (IMAGES, SCOPE, "name", Image(
            "name", Descriptor(MANIFEST, digest, 5, {"a": "b"}, Platform("linux", "arm64")), {"l": "m"}, 3, 4)),
        (LEASES, SCOPE, "lease", Lease("lease", {"a": "b"}, 5)),
        (RESOURCES, ("ns", "lease"), resource_key(Resource("snapshots/x", "a/b")), Resource("snapshots/x", "a/b")),
        (CONTENT, SCOPE, digest, ContentInfo(digest, 1 << 40, {}, 6, 7)),
        (INGESTS, SCOPE, "ref", Ingest("ref", "ns/1/ref", digest, 9, 10, 11)),
        (INGESTS, SCOPE, "bare", Ingest("bare", "ns/2/bare", None, 0, 0, 0)),
        (SNAPSHOTS, ("ns", "native"), "base", Snapshot(
            SnapshotInfo("base", "", Kind.COMMITTED, {"s": "t"}, 8, 9), 3, Usage(1, 2))),
        (SNAPSHOTS, ("ns", "native"), "top", Snapshot(SnapshotInfo("top", "base", Kind.ACTIVE), 4)),
        (COUNTERS, (), "snapshot/native", 4),
        (NAMESPACES, (), "other", {"x": "y"}),
    ]  # fmt: skip

    def change(tx):
        for record in records:
            tx.put(*record)

    await db.write(change)
    uuid = db.uuid
    assert len(uuid) == 36
    db = await reopened(db, path)
    for table, scope, key, record in records:
        assert db.state.get(table, scope, key) == record
    assert db.state.children(("ns", "native"), "base") == 1
    assert set(db.state.rows(NAMESPACES, ())) == {"ns", "other"}
    assert db.uuid == uuid
    await db.close()


async def test_readers_see_it_when_write_returns_and_not_before(db):
    release = threading.Event()

    def change(tx):
        tx.put(CONTAINERS, SCOPE, "box", box())
        release.wait(10)
        return tx.get(CONTAINERS, SCOPE, "box") is not None

    write = asyncio.ensure_future(db.write(change))
    await asyncio.sleep(0)
    assert db.state.get(CONTAINERS, SCOPE, "box") is None
    release.set()
    assert await write is True
    assert db.state.get(CONTAINERS, SCOPE, "box") is not None


async def test_those_who_wait_share_a_transaction(db):
    groups = []
    db.published.append(lambda effects: groups.append(len([e for e in effects if e.table is CONTAINERS])))
    gate = threading.Event()
    first = asyncio.ensure_future(db.write(lambda tx: gate.wait(10)))
    rest = [asyncio.ensure_future(db.write(put(f"c{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *rest)
    assert max(groups) >= 19 and sum(groups) == 20


async def test_what_no_row_can_hold_is_refused_alone(db, path):
    """An image's labels may have half a surrogate pair in their JSON; the writer outlives it."""

    def bad_label(tx):
        tx.put(CONTAINERS, SCOPE, "bad", Container("bad", "rt", labels={"k": "\ud800"}))

    def too_large(tx):
        tx.put(COUNTERS, (), "large", 1 << 64)

    gate = threading.Event()
    first = asyncio.ensure_future(db.write(lambda tx: gate.wait(10)))
    writes = [asyncio.ensure_future(db.write(write)) for write in (put("before"), bad_label, too_large, put("after"))]
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(10):
        await first
        results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), InvalidArgument, InvalidArgument, type(None)]
    db = await reopened(db, path)
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {"before", "after"}
    await db.close()


async def test_one_that_raises_is_undone_alone(db, path):
    def fails(tx):
        tx.put(CONTAINERS, SCOPE, "bad", box("bad"))
        tx.delete(CONTAINERS, SCOPE, "good0")
        tx.emit("ns", "/never", "x", {})
        raise AlreadyExists("no")

    events = []
    db.emit = lambda *event: events.append(event[1])
    await db.write(put("good0"))
    results = await asyncio.gather(
        db.write(put("good1")), db.write(fails), db.write(put("good2")), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), AlreadyExists, type(None)]
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {"good0", "good1", "good2"}
    assert events == []
    db = await reopened(db, path)
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {"good0", "good1", "good2"}
    await db.close()


async def test_events_come_after_the_change_in_order_and_once(db):
    seen = []
    db.emit = lambda ns, topic, type_name, fields: seen.append((topic, "box" in db.state.rows(CONTAINERS, SCOPE)))

    def change(tx):
        tx.put(CONTAINERS, SCOPE, "box", box())
        tx.emit("ns", "/one", "t", {})
        tx.emit("ns", "/two", "t", {})

    await db.write(change)
    assert seen == [("/one", True), ("/two", True)]


async def test_a_listener_that_fails_stops_nobody(db):
    seen = []

    def broken(effects):
        raise RuntimeError("listener")

    db.published += [broken, seen.append]
    await db.write(put())
    assert len(seen) == 1


async def test_a_caller_who_goes_away_stops_nothing(db):
    gate = threading.Event()
    blocker = asyncio.ensure_future(db.write(lambda tx: gate.wait(10)))
    task = asyncio.ensure_future(db.write(put()))
    await asyncio.sleep(0)
    task.cancel()
    gate.set()
    await blocker
    await db.write(lambda tx: None)
    assert db.state.get(CONTAINERS, SCOPE, "box") is not None


async def test_after_close(db):
    await db.close()
    await db.close()
    with pytest.raises(Unavailable):
        await db.write(put())


async def test_close_finishes_what_is_queued(db, path):
    writes = [asyncio.ensure_future(db.write(put(f"c{number}"))) for number in range(10)]
    await asyncio.sleep(0)
    await db.close()
    await asyncio.gather(*writes)
    db = Database.open(path)
    assert len(db.state.rows(CONTAINERS, SCOPE)) == 10
    await db.close()


async def test_a_second_opener_is_refused(db, path):
    with pytest.raises(Unavailable, match="another process"):
        Database.open(path)
    code = (
        f"from portside.metadata.database import Database; from pathlib import Path; Database.open(Path({str(path)!r}))"
    )
    other = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert other.returncode and "Unavailable" in other.stderr.splitlines()[-1]
    await db.write(put())


async def filled(path, count=50):
    db = Database.open(path)
    for number in range(count):
        await db.write(put(f"c{number}", 2000))
    await db.close()


def execute(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def refused(path, error, *words):
    with pytest.raises(error) as caught:
        Database.open(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    for word in words:
        assert word in text
    return text


async def test_a_newer_schema(path):
    await filled(path, 1)
    execute(path, f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    refused(path, FailedPrecondition, "newer", str(VERSION + 1))
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [10, 100, 5000, 20_000, 60_000])
async def test_a_truncated_file(path, size):
    await filled(path)
    os.truncate(path, size)
    refused(path, DataLoss, "damaged")


@pytest.mark.parametrize("content", [b"garbage " * 1000, b"SQLite format 3\0" + b"\xff" * 8000], ids=["text", "header"])
async def test_a_file_of_something_else(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    refused(path, DataLoss)


async def test_a_page_of_garbage(path):
    await filled(path)
    content = path.read_bytes()
    path.write_bytes(content[: 4096 * 8] + os.urandom(4096) + content[4096 * 9 :])
    refused(path, DataLoss)


async def test_somebody_elses_database(path):
    path.parent.mkdir()
    execute(path, "CREATE TABLE notes (text)")
    refused(path, DataLoss, "not portside's")


async def test_a_record_that_cannot_be_read_is_named(path):
    await filled(path, 3)
    execute(path, "UPDATE containers SET labels = 'no json' WHERE id = 'c1'")
    refused(path, DataLoss, "containers ns/c1")


async def test_a_link_and_a_directory(path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    refused(path, DataLoss, "regular file")
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    path.mkdir()
    refused(path, DataLoss, "regular file")


@pytest.fixture
def small(tmp_path):
    with small_disk(tmp_path / "small", "16m") as target:
        yield target


async def fill(db):
    """Write records until one is refused; the names of those that were not."""
    kept = []
    with pytest.raises(ResourceExhausted, match="no space left"):
        for number in range(2000):
            await db.write(put(f"c{number}", 20_000))
            kept.append(f"c{number}")
    return kept


async def test_a_full_disk_changes_nothing_and_deletion_still_works(small):
    path = small / "meta.db"
    db = Database.open(path)
    kept = await fill(db)
    assert set(db.state.rows(CONTAINERS, SCOPE)) == set(kept)
    results = await asyncio.gather(
        *(db.write(put(f"more{number}", 20_000)) for number in range(5)), return_exceptions=True
    )
    assert {type(result) for result in results} == {ResourceExhausted}
    assert set(db.state.rows(CONTAINERS, SCOPE)) == set(kept)
    filler = fill_up(small)
    for name in kept[:-1]:
        await db.write(lambda tx, name=name: tx.delete(CONTAINERS, SCOPE, name))
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {kept[-1]}
    filler.unlink()
    await db.write(put("new"))
    db = await reopened(db, path)
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {kept[-1], "new"}
    await db.close()


async def test_a_large_one_does_not_take_small_ones_with_it(small):
    db = Database.open(small / "meta.db")
    gate = threading.Event()
    blocker = asyncio.ensure_future(db.write(lambda tx: gate.wait(10)))
    writes = [db.write(put("small1")), db.write(put("large", 20 << 20)), db.write(put("small2"))]
    tasks = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)
    gate.set()
    await blocker
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ResourceExhausted, type(None)]
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {"small1", "small2"}
    await db.close()


async def test_a_full_disk_at_the_start(small):
    filler = fill_up(small)
    with pytest.raises(ResourceExhausted):
        Database.open(small / "new" / "meta.db")
    filler.unlink()
    await Database.open(small / "new" / "meta.db").close()


async def test_an_older_schema_is_migrated(path):
    """A database of version 1 lacks the tables of sandboxes and mounts; what is in it stays."""
    await filled(path, 3)
    for table in ADDED[2]:
        execute(path, f"DROP TABLE {table.name}")
    execute(path, "PRAGMA user_version = 1")
    pod = Sandbox("pod", "runtime", extensions={"x": AnyMessage("t", b"\xff")})
    mounts = Activation("m", (ActiveMount(Mount("loop", "/f", options=("ro",)), "/p", 5, {"k": "v"}),), (), {"l": "1"})
    db = Database.open(path)
    assert len(db.state.rows(CONTAINERS, SCOPE)) == 3
    await db.write(lambda tx: tx.put(SANDBOXES, SCOPE, "pod", pod))
    await db.write(lambda tx: tx.put(MOUNTS, SCOPE, "m", Activated(mounts, 7, "lease", 1, 2)))
    await db.close()
    db = Database.open(path)
    assert len(db.state.rows(CONTAINERS, SCOPE)) == 3
    assert db.state.get(SANDBOXES, SCOPE, "pod") == pod
    assert db.state.get(MOUNTS, SCOPE, "m") == Activated(mounts, 7, "lease", 1, 2)
    await db.close()
