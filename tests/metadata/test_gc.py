"""Garbage collection: what holds what, expiry, writers meanwhile, removals that fail."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.leases import Resource
from portside.core.mounts import Activation
from portside.core.sandboxes import Sandbox
from portside.errors import FailedPrecondition, NotFound
from portside.metadata.references import expiry
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.snapshots.native import NativeDriver
from tests.contracts.content import put
from tests.contracts.local import LocalBackend
from tests.contracts.snapshotter import layers

REF = "containerd.io/gc.ref."
BREF = "containerd.io/gc.bref."
ROOT = {"containerd.io/gc.root": "now"}


def when(seconds):
    return {"containerd.io/gc.expire": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}


def target(digest):
    return Descriptor(MANIFEST, digest, 1)


class StubbornDriver(NativeDriver):
    """Cannot remove the numbers in ``stuck``."""

    stuck: frozenset[int] = frozenset()

    def remove(self, number):
        if number in self.stuck:
            raise OSError(16, "Device or resource busy")
        super().remove(number)


@pytest.fixture
async def backend(tmp_path):
    backend = LocalBackend(tmp_path, {"native": StubbornDriver(tmp_path / "native")})
    yield backend
    await backend.close()


@pytest.fixture
def services(backend):
    return backend.bind("ns")


@pytest.fixture
def snapshots(services):
    return services.snapshotter("native")


async def blobs(services):
    return {info.digest async for info in services.content.list()}


async def keys(snapshots):
    return {info.name async for info in snapshots.walk()}


async def make(services, name, labels=None):
    return await put(services.content, name.encode(), name, labels)


async def test_an_image_holds_its_tree_and_its_snapshots(backend, services, snapshots):
    await layers(snapshots, "one", "two", "stray")
    config = await make(services, "config", {REF + "snapshot.native": "two"})
    layer = await make(services, "layer")
    manifest = await make(services, "manifest", {REF + "content.config": config, REF + "content.l.0": layer})
    index = await make(services, "index", {REF + "content.m.0": manifest})
    stray = await make(services, "stray")
    await services.images.create(Image("image", target(index)))
    report = await backend.metadata.collect()
    assert await blobs(services) == {config, layer, manifest, index}
    assert backend.blobs.size(stray) is None and backend.blobs.size(layer) == 5
    assert await keys(snapshots) == {"one", "two"}
    assert report.removed == {"content": 1, "snapshots": 1} and not report.failures
    await services.images.delete("image", sync=True)
    assert await blobs(services) == set() and await keys(snapshots) == set()
    assert list(backend.blobs.digests()) == []
    assert list(backend.drivers["native"].ids()) == []


async def test_a_container_holds_its_snapshot_and_what_its_labels_name(backend, services, snapshots):
    await layers(snapshots, "base")
    for key in ("root", "named", "stray"):
        await snapshots.prepare(key, "base")
    blob = await make(services, "blob")
    labels = {REF + "snapshot.native/extra": "named", REF + "content": blob}
    await services.containers.create(
        Container("box", "rt", AnyMessage(SPEC, b"{}"), labels, snapshotter="native", snapshot_key="root")
    )
    await backend.metadata.collect()
    assert await keys(snapshots) == {"base", "root", "named"}
    assert await blobs(services) == {blob}
    await services.containers.delete("box")
    await backend.metadata.collect()
    assert await keys(snapshots) == set() and await blobs(services) == set()


async def test_roots_by_label(backend, services, snapshots):
    child = await make(services, "child")
    root = await make(services, "root", {**ROOT, REF + "content.0": child})
    await snapshots.prepare("root", labels=ROOT)
    await snapshots.prepare("stray")
    await backend.metadata.collect()
    assert await blobs(services) == {root, child}
    assert await keys(snapshots) == {"root"}


async def test_expiry(backend, services, snapshots):
    later = await make(services, "later", when(3600))
    await make(services, "past", when(-1))
    await snapshots.prepare("later", labels=when(3600))
    await snapshots.prepare("past", labels=when(-1))
    held, lost = await make(services, "held"), await make(services, "lost")
    await services.images.create(Image("later", target(held), when(1800)))
    await services.images.create(Image("past", target(lost), when(-1)))
    await services.leases.create("later", when(3600))
    await services.leases.create("past", when(-1))
    await services.leases.create("garbled", {"containerd.io/gc.expire": "tomorrow"})
    events = backend.exchange.subscribe(['topic=="/images/delete"', 'topic=="/snapshot/remove"'])
    report = await backend.metadata.collect()
    assert await blobs(services) == {later, held}
    assert await keys(snapshots) == {"later"}
    assert [image.name for image in await services.images.list()] == ["later"]
    assert [lease.id for lease in await services.leases.list()] == ["garbled", "later"]
    assert 1700e9 < report.next_expiry_ns - time.time_ns() < 1801e9
    assert {(await anext(events)).topic for _ in range(2)} == {"/images/delete", "/snapshot/remove"}


async def test_a_lease_holds_until_it_goes(backend, services, snapshots):
    child, parent = await make(services, "child"), None
    parent = await make(services, "parent", {REF + "content.0": child})
    await layers(snapshots, "base")
    await snapshots.prepare("key", "base")
    image = await make(services, "image")
    await services.images.create(Image("held", target(image), when(-1)))
    await services.leases.create("lease")
    for resource in (
        Resource("content", parent),
        Resource("snapshots/native", "key"),
        Resource("images", "held"),
        Resource("content", Digest.of(b"not here")),
    ):
        await services.leases.add_resource("lease", resource)
    await backend.metadata.collect()
    assert await blobs(services) == {child, parent, image}
    assert await keys(snapshots) == {"key", "base"}
    await services.leases.delete("lease", sync=True)
    assert await blobs(services) == set() and await keys(snapshots) == set()
    assert await services.images.list() == []


async def test_a_flat_lease_holds_only_what_it_names(backend, services, snapshots):
    child = await make(services, "child")
    parent = await make(services, "parent", {REF + "content.0": child})
    await layers(snapshots, "base")
    await snapshots.prepare("key", "base", {REF + "content": child})
    await services.leases.create("flat", {"containerd.io/gc.flat": "true"})
    await services.leases.add_resource("flat", Resource("content", parent))
    await services.leases.add_resource("flat", Resource("snapshots/native", "key"))
    await backend.metadata.collect()
    assert await blobs(services) == {parent}
    assert await keys(snapshots) == {"key", "base"}


async def test_a_flat_lease_holds_an_image_with_its_target_alone(backend, services):
    layer = await make(services, "layer")
    manifest = await make(services, "manifest", {REF + "content.l.0": layer})
    await services.images.create(Image("image", target(manifest), when(-1)))
    await services.leases.create("flat", {"containerd.io/gc.flat": "true"})
    await services.leases.add_resource("flat", Resource("images", "image"))
    await backend.metadata.collect()
    assert await blobs(services) == {manifest}
    assert [image.name for image in await services.images.list()] == ["image"]


async def test_an_image_that_has_expired_is_held_by_what_refers_to_it(backend, services):
    blob = await make(services, "blob")
    await services.images.create(Image("named", target(blob), when(-1)))
    await services.images.create(Image("not named", target(blob), when(-1)))
    await make(services, "holder", {**ROOT, REF + "image.base": "named"})
    await backend.metadata.collect()
    assert [image.name for image in await services.images.list()] == ["named"]
    assert blob in await blobs(services)


async def test_a_snapshot_is_held_on_the_condition_of_when_it_was_used(backend, services, snapshots):
    """containerd: gc.cond.snapshot; the holder is an image, and the snapshots tell when they were used."""
    used = {name: (datetime.now(UTC) - timedelta(hours=hours)).isoformat() for name, hours in (("new", 1), ("old", 3))}
    for name, moment in used.items():
        await snapshots.prepare(name, labels={"containerd.io/gc.cond.value-usedat": moment})
    await snapshots.prepare("untold")
    blob = await make(services, "blob")
    condition = "containerd.io/gc.cond.snapshot.native/"
    labels = {
        condition + "a": "usedat<2h|new", condition + "b": "usedat<2h|old", condition + "c": "usedat<2h|untold",
        condition + "d": "usedat<2h", condition + "e": "usedat<soon|new", condition + "f": "size<2h|new",
    }  # fmt: skip
    await services.images.create(Image("image", target(blob), labels))
    report = await backend.metadata.collect()
    assert await keys(snapshots) == {"new"}
    assert 3500e9 < report.next_expiry_ns - time.time_ns() < 3601e9  # until then it is less than two hours
    await services.images.update(Image("image", target(blob), {condition + "a": "usedat<1m,usedat>30m|new"}))
    await backend.metadata.collect()
    assert await keys(snapshots) == {"new"}
    await services.images.delete("image", sync=True)
    assert await keys(snapshots) == set()


async def test_sandboxes_hold_what_their_labels_name_and_mounts_are_held_as_content_is(backend, services, snapshots):
    await snapshots.prepare("pod")
    sandboxes, mounts = backend.metadata.sandboxes("ns"), backend.metadata.mounts("ns")
    await sandboxes.create(Sandbox("pod", "rt", labels={REF + "snapshot.native": "pod"}))
    released = []

    async def release(numbers):
        released.extend(numbers)
        return []

    backend.metadata.release_mounts = release
    for name, labels in (("held", {BREF + "image": "image"}), ("stray", {})):
        await mounts.put(Activation(name, labels=labels), len(name))
    await services.images.create(Image("image", target(Digest.of(b"x"))))
    report = await backend.metadata.collect()
    assert await keys(snapshots) == {"pod"}
    assert report.removed == {"mounts": 1} and released == [len("stray")]
    assert [info.name for info in mounts.list()] == ["held"]
    await services.leases.create("lease")
    await services.leases.add_resource("lease", Resource("mounts", "held"))
    await services.images.delete("image", sync=True)
    assert [info.name for info in mounts.list()] == ["held"]


async def test_back_references(backend, services, snapshots):
    spec = AnyMessage(SPEC, b"{}")
    await services.containers.create(Container("box", "rt", spec))
    first = await make(services, "first", {BREF + "container": "box"})
    second = await make(services, "second", {BREF + "content.x": first})
    await layers(snapshots, "base")
    await snapshots.prepare("key", "base", {BREF + "container.name": "box"})
    third = await make(services, "third", {BREF + "snapshot.native": "key"})
    await make(services, "stray", {BREF + "container": "no such"})
    await backend.metadata.collect()
    assert await blobs(services) == {first, second, third}
    assert await keys(snapshots) == {"base", "key"}
    await services.containers.delete("box")
    await backend.metadata.collect()
    assert await blobs(services) == set() and await keys(snapshots) == set()


async def test_ingests(backend, services):
    writer = await services.content.writer("open")
    await (await services.content.writer("young")).close()
    await services.leases.create("lease")
    held = backend.bind("ns", "lease")
    await (await held.content.writer("held")).close()
    await backend.metadata.collect()
    assert {status.ref for status in await services.content.list_statuses()} == {"open", "young", "held"}
    await services.leases.delete("lease")
    await backend.metadata.collect()
    assert {status.ref for status in await services.content.list_statuses()} == {"open", "young"}
    assert len(backend.blobs.keys()) == 2
    await writer.close()


async def test_an_ingest_that_shares_a_blob_keeps_its_bytes(backend, services):
    blob = await make(services, "blob")
    other = backend.bind("other").content
    writer = await other.writer("ref", 4, blob)
    await services.content.delete(blob)
    await backend.metadata.collect()
    await writer.commit(4, blob)
    reader = await other.open(blob)
    assert await reader.read(0, 10) == b"blob"
    await reader.close()


async def test_bytes_go_when_the_last_namespace_lets_go(backend, services):
    blob = await make(services, "blob")
    other = backend.bind("other")
    await (await other.content.writer("ref", 4, blob)).commit(4, blob)
    await services.content.delete(blob)
    await other.content.update(ContentInfo(blob, 4, ROOT))
    await backend.metadata.collect()
    assert backend.blobs.size(blob) == 4
    await other.content.delete(blob)
    await backend.metadata.collect()
    assert backend.blobs.size(blob) is None


async def test_references_do_not_cross_namespaces(backend, services):
    mine = await make(services, "mine")
    await backend.bind("other").images.create(Image("image", target(mine)))
    await backend.metadata.collect()
    assert await blobs(services) == set()


async def test_circles_are_garbage(backend, services):
    first = await make(services, "first")
    second = await make(services, "second", {REF + "content": first})
    await services.content.update(ContentInfo(first, 5, {REF + "content": second}))
    await backend.metadata.collect()
    assert await blobs(services) == set()


async def test_one_failing_removal_does_not_stop_the_rest(backend, services, snapshots):
    for key in ("one", "two", "three"):
        await snapshots.prepare(key)
    driver = backend.drivers["native"]
    stuck = sorted(driver.ids())[0]
    driver.stuck = frozenset({stuck})
    (backend.blobs.path(await make(services, "blob"))).unlink()
    report = await backend.metadata.collect()
    assert len(report.failures) == 1 and f"snapshot {stuck}" in report.failures[0]
    assert list(driver.ids()) == [stuck]
    with pytest.raises(FailedPrecondition, match="busy"):
        await snapshots.cleanup()
    driver.stuck = frozenset()
    assert not (await backend.metadata.collect()).failures
    assert list(driver.ids()) == []


async def test_what_is_referred_to_while_a_collection_runs_stays(backend, services):
    """Trees lose their lease and get an image instead, while collections run: none is ever kept in part."""

    async def rescue(number):
        await services.leases.create(f"lease {number}")
        held = backend.bind("ns", f"lease {number}")
        layer = await make(held, f"layer {number}")
        manifest = await make(held, f"manifest {number}", {REF + "content.l.0": layer})
        await services.leases.delete(f"lease {number}")
        for _ in range(number % 23):
            await services.leases.list()
            await asyncio.sleep(0)
        await services.images.create(Image(f"image {number}", target(manifest)))
        return layer, manifest

    async def collect():
        count = 0
        while not rescues.done():
            await backend.metadata.collect()
            count += 1
        return count

    rescues = asyncio.ensure_future(asyncio.gather(*(rescue(number) for number in range(100))))
    assert await collect() > 3
    trees = rescues.result()
    await backend.metadata.collect()
    here = await blobs(services)
    for layer, manifest in trees:
        if manifest in here:
            assert layer in here and backend.blobs.size(layer) and backend.blobs.size(manifest)


async def test_writers_go_on_while_a_large_collection_runs(backend, services):
    """All marking and sweeping is in slices: other writes get their turn many times during one collection."""

    def fill(tx):
        from portside.metadata.schema import CONTENT

        for number in range(20_000):
            digest = Digest.of(str(number).encode())
            labels = {REF + "content.0": Digest.of(str(number + 1).encode())} if number % 2 else {}
            tx.put(CONTENT, ("ns",), digest, ContentInfo(digest, 1, labels))

    await backend.db.write(fill)
    collection = asyncio.ensure_future(backend.metadata.collect())
    turns = 0
    while not collection.done():
        await services.leases.create(f"lease {turns}")
        turns += 1
    assert (await collection).removed["content"] == 20_000
    assert turns > 20


async def test_callers_share_a_collection_that_begins_after_they_asked(backend, services):
    first = asyncio.ensure_future(backend.metadata.collect())
    await asyncio.sleep(0)
    blob = await make(services, "blob")
    reports = await asyncio.gather(*(backend.metadata.collect() for _ in range(5)))
    assert all(report is reports[0] for report in reports)
    await first
    with pytest.raises(NotFound):
        await services.content.info(blob)


async def test_leftovers_on_disk(backend, services):
    kept = await make(services, "kept", ROOT)
    backend.drivers["native"].create(77, 2, ())
    stray = backend.blobs.ingest("stray")
    stray.write(b"stray blob")
    digest = stray.commit()
    backend.blobs.ingest("stray ingest").close()
    (backend.root / "unrelated").touch()
    again = LocalBackend.__new__(LocalBackend)
    await backend.close()
    again.__init__(backend.root)
    await again.metadata.reconcile()
    assert again.blobs.size(digest) is None and again.blobs.size(kept) == 4
    assert again.blobs.keys() == []
    assert list(again.drivers["native"].ids()) == []
    await again.bind("ns").snapshotter("native").prepare("key")
    assert again.drivers["native"].ids()[0] > 77
    await again.close()


async def test_a_blob_that_a_crash_took_is_forgotten_and_can_be_had_again(backend, services, caplog):
    good, cut, gone = [await make(services, name, ROOT) for name in ("good", "cut", "gone")]
    backend.blobs.path(gone).unlink()
    backend.blobs.path(cut).chmod(0o600)
    backend.blobs.path(cut).write_bytes(b"c")
    await backend.metadata.reconcile()
    assert await blobs(services) == {good}
    assert cut in caplog.text and gone in caplog.text
    assert [await make(services, name) for name in ("cut", "gone")] == [cut, gone]
    assert backend.blobs.size(cut) == 3


async def test_records_stay_where_all_blobs_are_gone(backend, services, caplog):
    made = {await make(services, name, ROOT) for name in ("one", "two")}
    for digest in made:
        backend.blobs.path(digest).unlink()
    await backend.metadata.reconcile()
    assert await blobs(services) == made and "no blob at all" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", 1767323045_000_000_000),
        ("2026-01-02T03:04:05.123456789Z", 1767323045_123_000_000),
        ("2026-01-02T05:04:05.1+02:00", 1767323045_100_000_000),
        ("2026-01-02T03:04:05", None),
        ("", None),
        ("soon", None),
        ("9999999-01-01T00:00:00Z", None),
    ],
)
def test_times(text, expected):
    assert expiry({"containerd.io/gc.expire": text}) == expected
