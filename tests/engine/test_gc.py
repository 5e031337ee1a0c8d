"""When garbage is collected: after a start, soon after removals, on expiry, and not while nothing happens."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from portside.core.content import ContentInfo
from portside.core.leases import Lease, Resource
from portside.engine import gc
from portside.engine.gc import Policy, Scheduler
from portside.errors import InvalidArgument, ResourceExhausted
from portside.metadata import content as contents
from portside.metadata import gc as collections
from portside.metadata.schema import IMAGES, LEASES, RESOURCES
from portside.metadata.state import Effect
from portside.snapshots.native import NativeDriver
from tests.contracts.content import put
from tests.contracts.local import LocalBackend
from tests.contracts.records import CONTAINER, IMAGE

ROOT = {"containerd.io/gc.root": "now"}


@pytest.fixture
async def backend(tmp_path, monkeypatch):
    monkeypatch.setattr(collections, "GRACE", 0.0)
    backend = LocalBackend(tmp_path, {"native": NativeDriver(tmp_path / "native")})
    yield backend
    await backend.close()


@pytest.fixture
async def started(backend):
    schedulers = []

    def start(policy):
        schedulers.append(Scheduler(backend.metadata, policy))
        schedulers[-1].start()
        return schedulers[-1]

    yield start
    for scheduler in schedulers:
        await scheduler.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_after_a_start_and_after_a_removal(backend, started):
    stray = backend.blobs.ingest("stray")
    stray.write(b"left by a crash")
    left = stray.commit()
    scheduler = started(Policy(startup_delay=0.01))
    await until(lambda: scheduler.last is not None)
    assert backend.blobs.size(left) is None
    content = backend.bind("ns").content
    digest = await put(content, labels=ROOT)
    assert backend.blobs.size(digest)
    await content.delete(digest)
    await until(lambda: backend.blobs.size(digest) is None)


async def test_a_label_that_goes_counts_as_a_removal(backend, started):
    content = backend.bind("ns").content
    digest = await put(content, labels=ROOT)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    await content.update(ContentInfo(digest, 0, {}))
    await until(lambda: backend.blobs.size(digest) is None)


async def test_work_without_a_lease_is_left_alone(backend, started):
    """Committing, labelling and what else takes nothing away brings no collection."""
    services = backend.bind("ns")
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    digest = await put(services.content)
    await services.content.update(ContentInfo(digest, 0, {"a": "b", "containerd.io/gc.ref.content.0": digest}))
    await services.leases.create("lease")
    for owner in (services, backend.bind("ns", "lease")):
        snapshots = owner.snapshotter("native")
        await snapshots.prepare(f"making {owner is services}")
        await snapshots.commit(f"layer {owner is services}", f"making {owner is services}")
        await snapshots.update(await snapshots.stat(f"layer {owner is services}"))
    await services.images.create(IMAGE)
    await services.images.update(replace(IMAGE, labels={"c": "d"}))
    await services.containers.create(CONTAINER)
    await services.containers.update(replace(CONTAINER, labels={"c": "d"}))
    assert scheduler._time_left() > 3600  # the ingest that became content would have expired in a day
    assert scheduler.last is first
    await services.containers.update(replace(CONTAINER, snapshot_key="other"), ["snapshot_key"])
    await until(lambda: scheduler.last is not first)
    assert backend.blobs.size(digest) is None


async def test_expiry_needs_no_other_event(backend, started):
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    await backend.bind("ns").leases.create("lease", {"containerd.io/gc.expire": soon})
    digest = await put(backend.bind("ns", "lease").content)
    await until(lambda: backend.blobs.size(digest) is None)
    assert await backend.bind("ns").leases.list() == []


async def test_expiry_is_known_after_a_restart(backend, started):
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    await backend.bind("ns").leases.create("lease", {"containerd.io/gc.expire": soon})
    digest = await put(backend.bind("ns", "lease").content)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    assert backend.blobs.size(digest)
    await until(lambda: backend.blobs.size(digest) is None)


async def test_idle_means_idle(backend, started):
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    await backend.bind("ns").leases.create("makes no garbage")
    await asyncio.sleep(0.1)
    assert scheduler.last is first


async def test_a_collection_that_fails_is_tried_again(backend, started, monkeypatch, caplog):
    monkeypatch.setattr(gc, "RETRY", 0.01)
    collect = backend.metadata.collect
    failures = [ResourceExhausted("no space"), None]

    async def failing(urgent):
        error = failures.pop(0) if failures else None
        if error:
            raise error
        return await collect(urgent)

    monkeypatch.setattr(backend.metadata, "collect", failing)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    assert scheduler.error == "" and "no space" in caplog.text


def test_settings():
    policy = Policy.from_config(
        {"pause_threshold": 0.7, "deletion_threshold": 5, "schedule_delay": "1s", "startup_delay": "100ms", "other": 1}
    )
    assert policy == Policy(0.5, 5, 100, 1.0, 0.1)
    for bad in ({"pause_threshold": "x"}, {"deletion_threshold": -1}, {"schedule_delay": "1 fortnight"}):
        with pytest.raises(InvalidArgument):
            Policy.from_config(bad)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("a defect")])
async def test_a_collection_that_fails_is_not_the_last(backend, started, monkeypatch, error):
    reconcile, failures = backend.metadata.reconcile, [error]

    async def fails_once():
        if failures:
            raise failures.pop()
        await reconcile()

    monkeypatch.setattr(gc, "RETRY", 0.01)
    monkeypatch.setattr(backend.metadata, "reconcile", fails_once)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    assert not failures and not scheduler.error


async def test_what_is_young_and_held_by_nobody_is_spared_unless_somebody_waits(backend, started, monkeypatch):
    """A client without leases writes a blob right after another's removal, and reads it."""
    monkeypatch.setattr(collections, "GRACE", 3600.0)
    services = backend.bind("ns")
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    removed = await put(services.content, b"removed", "removed", ROOT)
    young = await put(services.content, b"young", "young")
    await services.snapshotter("native").prepare("young")
    await services.content.delete(removed)
    await until(lambda: scheduler.last is not first)
    assert backend.blobs.size(removed) is None and backend.blobs.size(young)
    assert await services.snapshotter("native").stat("young")
    assert 3500 < scheduler._time_left() < 3601
    await services.leases.create("lease")
    await services.leases.delete("lease", sync=True)
    assert backend.blobs.size(young) is None


