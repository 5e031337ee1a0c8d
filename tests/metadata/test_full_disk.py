"""A disk that fills up under the stores: one clear error, nothing half, all well again with space."""

import asyncio
import contextlib
import os

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import read_blob
from portside.errors import ResourceExhausted
from portside.oci.digest import Digest
from tests.contracts.content import put
from tests.contracts.local import LocalBackend
from tests.support.disks import fill_up, small_disk


@pytest.fixture
async def backend(tmp_path):
    with small_disk(tmp_path / "small", "24m") as target:
        backend = LocalBackend(target / "root")
        yield backend
        await backend.close()


async def test_a_pull_that_runs_out_of_space(backend):
    """Parallel writers of more than fits: some fail and name their blob, none leaves a wrong one."""
    content = backend.bind("ns").content
    blobs = [os.urandom(5 << 20) for _ in range(6)]

    async def write(number, data):
        writer = await content.writer(f"ref {number}", len(data), Digest.of(data))
        try:
            for start in range(0, len(data), 1 << 20):
                await writer.write(data[start : start + (1 << 20)])
            return await writer.commit(len(data), Digest.of(data))
        finally:
            await writer.close()

    results = await asyncio.gather(*(write(*pair) for pair in enumerate(blobs)), return_exceptions=True)
    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed
    for number in failed:
        assert isinstance(results[number], ResourceExhausted)
        assert str(Digest.of(blobs[number])) in str(results[number])
    whole = {str(result) for result in results if isinstance(result, str)}
    assert {str(info.digest) async for info in content.list()} == whole
    for status in await content.list_statuses():
        await content.abort(status.ref)
    for digest in whole:
        await content.delete(Digest(digest))
    await backend.metadata.collect()
    digest = await write(failed[0], blobs[failed[0]])
    assert await read_blob(content, digest) == blobs[failed[0]]


async def test_no_space_at_all(backend):
    """Nothing can be made, everything can be removed, and then things can be made again."""
    services = backend.bind("ns")
    snapshots = services.snapshotter("native")
    container = Container("box", "rt", AnyMessage(SPEC, bytes(100_000)))
    await services.containers.create(container)
    digest = await put(services.content)
    await snapshots.prepare("key")
    filler = fill_up(backend.root)
    for number in range(40):  # what SQLite has of its own is used up some time
        with contextlib.suppress(ResourceExhausted):
            await services.containers.create(Container(f"more{number}", "rt", AnyMessage(SPEC, bytes(100_000))))
    with pytest.raises(ResourceExhausted):
        await services.containers.create(Container("large", "rt", AnyMessage(SPEC, bytes(10_000_000))))
    with pytest.raises(ResourceExhausted):
        await put(services.content, b"another", "ref")
    with pytest.raises(ResourceExhausted):
        await snapshots.prepare("another")
    for made in await services.containers.list():
        await services.containers.delete(made.id)
    await services.content.delete(digest)
    await snapshots.remove("key")
    await backend.metadata.collect()
    assert list(backend.drivers["native"].ids()) == []
    assert [info async for info in snapshots.walk()] == []
    filler.unlink()
    await services.containers.create(container)
    assert await put(services.content) == digest
    await snapshots.prepare("key")
