"""The stores below the API: records, blobs, snapshots and collection, in this process and on the disk of a directory.

    python -m bench.metadata [directory]

Prints one line per measurement; a few seconds in all. What clients see through gRPC is measured elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from portside.content.blobs import BlobStore
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.metadata.database import Database
from portside.metadata.schema import CONTENT
from portside.metadata.store import Metadata
from portside.oci.digest import Digest
from portside.snapshots.overlay import OverlayDriver

SPEC_10K = AnyMessage(SPEC, b"x" * 10_000)
CHUNK = 1 << 20


async def creates(metadata: Metadata, workers: int, each: int) -> None:
    containers = metadata.containers("bench")

    async def work(worker: int) -> None:
        for number in range(each):
            name = f"w{workers}-{worker}-{number}"
            await containers.create(Container(name, "io.containerd.runc.v2", SPEC_10K, {"a": "b", "c": "d"}))

    started = time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    rate = workers * each / (time.perf_counter() - started)
    print(f"containers create, {workers:2} at once   {rate:8.0f} /s")


async def gets(metadata: Metadata) -> None:
    containers = metadata.containers("bench")
    started = time.perf_counter()
    for _ in range(50_000):
        await containers.get("w1-0-0")
    print(f"containers get                {(time.perf_counter() - started) / 50_000 * 1e6:8.2f} µs")


async def timed(what: str, count: int, call: Callable[[int], Awaitable[object]]) -> None:
    times = []
    for number in range(count):
        started = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - started)
    times.sort()
    print(f"{what:28}  {statistics.median(times) * 1e6:8.0f} µs p50  {times[int(count * 0.95)] * 1e6:8.0f} µs p95")


async def content(metadata: Metadata, megabytes: int) -> None:
    store = metadata.content("bench")
    data = os.urandom(CHUNK)
    for attempt in range(2):  # the first one also pays for memory that the page cache never had
        started = time.perf_counter()
        writer = await store.writer("bench")
        await writer.write(attempt.to_bytes(4, "big"))
        for _ in range(megabytes):
            await writer.write(data)
        written = time.perf_counter()
        digest = await writer.commit()
        ended = time.perf_counter()
        size = megabytes * CHUNK / 1e6
        print(
            f"content write, 1 MiB chunks   {size / (written - started):8.0f} MB/s"
            f"  {size / (ended - started):8.0f} MB/s with commit"
        )
    reader = await store.open(digest)
    started = time.perf_counter()
    for offset in range(0, reader.size, CHUNK):
        await reader.read(offset, CHUNK)
    print(f"content read, 1 MiB chunks    {reader.size / 1e6 / (time.perf_counter() - started):8.0f} MB/s")
    await reader.close()


async def collection(metadata: Metadata, records: int) -> None:
    def fill(tx: object) -> None:
        for number in range(records):
            digest = Digest.of(str(number).encode())
            held = Digest.of(str(number + 1).encode())
            root = {"containerd.io/gc.ref.content.0": held, "containerd.io/gc.root": "bench"}
            labels = root if number % 4 == 0 else {}  # so that two of four are garbage
            tx.put(CONTENT, ("bench",), digest, ContentInfo(digest, 1, labels))  # type: ignore[attr-defined]

    await metadata.db.write(fill)
    lags, waits, done = [], [], asyncio.Event()

    async def watch_loop() -> None:
        while not done.is_set():
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - started - 0.001)

    async def watch_writer() -> None:
        while not done.is_set():
            started = time.perf_counter()
            await metadata.db.write(lambda tx: None)
            waits.append(time.perf_counter() - started)

    watchers = [asyncio.ensure_future(watch()) for watch in (watch_loop, watch_writer)]
    report = await metadata.collect()
    done.set()
    await asyncio.gather(*watchers)
    removed = sum(report.removed.values())
    print(
        f"collection, {records} records     {report.seconds * 1e3:8.0f} ms, {removed} removed;"
        f" longest wait of a writer {max(waits) * 1e3:.1f} ms, of the loop {max(lags) * 1e3:.1f} ms"
    )


async def main(directory: str | None) -> None:
    root = Path(tempfile.mkdtemp(prefix="portside-bench-", dir=directory))
    db = Database.open(root / "meta.db")
    metadata = Metadata(db, BlobStore(root / "content"), {"overlayfs": OverlayDriver(root / "overlayfs")})
    try:
        await creates(metadata, 1, 1500)
        await creates(metadata, 32, 100)
        await gets(metadata)
        snapshots = metadata.snapshotter("bench", "overlayfs")
        await timed("snapshot prepare", 200, lambda number: snapshots.prepare(f"key {number}"))
        await timed("snapshot remove", 200, lambda number: snapshots.remove(f"key {number}"))
        await content(metadata, 256)
        await collection(metadata, 20_000)
        await metadata.close()
        await db.close()
        started = time.perf_counter()
        db = Database.open(root / "meta.db")
        print(f"open, 4700 containers         {(time.perf_counter() - started) * 1e3:8.0f} ms")
    finally:
        await db.close()
        shutil.rmtree(root)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
