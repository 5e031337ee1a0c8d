"""Unpacking one layer: 20,000 small files, and few large ones; the same client and commands for each engine.

Every measurement has a fresh ext4 on a loop device: where a large tree was deleted a moment ago, ext4 makes creating
files many times slower for everybody. Usage: python -m bench.unpack [ROUNDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row
from bench.stacks import Stack
from portside.core.snapshots import Kind
from portside.layers.unpack import Whiteouts
from portside.layers.workers import apply_layer
from portside.oci.descriptor import LAYER_GZIP
from portside.snapshots.overlay import OverlayDriver
from tests.support import images

SMALL, LARGE = "20,000 small files", "5 large files"
_BUDGETS = {SMALL: 0.5, LARGE: 0.6}
_DISK = 3 << 30


def layers() -> dict[str, bytes]:
    """Uncompressed layers, the same in each run; text and binaries as images have them, so that they compress."""
    source = random.Random(1)
    words = [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz_", k=source.randint(2, 12))) for _ in range(4000)]

    def text(size: int) -> bytes:
        return b" ".join(source.choices(words, k=size // 7 + 1))[:size]

    many = [(f"usr/lib/d{number // 50}/f{number % 50}.py", text(source.randint(200, 9000))) for number in range(20_000)]
    mixed = b"".join(text(1 << 16) + source.randbytes(1 << 15) for _ in range(64))
    few = [(f"opt/model-{number}.bin", mixed * 6) for number in range(5)]
    return {SMALL: _tar(many), LARGE: _tar(few)}


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        made = set()
        for name, data in files:
            parent = os.path.dirname(name)
            if parent not in made:
                made.add(parent)
                entry = tarfile.TarInfo(parent)
                entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@contextlib.contextmanager
def fresh_disk(directory: Path) -> Iterator[Path]:
    """A new ext4 on a loop device, mounted."""
    file, target = directory / "disk.img", directory / "disk"
    target.mkdir(exist_ok=True)
    with file.open("wb") as disk:
        disk.truncate(_DISK)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(file)], check=True)
    subprocess.run(["mount", "-o", "loop", str(file), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)
        file.unlink()


def by_client(engine: Callable[[Path], AbstractContextManager[Stack]], image: images.TestImage, place: Path) -> float:
    """Seconds of ``ctr snapshots unpack`` of an image that is in the store already."""
    with fresh_disk(place) as disk, tempfile.TemporaryDirectory() as name:
        images.write_layout(image, Path(name), "bench/unpack:1")
        archive = place / "image.tar"
        subprocess.run(["tar", "cf", str(archive), "-C", name, "."], check=True)
        with engine(disk / "engine") as stack:
            stack.call("images", "import", "--no-unpack", str(archive))
            os.sync()
            begin = time.perf_counter()
            stack.call("snapshots", "unpack", image.digest)
            return time.perf_counter() - begin


def by_library(image: images.TestImage, place: Path, *, sync: bool) -> float:
    """Seconds of unpacking into a snapshot and counting it; ``sync`` brings it to disk, too."""
    (blob,) = [data for data in image.blobs.values() if data.startswith(b"\x1f\x8b")]
    with fresh_disk(place) as disk:
        driver = OverlayDriver(disk / "snapshots")
        (disk / "blob").write_bytes(blob)
        os.sync()
        begin = time.perf_counter()
        driver.create(1, Kind.ACTIVE, ())
        asyncio.run(_apply(disk / "blob", driver.files(1)))
        driver.commit(1, sync=sync)
        return time.perf_counter() - begin


async def _apply(blob: Path, target: Path) -> None:
    source, root = os.open(blob, os.O_RDONLY), os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await apply_layer("bench", LAYER_GZIP, source, root, whiteouts=Whiteouts.OVERLAY)
    finally:
        os.close(source)
        os.close(root)


def measure(directory: Path, rounds: int) -> list[Row]:
    """All rows of this module."""
    rows = []
    for name, layer in layers().items():
        image = images.make_image([layer])
        actions: list[Callable[[], float]] = [
            lambda image=image: by_client(stacks.debian, image, directory),
            lambda image=image: by_client(stacks.ours, image, directory),
            lambda image=image: by_library(image, directory, sync=False),
            lambda image=image: by_library(image, directory, sync=True),
        ]
        columns: list[list[float]] = [[] for _ in actions]
        for _ in range(rounds):
            for column, action in zip(columns, actions, strict=True):
                column.append(action())
        theirs, client, library, synced = map(statistics.median, columns)
        peer, size = "containerd, Debian's", f"{len(layer) / 1e6:.0f} MB"
        rows += [
            Row(
                f"unpack {name}, {size}: `ctr snapshots unpack`, ours synced", peer, client, theirs, "s", _BUDGETS[name]
            ),
            Row(f"unpack {name}, {size}: library", peer, library, theirs, "s", _BUDGETS[name]),
            Row(f"unpack {name}, {size}: library, synced", peer, synced, theirs, "s"),
        ]
    return rows


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="portside-bench-") as name:
        print(HEAD)
        for row in measure(Path(name), rounds):
            print(row.markdown(), flush=True)


if __name__ == "__main__":
    main()
