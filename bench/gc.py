"""Garbage collection: how long one takes, and how long a concurrent writer waits meanwhile, by the number of blobs.

Half of the blobs are kept by a label, the others hang one from the other below an image, which is then deleted with
``sync``. The writer is a process of its own that labels a blob again and again; its longest wait in a second without a
collection is told, too, since the disk has its share. containerd's blobs come through its API, which takes a while, so
it is measured up to 10,000; ours of 100,000 are written to the disk and the database before the daemon starts. With
TMPDIR on a tmpfs the disk has no share in it.

Usage: python -m bench.gc [COUNT...]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row
from bench.stacks import Stack
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.labels import GC_REF_CONTENT, GC_ROOT
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import CONTENT, IMAGES
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.remote.backend import RemoteBackend

NAMESPACE, IMAGE, LABELLED = "bench", "example.com/bench:1", b"kept 0"
PEER_LIMIT = 10_000
WORKERS = 16


@dataclass(frozen=True)
class Figures:
    """Milliseconds: the collection; the writer's longest wait in a second before it, and during it."""

    collection: float
    calm: float
    during: float


def blobs(count: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Data and labels, holders first."""
    for number in range(count // 2):
        yield f"kept {number}".encode(), {GC_ROOT: "bench"}
    for number in range(count // 2):
        yield f"chain {number}".encode(), {GC_REF_CONTENT + ".0": Digest.of(f"chain {number + 1}".encode())}


def image() -> Image:
    """Holds the chain."""
    return Image(IMAGE, Descriptor(MANIFEST, Digest.of(b"chain 0"), 7))


async def fill(stack: Stack, count: int) -> None:
    """Through the API; the image first, so that nothing is garbage in between."""
    async with await RemoteBackend.connect(str(stack.reach)) as backend:
        services = backend.bind(NAMESPACE)
        await services.images.create(image())
        waiting = blobs(count)

        async def work() -> None:
            for data, labels in waiting:
                digest = Digest.of(data)
                writer = await services.content.writer(digest, len(data), digest)
                await writer.write(data)
                await writer.commit(len(data), digest, labels)

        await asyncio.gather(*(work() for _ in range(WORKERS)))


async def fill_root(root: Path, count: int) -> None:
    """Our root, before a daemon owns it."""
    place = root / "io.containerd.content.v1.content/blobs/sha256"
    place.mkdir(parents=True)
    records = []
    for data, labels in blobs(count):
        digest = Digest.of(data)
        (place / digest.hex).write_bytes(data)
        records.append(ContentInfo(digest, len(data), labels, time.time_ns(), time.time_ns()))
    database = Database.open(root / "io.containerd.metadata.v1.sqlite/meta.db")

    def change(tx: Transaction) -> None:
        tx.put(IMAGES, (NAMESPACE,), IMAGE, image())
        for record in records:
            tx.put(CONTENT, (NAMESPACE,), record.digest, record)

    await database.write(change)
    await database.close()


async def write_for_ever(address: str) -> None:
    """The writer's process: prints the longest wait in ms since the last line, for each line that it reads."""
    loop, longest, number = asyncio.get_running_loop(), 0.0, 0
    asked = asyncio.Event()
    loop.add_reader(0, lambda: asked.set() if sys.stdin.readline() else sys.exit())
    gc.disable()
    async with await RemoteBackend.connect(address) as backend:
        content = backend.bind(NAMESPACE).content
        while True:
            begin = time.perf_counter()
            label = {"bench": str(number := number + 1)}
            await content.update(ContentInfo(Digest.of(LABELLED), 0, label), ["labels.bench"])
            longest = max(longest, time.perf_counter() - begin)
            if asked.is_set():
                print(longest * 1000, flush=True)
                longest = 0.0
                asked.clear()


class Writer:
    """That process."""

    def __init__(self, stack: Stack) -> None:
        command = [sys.executable, "-m", "bench.gc", "writer", str(stack.reach)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def longest(self) -> float:
        """Its longest wait in ms since the last question."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


async def _delete(stack: Stack) -> float:
    async with await RemoteBackend.connect(str(stack.reach)) as backend:
        begin = time.perf_counter()
        await backend.bind(NAMESPACE).images.delete(IMAGE, sync=True)
        return (time.perf_counter() - begin) * 1000


def collect(stack: Stack) -> Figures:
    """Delete the image and see."""
    writer = Writer(stack)
    try:
        writer.longest()
        time.sleep(1)
        calm = writer.longest()
        collection = asyncio.run(_delete(stack))
        return Figures(collection, calm, writer.longest())
    finally:
        writer.end()


@contextmanager
def ours(directory: Path, count: int) -> Iterator[Stack]:
    """Our daemon on a root with ``count`` blobs."""
    asyncio.run(fill_root(directory / "root", count))
    with stacks.ours(directory) as stack:
        time.sleep(1 + count / 20_000)  # the collection after the start
        yield stack


@contextmanager
def peer(directory: Path, count: int) -> Iterator[Stack]:
    """Debian's containerd with as many."""
    with stacks.debian(directory) as stack:
        asyncio.run(fill(stack, count))
        time.sleep(1)
        yield stack


def main() -> None:
    """Print the table."""
    print(HEAD)
    for count in [int(word) for word in sys.argv[1:]] or [1_000, 10_000, 100_000]:
        with tempfile.TemporaryDirectory(prefix="portside-bench-") as place, contextlib.ExitStack() as scope:
            mine = collect(scope.enter_context(ours(Path(place, "ours"), count)))
            other = scope.enter_context(peer(Path(place, "peer"), count)) if count <= PEER_LIMIT else None
            theirs = collect(other) if other is not None else None
        for what, figure in (
            ("collection", "collection"),
            ("longest wait of a writer meanwhile", "during"),
            ("the same in a second without a collection", "calm"),
        ):
            work, ms = f"{count:,} blobs, half garbage: {what}", getattr(mine, figure)
            if other is not None:
                print(Row(work, other.name, ms, getattr(theirs, figure), "ms").markdown(), flush=True)
            else:
                print(f"| {work} | not measured | {ms:.3g} ms | | | | |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["writer"]:
        asyncio.run(write_for_ever(sys.argv[2]))
    else:
        main()
