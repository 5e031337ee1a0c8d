"""When garbage is collected: after a start, soon after removals, on expiry, and not while nothing happens."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from portside.core.content import ContentInfo
from portside.engine import gc
from portside.engine.gc import Policy, Scheduler
from portside.errors import InvalidArgument, ResourceExhausted
from portside.snapshots.native import NativeDriver
from tests.contracts.content import put
from tests.contracts.local import LocalBackend
from tests.contracts.records import CONTAINER, IMAGE

ROOT = {"containerd.io/gc.root": "now"}


@pytest.fixture
async def backend(tmp_path, monkeypatch):
    monkeypatch.setattr(gc, "QUIET", 0.01)
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
    assert scheduler._time_left() is None
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

    async def failing():
        error = failures.pop(0) if failures else None
        if error:
            raise error
        return await collect()

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
