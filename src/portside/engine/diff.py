"""Layers to snapshots and back, here: the local DiffService over layer workers.

A layer is written straight into the directory behind the mounts that a snapshotter gave (overlayfs' upper directory,
the source of a bind mount), without mounting anything. What does not belong here: what the workers do (``layers/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from portside.core.anymessage import AnyMessage
from portside.core.content import ContentInfo, ContentReader, ContentStore, ContentWriter
from portside.core.labels import UNCOMPRESSED
from portside.core.mount import Mount
from portside.core.settings import StreamProcessor
from portside.core.work import in_thread
from portside.engine.directories import OpenTarget, open_stack, open_target
from portside.engine.stream_processors import Step, chain_for, processed
from portside.errors import AlreadyExists, InvalidArgument, PortsideError, from_oserror
from portside.layers.compression import compression_of
from portside.layers.workers import Applied, Compared, apply_layer, compare_trees
from portside.linux.sync import sync_file_system
from portside.oci.descriptor import LAYER, LAYER_GZIP, Descriptor
from portside.oci.digest import Digest
from portside.snapshots.overlay import in_user_namespace

_CHUNK = 1 << 20
_running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def _bound() -> asyncio.Semaphore:
    """Workers that run at once, for all users of a loop: as many as there are processors, but two at least."""
    loop = asyncio.get_running_loop()
    if loop not in _running:
        _running[loop] = asyncio.Semaphore(max(2, os.cpu_count() or 2))
    return _running[loop]


class LocalDiff:
    """DiffService of one namespace, whose store is ``content``; costs nothing to make."""

    def __init__(self, content: ContentStore, processors: Mapping[str, StreamProcessor] | None = None) -> None:
        self._content = content
        self._processors = processors or {}

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """Unpack ``layer`` onto ``mounts``; the descriptor of the uncompressed tar.

        NotFound if the layer is not in the store; errors of the unpacking as ``layers.workers.apply_layer``. What was
        written before an error stays: the caller drops the snapshot.
        """
        step = f"apply layer {layer.digest}"
        with _naming(step):
            chain = chain_for(layer.media_type, self._processors)
            async with open_target(mounts) as target:
                reader = await self._content.open(layer.digest)
                try:
                    applied = await _apply(layer, target, reader, chain, payloads or {})
                finally:
                    await reader.close()
                if sync_fs:
                    await in_thread(_sync, target.root)
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
        media_type = media_type or LAYER_GZIP
        with _naming("compare snapshots"):
            kind = compression_of(media_type)
            if not upper:
                raise InvalidArgument("no mounts")
            async with open_stack(lower) as below, open_stack(upper) as above:
                ref = ref or f"diff-{secrets.token_hex(8)}"
                writer = await self._content.writer(ref)
                try:
                    await writer.truncate(0)
                    compared = await _compare(below, above, writer, kind, source_date_epoch_ns)
                    await self._commit(writer, compared, {**(labels or {}), UNCOMPRESSED: compared.diff_id})
                except BaseException:
                    await writer.close()
                    with contextlib.suppress(PortsideError):
                        await self._content.abort(ref)
                    raise
                await writer.close()
        return Descriptor(media_type, Digest.parse(compared.digest), compared.size)

    async def _commit(self, writer: ContentWriter, compared: Compared, labels: Mapping[str, str]) -> None:
        digest = Digest.parse(compared.digest)
        try:
            await writer.commit(compared.size, digest, labels)
        except AlreadyExists:
            info = await self._content.info(digest)
            await self._content.update(
                ContentInfo(digest, info.size, {**info.labels, **labels}), tuple(f"labels.{key}" for key in labels)
            )


@contextlib.contextmanager
def _naming(step: str) -> Iterator[None]:
    """Errors begin with ``step``, unless they do already."""
    try:
        yield
    except PortsideError as error:
        if str(error).startswith(step):
            raise
        raise type(error)(f"{step}: {error}") from error


async def _apply(
    layer: Descriptor, target: OpenTarget, reader: ContentReader, chain: Sequence[Step],
    payloads: Mapping[str, AnyMessage],
) -> Applied:  # fmt: skip
    media_type = chain[-1].processor.returns if chain else layer.media_type
    async with _bound(), _descriptor_of(reader) as blob, processed(blob, layer.size, chain, payloads) as stream:
        return await apply_layer(
            str(layer.digest), media_type, stream, target.root,
            lowers=target.lowers, whiteouts=target.whiteouts, devices=not in_user_namespace(),
        )  # fmt: skip


async def _compare(
    below: Sequence[int], above: Sequence[int], writer: ContentWriter, kind: str, epoch_ns: int | None
) -> Compared:
    async with _bound():
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        storing = asyncio.create_task(_store(read_end, writer))
        try:
            compared = await compare_trees(below, above, write_end, compression=kind, epoch_ns=epoch_ns)
        except BaseException:
            if storing.done() and not storing.cancelled():
                storing.result()  # what went wrong there is the cause: the worker only saw its pipe break
            storing.cancel()
            raise
        finally:
            os.close(write_end)
            await asyncio.gather(storing, return_exceptions=True)
        storing.result()
        return compared


def _sync(fd: int) -> None:
    try:
        sync_file_system(fd)
    except OSError as error:
        raise from_oserror(error, "sync") from error


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