async def test_what_was_spared_goes_by_the_clock(backend, started, monkeypatch):
    monkeypatch.setattr(collections, "GRACE", 0.3)
    content = backend.bind("ns").content
    young = await put(content)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    assert backend.blobs.size(young)
    await until(lambda: backend.blobs.size(young) is None)


async def test_many_changes_bring_a_collection_though_nothing_was_removed(backend, started):
    services = backend.bind("ns")
    stray = await put(services.content, labels=ROOT)
    scheduler = started(Policy(startup_delay=0.0, mutation_threshold=10))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    for number in range(9):
        await services.leases.create(f"lease {number}")
    assert scheduler._time_left() is None
    await services.leases.create("the tenth")
    assert scheduler._time_left() > 0
    await until(lambda: scheduler.last is not first)
    assert scheduler._time_left() is None and backend.blobs.size(stray)


async def test_a_number_of_removals_brings_a_collection_at_once(backend, started):
    """Not at the end of the interval, which is a second long before the first collection was measured."""
    services = backend.bind("ns")
    digests = [await put(services.content, bytes([number]), str(number), ROOT) for number in range(3)]
    scheduler = started(Policy(startup_delay=0.0, deletion_threshold=2, pause_threshold=0.0))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    await services.content.delete(digests[0])
    assert scheduler._time_left() > 0.1
    await services.content.delete(digests[1])
    assert scheduler._time_left() <= 0
    await until(lambda: scheduler.last is not first)


