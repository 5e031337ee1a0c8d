"""Reading everything again: content against its digests, committed snapshots against their layers.

Digests are computed in as many threads as there are processors (hashlib lets go of the interpreter). A snapshot is
compared with what its layer unpacks to now, in a scratch directory: that computes the uncompressed digest anew, too.
Where the layer is not in the store, its snapshot cannot be verified, and a note says so. What is found wrong keeps
its place; nothing is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from portside.content.blobs import BlobStore
from portside.core.plugin import SNAPSHOTTER
from portside.core.snapshots import Kind
from portside.doctor.layers import Documents, Layer
from portside.doctor.report import Finding, Progress, Report
from portside.doctor.survey import DIRECTORY_SNAPSHOTTERS, SCRATCH
from portside.doctor.trees import differences
from portside.errors import DataLoss, InvalidArgument, NotFound, PortsideError, from_oserror
from portside.layers.unpack import Whiteouts
from portside.layers.workers import apply_layer
from portside.linux.trees import remove_tree
from portside.metadata.records import Snapshot
from portside.metadata.schema import SNAPSHOTS
from portside.metadata.state import State
from portside.oci.digest import Digest
from portside.snapshots.copying import copy_tree

_CHUNK = 1 << 20
MAX_DIFFERENCES = 3
"""That a finding tells."""
_REMAPPED = "containerd.io/snapshot/uidmapping"


def verify_content(blobs: BlobStore, sizes: Mapping[Digest, int], report: Report, progress: Progress) -> set[Digest]:
    """Hash all of ``sizes``; those that are not what their digests say, which are also findings."""
    total = sum(sizes.values())
    done = 0
    lock = threading.Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress("content", done, total)

    corrupt = set()
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="portside-verify") as pool:
        ordered = sorted(sizes, key=lambda digest: -sizes[digest])
        for digest, problem in zip(ordered, pool.map(lambda each: _hash(blobs, each, advance), ordered), strict=True):
            if problem is None:
                report.verified["blobs"] = report.verified.get("blobs", 0) + 1
                report.verified["bytes"] = report.verified.get("bytes", 0) + sizes[digest]
            elif problem:
                corrupt.add(digest)
                path = str(blobs.path(digest))
                report.findings.append(Finding("corrupt blob", digest, problem, path, sizes[digest], digest))
    return corrupt


async def verify_layers(
    root: Path, state: State, documents: Documents, blobs: BlobStore, report: Report, progress: Progress
) -> None:
    """Compare every committed snapshot that is a layer of an image here."""
    committed = list(_committed(state))
    for count, (scope, key, snapshot) in enumerate(committed):
        progress("layers", count, len(committed))
        name = f"{scope[0]}/{scope[1]}/{key}"
        layer = documents.chains.get(key)
        reason = _why_not(layer, blobs, scope[1], snapshot)
        if layer is None or reason:
            report.notes.append(f"snapshot {name} cannot be verified: {reason}")
            continue
        try:
            problems = await _compare(root, state, scope, snapshot, layer, blobs, report.running)
        except (DataLoss, InvalidArgument) as error:  # about the layer
            problems = [str(error)]
        except (PortsideError, OSError, RecursionError) as error:  # about this machine, now
            report.notes.append(f"snapshot {name} cannot be verified: {error}")
            continue
        if problems:
            place = place_of(root, scope[1], snapshot.number)
            report.findings.append(Finding("damaged snapshot", name, "; ".join(problems), str(place), 0, (*scope, key)))
        else:
            report.verified["layers"] = report.verified.get("layers", 0) + 1
    progress("layers", len(committed), len(committed))


def place_of(root: Path, snapshotter: str, number: int) -> Path:
    """The directory of a snapshot."""
    return root / f"{SNAPSHOTTER}.{snapshotter}" / "snapshots" / str(number)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A layer, unpacked in a scratch directory: ``files`` is what the snapshot's own files are to be."""

    files: Path
    diff_id: str


