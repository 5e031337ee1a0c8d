"""Layers to snapshots and back, here: the local DiffService over layer workers.

A layer is written straight into the directory behind the mounts that a snapshotter gave (overlayfs' upper directory,
the source of a bind mount), without mounting anything. What does not belong here: what the workers do (``layers/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from portside.core.anymessage import AnyMessage
from portside.core.content import ContentInfo, ContentReader, ContentStore, ContentWriter
from portside.core.labels import UNCOMPRESSED
from portside.core.mount import Mount
from portside.core.work import in_thread
from portside.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    PortsideError,
    Unimplemented,
    from_oserror,
)
from portside.layers.compression import compression_of
from portside.layers.unpack import Whiteouts
from portside.layers.workers import Applied, Compared, apply_layer, compare_trees
from portside.oci.descriptor import LAYER, LAYER_GZIP, Descriptor
from portside.oci.digest import Digest
from portside.snapshots.durability import sync_file_system
from portside.snapshots.overlay import in_user_namespace

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """Where a layer goes: a directory, the directories below it (top first), and what becomes of whiteouts."""

    path: str
    lowers: tuple[str, ...] = ()
    whiteouts: str = Whiteouts.DELETE


def target_of(mounts: Sequence[Mount]) -> Target:
    """The directory behind ``mounts``; FailedPrecondition if they are read-only, Unimplemented if there is none."""
    if len(mounts) != 1 or mounts[0].target:
        raise Unimplemented(f"unpack onto {len(mounts)} mounts: want one, without a target of its own")
    (mount,) = mounts
    if mount.type in ("bind", "rbind") or "bind" in mount.options or "rbind" in mount.options:
        if "ro" in mount.options:
            raise FailedPrecondition(f"unpack onto {mount.source}: the mount is read-only")
        return Target(mount.source)
    if mount.type != "overlay":
        raise Unimplemented(f"unpack onto a mount of type {mount.type!r}: want overlay or bind")
    values = overlay_values(mount)
    if "upperdir" not in values:
        raise FailedPrecondition("unpack onto an overlay mount without an upper directory: it is read-only")
    whiteouts = Whiteouts.USER_OVERLAY if "userxattr" in mount.options else Whiteouts.OVERLAY
    return Target(values["upperdir"], split_lowers(values.get("lowerdir", "")), whiteouts)


def stack_of(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """The directories that ``mounts`` show, top first; none for no mounts. Unimplemented for kinds without any."""
    if not mounts:
        return ()
    if len(mounts) == 1 and not mounts[0].target:
        (mount,) = mounts
        if mount.type in ("bind", "rbind") or "bind" in mount.options or "rbind" in mount.options:
            return (mount.source,)
        if mount.type == "overlay":
            values = overlay_values(mount)
            upper = (values["upperdir"],) if "upperdir" in values else ()
            return (*upper, *split_lowers(values.get("lowerdir", "")))
    raise Unimplemented(f"{len(mounts)} mounts, the first of type {mounts[0].type!r}: want one, overlay or bind")


def overlay_values(mount: Mount) -> dict[str, str]:
    """The options of the form ``name=value``."""
    return dict(option.split("=", 1) for option in mount.options if "=" in option)


def split_lowers(text: str) -> tuple[str, ...]:
    """The directories of a ``lowerdir=`` option, top first; a backslash keeps the colon after it (overlayfs.rst)."""
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ":":
            parts.append(current)
            current = ""
        else:
            current += character
    return tuple(part for part in (*parts, current) if part)


class LocalDiff:
    """DiffService of one namespace, whose store is ``content``. ``workers`` bounds the workers that run at once."""

    def __init__(self, content: ContentStore, workers: asyncio.Semaphore | None = None) -> None:
        self._content = content
        self._workers = workers or asyncio.Semaphore(max(2, os.cpu_count() or 2))

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """Unpack ``layer`` onto ``mounts``; the descriptor of the uncompressed tar.

        NotFound if the layer is not in the store; errors of the unpacking as ``layers.workers.apply_layer``. What was
        written before an error stays: the caller drops the snapshot.
        """
        step = f"apply layer {layer.digest}"
        try:
            compression_of(layer.media_type)
            target = target_of(mounts)
        except PortsideError as error:
            raise type(error)(f"{step}: {error}") from error
        reader = await self._content.open(layer.digest)
        try:
            applied = await self._apply(layer, target, reader)
        finally:
            await reader.close()
        if sync_fs:
            try:
                await in_thread(sync_file_system, target.path)
            except OSError as error:
                raise from_oserror(error, f"{step}: sync") from error
        return Descriptor(LAYER, Digest.parse(applied.diff_id), applied.size)

    async def compare(
        self, lower: Sequence[Mount], upper: Sequence[Mount],
        *, media_type: str = "", ref: str = "", labels: Mapping[str, str] | None = None,
        source_date_epoch_ns: int | None = None,
    ) -> Descriptor:  # fmt: skip
        """Write what ``upper`` changes over ``lower`` into the store, as ``media_type`` (empty: OCI gzip).

        The layer carries ``labels`` and its diffID (``containerd.io/uncompressed``). Equal trees and options give equal
        bytes; ``source_date_epoch_ns`` caps all times. Unimplemented for media types and mounts we cannot do.
        """
        step = f"compare snapshots as {ref}" if ref else "compare snapshots"
        media_type = media_type or LAYER_GZIP
        try:
            kind = compression_of(media_type)
            directories = stack_of(lower), stack_of(upper)
        except PortsideError as error:
            raise type(error)(f"{step}: {error}") from error
        if not directories[1]:
            raise InvalidArgument(f"{step}: no mounts")
        ref = ref or f"diff-{secrets.token_hex(8)}"
        writer = await self._content.writer(ref)
        try:
            await writer.truncate(0)
            compared = await self._compare(step, directories, writer, kind, source_date_epoch_ns)
            digest = Digest.parse(compared.digest)
            await self._commit(writer, compared, {**(labels or {}), UNCOMPRESSED: compared.diff_id})
        except BaseException:
            await writer.close()
            with contextlib.suppress(PortsideError):
                await self._content.abort(ref)
            raise
        await writer.close()
        return Descriptor(media_type, digest, compared.size)

    async def _commit(self, writer: ContentWriter, compared: Compared, labels: Mapping[str, str]) -> None:
        digest = Digest.parse(compared.digest)
        try:
            await writer.commit(compared.size, digest, labels)
        except AlreadyExists:
            info = await self._content.info(digest)
            await self._content.update(
                ContentInfo(digest, info.size, {**info.labels, **labels}), tuple(f"labels.{key}" for key in labels)
            )

    async def _compare(
        self, step: str, directories: tuple[tuple[str, ...], tuple[str, ...]], writer: ContentWriter, kind: str,
        epoch_ns: int | None,
    ) -> Compared:  # fmt: skip
        with contextlib.ExitStack() as stack:
            try:
                lower, upper = ([_open(stack, path) for path in paths] for paths in directories)
            except OSError as error:
                raise from_oserror(error, f"{step}: open {error.filename}") from error
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            async with self._workers:
                storing = asyncio.create_task(_store(read_end, writer))
                try:
                    compared = await compare_trees(step, lower, upper, write_end, compression=kind, epoch_ns=epoch_ns)
                except BaseException:
                    if storing.done() and not storing.cancelled() and storing.exception() is not None:
                        break_cause = storing.exception()  # the worker only saw its pipe break
                        assert break_cause is not None
                        raise break_cause from None
                    storing.cancel()
                    raise
                finally:
                    os.close(write_end)
                    await asyncio.gather(storing, return_exceptions=True)
                storing.result()
                return compared

    async def _apply(self, layer: Descriptor, target: Target, reader: ContentReader) -> Applied:
        with contextlib.ExitStack() as stack:
            try:
                root, *lowers = (_open(stack, path) for path in (target.path, *target.lowers))
            except OSError as error:
                raise from_oserror(error, f"apply layer {layer.digest}: open {error.filename}") from error
            async with self._workers, _descriptor_of(reader) as blob:
                return await apply_layer(
                    str(layer.digest), layer.media_type, blob, root,
                    lowers=lowers, whiteouts=target.whiteouts, devices=not in_user_namespace(),
                )  # fmt: skip


def _open(stack: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


@contextlib.asynccontextmanager
async def _descriptor_of(reader: ContentReader) -> AsyncIterator[int]:
    """The blob's own descriptor, or a pipe that a task fills where the store has none to give."""
    fd = reader.fileno()
    if fd >= 0:
        yield fd
        return
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    task = asyncio.create_task(_fill(reader, write_end))
    try:
        yield read_end
    finally:
        os.close(read_end)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _fill(reader: ContentReader, pipe: int) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(pipe, "wb", 0))
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        offset = 0
        while data := await reader.read(offset, _CHUNK):
            writer.write(data)
            await writer.drain()
            offset += len(data)
    except ConnectionError:
        return  # the worker has ended; its answer tells why
    finally:
        writer.close()


async def _store(pipe: int, writer: ContentWriter) -> None:
    """Everything that comes out of the pipe, which is closed at the end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(_CHUNK)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0))
    try:
        while data := await reader.read(_CHUNK):
            await writer.write(data)
    finally:
        transport.close()