async def test_collections_take_no_more_than_their_part_of_the_time(backend, started):
    scheduler = started(Policy(startup_delay=0.0, pause_threshold=0.5))
    await until(lambda: scheduler.last is not None)
    first = max(scheduler.last.record_seconds, 0.005)
    assert scheduler._interval == pytest.approx(first)  # half of the time, so as long as the collection
    scheduler.ended(collections.Report(record_seconds=1.0))
    assert scheduler._interval == pytest.approx((scheduler._spent) / 2)


async def test_a_removal_with_sync_leaves_nothing_for_the_next_collection(backend, started):
    services = backend.bind("ns")
    scheduler = started(Policy(startup_delay=0.0, schedule_delay=0.01))
    await until(lambda: scheduler.last is not None)
    first = scheduler.last
    await services.images.create(IMAGE)
    await services.images.delete(IMAGE.name, sync=True)
    assert scheduler.last is not first and scheduler._time_left() is None


async def test_ingests_expire_while_nothing_else_happens(backend, started, monkeypatch):
    monkeypatch.setattr(contents, "INGEST_LIFETIME_NS", 200_000_000)
    scheduler = started(Policy(startup_delay=0.0))
    await until(lambda: scheduler.last is not None)
    await (await backend.bind("ns").content.writer("ref")).close()
    assert backend.blobs.keys()
    await until(lambda: not backend.blobs.keys())


class StubbornDriver(NativeDriver):
    """Fails to remove and to sweep while ``stuck``."""

    stuck = True
    attempts = 0

    def remove(self, number):
        self._fail("remove")
        super().remove(number)

    def sweep(self):
        self._fail("sweep")
        super().sweep()

    def _fail(self, what):
        if self.stuck:
            StubbornDriver.attempts += 1
            raise OSError(16, f"{what}: Device or resource busy")


async def test_what_cannot_be_freed_is_tried_again_and_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(gc, "RETRY", 0.005)
    caplog.set_level("INFO")
    driver = StubbornDriver(tmp_path / "native")
    backend = LocalBackend(tmp_path, {"native": driver})
    services = backend.bind("ns")
    digest = await put(services.content, labels=ROOT)
    snapshots = services.snapshotter("native")
    await snapshots.prepare("busy")
    scheduler = Scheduler(backend.metadata, Policy(startup_delay=0.0))
    scheduler.start()
    await until(lambda: scheduler.last is not None)
    await snapshots.remove("busy")
    await services.content.delete(digest)
    await until(lambda: backend.blobs.size(digest) is None)  # the one failure has stopped nothing
    await until(lambda: StubbornDriver.attempts > 4)
    assert len(driver.ids()) == 1
    driver.stuck = False
    await until(lambda: not driver.ids() and not backend.metadata.troubles.texts)
    told = [record.message for record in caplog.records if "remove snapshot" in record.message]
    assert len(told) == 2 and "no longer" in told[1]
    await scheduler.close()
    await backend.close()


def test_what_counts_as_a_removal():
    """Commit of a snapshot is none, nor is that of a blob, for which a lease changes what it holds."""
    lease = ("ns", "lease")
    ingest = Effect(RESOURCES, lease, "ingests\0ref", Resource("ingests", "ref"), None)
    blob = Effect(RESOURCES, lease, "content\0x", None, Resource("content", "x"))
    assert not gc.any_removal([ingest, blob])
    assert gc.any_removal([Effect(RESOURCES, lease, "content\0x", Resource("content", "x"), None)])
    assert gc.any_removal([Effect(LEASES, ("ns",), "lease", Lease("lease"), None)])
    assert gc.any_removal([Effect(IMAGES, ("ns",), IMAGE.name, IMAGE, None)])
    assert not gc.any_removal([Effect(IMAGES, ("ns",), IMAGE.name, None, IMAGE)])