@contextlib.asynccontextmanager
async def unpacked(
    root: Path, state: State, scope: tuple[str, ...], snapshot: Snapshot, layer: Layer, blobs: BlobStore, scratch: Path
) -> AsyncIterator[Unpacked]:
    """Unpack ``layer`` as the snapshot was once made, below ``scratch``, which loses it at the end unless it was moved.

    DataLoss if the layer is not what the image's configuration says.
    """
    place = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=scratch))
    try:
        files = place / "fs"
        lowers = [place_of(root, scope[1], number) / "fs" for number in parents_of(state, scope, snapshot.info.parent)]
        _prepare(files, lowers, scope[1])
        stack = contextlib.ExitStack()
        with stack:
            blob, _ = blobs.open(layer.descriptor.digest)
            stack.callback(os.close, blob)
            target = _open(stack, files)
            below = [_open(stack, lower) for lower in lowers] if scope[1] == "overlayfs" else []
            whiteouts = Whiteouts.OVERLAY if scope[1] == "overlayfs" else Whiteouts.DELETE
            digest, media_type = str(layer.descriptor.digest), layer.descriptor.media_type
            applied = await apply_layer(digest, media_type, blob, target, lowers=below, whiteouts=whiteouts)
        if applied.diff_id != layer.diff_id:
            raise DataLoss(f"layer {digest}: unpacks to {applied.diff_id}, the image says {layer.diff_id}")
        yield Unpacked(files, applied.diff_id)
    except OSError as error:
        raise from_oserror(error, f"unpack layer {layer.descriptor.digest}") from error
    finally:
        delete(place)


def delete(path: Path) -> None:
    """Delete whatever is at ``path``, however deep; OSError."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(directory, path.name)
    finally:
        os.close(directory)


def parents_of(state: State, scope: tuple[str, ...], parent: str) -> Iterator[int]:
    """The numbers of ``parent`` and those below it, top first; NotFound where the chain is broken."""
    seen = set()
    while parent:
        snapshot = state.get(SNAPSHOTS, scope, parent)
        if snapshot is None or parent in seen:
            raise NotFound(f"snapshot {'/'.join(scope)}/{parent}: not recorded")
        seen.add(parent)
        yield snapshot.number
        parent = snapshot.info.parent


def _committed(state: State) -> Iterator[tuple[tuple[str, ...], str, Snapshot]]:
    for scope in state.scopes(SNAPSHOTS):
        for key, snapshot in state.rows(SNAPSHOTS, scope).items():
            if snapshot.info.kind == Kind.COMMITTED:
                yield scope, key, snapshot


def _why_not(layer: Layer | None, blobs: BlobStore, snapshotter: str, snapshot: Snapshot) -> str:
    if snapshotter not in DIRECTORY_SNAPSHOTTERS:
        return f"not for snapshots of {snapshotter}"
    if any(label.startswith(_REMAPPED) for label in snapshot.info.labels):
        return "its owners were shifted"
    if layer is None:
        return "it is no layer of an image that is here"
    if blobs.size(layer.descriptor.digest) is None:
        return f"its layer {layer.descriptor.digest} is not in the store any more"
    return ""


async def _compare(
    root: Path, state: State, scope: tuple[str, ...], snapshot: Snapshot, layer: Layer, blobs: BlobStore, running: bool
) -> list[str]:
    files = place_of(root, scope[1], snapshot.number) / "fs"
    if not files.is_dir():
        return ["its directory is gone"]
    # Beside a running daemon nothing is written below its root.
    scratch = Path(tempfile.gettempdir()) if running else root
    async with unpacked(root, state, scope, snapshot, layer, blobs, scratch) as fresh:
        return await asyncio.to_thread(_differences, fresh.files, files)


def _differences(expected: Path, found: Path) -> list[str]:
    with contextlib.ExitStack() as stack:
        one, two = _open(stack, expected), _open(stack, found)
        return list(islice(differences(one, two), MAX_DIFFERENCES))


def _prepare(files: Path, lowers: list[Path], snapshotter: str) -> None:
    """The directory that the layer goes into, as the driver makes it."""
    files.mkdir()
    if snapshotter == "native" and lowers:
        copy_tree(os.fsencode(lowers[0]), os.fsencode(files))
    elif lowers:
        status = lowers[0].lstat()
        os.chown(files, status.st_uid, status.st_gid, follow_symlinks=False)
        files.chmod(status.st_mode & 0o7777)
    else:
        files.chmod(0o755)


def _open(stack: contextlib.ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _hash(blobs: BlobStore, digest: Digest, advance: Callable[[int], None]) -> str | None:
    """None if the blob is right, empty if it has gone, else what is wrong."""
    try:
        descriptor, _ = blobs.open(digest)
    except NotFound:
        return ""
    except PortsideError as error:
        return str(error)
    hasher = hashlib.new(digest.algorithm)
    buffer = bytearray(_CHUNK)
    try:
        while count := os.readv(descriptor, [buffer]):
            hasher.update(memoryview(buffer)[:count])
            advance(count)
    except OSError as error:
        return f"cannot be read: {error.strerror}" if error.errno == errno.EIO else str(error)
    finally:
        os.close(descriptor)
    return None if hasher.hexdigest() == digest.hex else f"its bytes are {digest.algorithm}:{hasher.hexdigest()}"
