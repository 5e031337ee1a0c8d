"""One blob from a source into the content store: resumed where an earlier attempt stopped, checked as it is committed.

Refs are those of containerd's client (``layer-sha256:…``), so that theirs and ours resume each other's ingests.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from portside.client.flights import Flights
from portside.client.leasing import hold
from portside.client.progress import DOWNLOADED, DOWNLOADING, EXISTS, WAITING, Progress, ProgressCallback
from portside.client.sources import Source
from portside.core.content import MAX_DOCUMENT, ContentWriter, read_blob
from portside.core.labels import DISTRIBUTION_SOURCE, MAX_LABEL
from portside.core.services import Services
from portside.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference

PROGRESS_STEP = 256 << 10
"""Bytes between two progress records of one blob."""

STALLED_SECONDS = 300
"""A writer elsewhere that has not written for so long is given up."""

_LOCKED_POLL = 0.1
_LOCKED_POLL_MAX = 2.0


def ref_of(descriptor: Descriptor) -> str:
    """The ingest's ref, as containerd's client makes it (remotes.MakeRefKey)."""
    if descriptor.media_type in MANIFESTS:
        kind = "manifest"
    elif descriptor.media_type in INDEXES:
        kind = "index"
    elif is_layer(descriptor.media_type):
        kind = "layer"
    elif ".config." in descriptor.media_type or ".image.v1+json" in descriptor.media_type:
        kind = "config"
    else:
        kind = "unknown"
    return f"{kind}-{descriptor.digest}"


def is_layer(media_type: str) -> bool:
    """Whether the media type is one of a file system layer's."""
    return ".layer." in media_type or media_type.startswith("application/vnd.docker.image.rootfs.")


async def fetch(
    services: Services, source: Source, reference: Reference, descriptor: Descriptor,
    progress: ProgressCallback, flights: Flights,
) -> None:  # fmt: skip
    """Return when the blob is in the content store, labelled with where it came from and held by the lease.

    DataLoss if the source delivers other bytes than the descriptor promises; nothing of them stays.
    """
    ref = ref_of(descriptor)
    async with flights.one(f"{services.namespace} {descriptor.digest}"):
        try:
            writer = await _open(services, ref, descriptor, progress)
        except AlreadyExists:
            await _adopt(services, descriptor.digest, reference)
            progress(Progress(ref, EXISTS, descriptor.size, descriptor.size))
            return
        try:
            await _copy(writer, source, reference, descriptor, ref, progress)
            await _commit(services, writer, descriptor, reference)
        finally:
            await writer.close()
        progress(Progress(ref, DOWNLOADED, descriptor.size, descriptor.size))


async def fetch_document(
    services: Services, source: Source, reference: Reference, descriptor: Descriptor,
    progress: ProgressCallback, flights: Flights,
) -> bytes:  # fmt: skip
    """``fetch``, and the bytes; for manifests, indexes and configurations."""
    if descriptor.size > MAX_DOCUMENT:
        raise ResourceExhausted(
            f"{ref_of(descriptor)}: {descriptor.size} bytes, more than the {MAX_DOCUMENT} of a document"
        )
    await fetch(services, source, reference, descriptor, progress, flights)
    return await read_blob(services.content, descriptor.digest)


async def _open(services: Services, ref: str, descriptor: Descriptor, progress: ProgressCallback) -> ContentWriter:
    """The ingest's writer; waits while somebody else (another process) has it, as long as that one gets on."""
    delay, offset, moved_at = _LOCKED_POLL, -1, time.monotonic()
    while True:
        try:
            return await services.content.writer(ref, descriptor.size, descriptor.digest)
        except Unavailable as error:
            # Asking also tells a busy ref from a server that is gone, which is Unavailable here too.
            now = await _offset(services, ref)
            if now != offset:
                offset, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                raise Unavailable(f"{ref}: its writer has not got on for {STALLED_SECONDS} seconds") from error
            progress(Progress(ref, WAITING, max(0, offset), descriptor.size))
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LOCKED_POLL_MAX)


async def _offset(services: Services, ref: str) -> int:
    try:
        return (await services.content.status(ref)).offset
    except NotFound:
        return -1


async def _copy(
    writer: ContentWriter, source: Source, reference: Reference, descriptor: Descriptor,
    ref: str, progress: ProgressCallback,
) -> None:  # fmt: skip
    offset = (await writer.status()).offset
    if offset > descriptor.size:
        await writer.truncate(0)
        offset = 0
    progress(Progress(ref, DOWNLOADING, offset, descriptor.size))
    told = offset
    if offset == descriptor.size:
        return
    async for chunk in source.fetch(reference, descriptor, offset):
        offset += len(chunk)
        if offset > descriptor.size:
            await writer.truncate(0)
            raise DataLoss(f"{ref}: {reference.host} sends more than the {descriptor.size} bytes announced")
        await writer.write(chunk)
        if offset - told >= PROGRESS_STEP:
            told = offset
            progress(Progress(ref, DOWNLOADING, offset, descriptor.size))
    if offset < descriptor.size:
        raise Unavailable(f"{ref}: {reference.host} ended after {offset} of {descriptor.size} bytes")


async def _commit(services: Services, writer: ContentWriter, descriptor: Descriptor, reference: Reference) -> None:
    labels = {DISTRIBUTION_SOURCE + reference.host: reference.path}
    try:
        await writer.commit(descriptor.size, descriptor.digest, labels)
    except AlreadyExists:
        await _adopt(services, descriptor.digest, reference)
    except FailedPrecondition as error:
        await writer.close()
        await _abort(services, ref_of(descriptor))
        raise DataLoss(
            f"{ref_of(descriptor)}: what {reference.host} sent does not match the digest ({error})"
        ) from error


async def _abort(services: Services, ref: str) -> None:
    try:
        await services.content.abort(ref)
    except NotFound:
        return


async def _adopt(services: Services, digest: Digest, reference: Reference) -> None:
    """A blob that was here before: hold it, and note one more place where it can be had."""
    await hold(services, "content", digest)
    info = await services.content.info(digest)
    key = DISTRIBUTION_SOURCE + reference.host
    known = [path for path in info.labels.get(key, "").split(",") if path]
    if reference.path in known:
        return
    value = ",".join([*known, reference.path])
    if len(key.encode()) + len(value.encode()) > MAX_LABEL:
        return
    await services.content.update(replace(info, labels={**info.labels, key: value}), (f"labels.{key}",))
