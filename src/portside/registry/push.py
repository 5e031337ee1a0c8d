"""Sending blobs and documents (distribution-spec, "Push"): there already, mounted from another repository, or
uploaded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from urllib.parse import urljoin

from portside.core.content import MAX_DOCUMENT, ContentReader
from portside.errors import DataLoss, FailedPrecondition, PortsideError, ResourceExhausted, Unavailable
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.reference import Reference
from portside.registry.transport import Body, Response, Transport, check, discard

EXISTS, MOUNTED, PUSHED = "exists", "mounted", "pushed"
_MAX_SOURCES = 4
_READ_TIMEOUT = 300.0


class _Reading:
    """A blob as a file for one upload, read in the thread that sends it."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, progress: Callable[[int], None] | None) -> None:
        self._read = read
        self._size = size
        self._offset = 0
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; DataLoss if there are fewer than the descriptor says."""
        left = self._size - self._offset
        data = self._read(self._offset, left if size < 0 else min(size, left)) if left else b""
        if left and not data:
            raise DataLoss(f"the blob ends at {self._offset} of {self._size} bytes")
        self._offset += len(data)
        if self._progress is not None and data:
            self._progress(self._offset)
        return data


def reading(
    reader: ContentReader, size: int, loop: asyncio.AbstractEventLoop, progress: Callable[[int], None] | None
) -> Callable[[], _Reading]:
    """What opens ``reader`` for one upload: by its descriptor, or through the loop where it has none."""
    fd = reader.fileno()

    def by_descriptor(offset: int, count: int) -> bytes:
        return os.pread(fd, count, offset)

    def by_loop(offset: int, count: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(reader.read(offset, count), loop).result(_READ_TIMEOUT)

    return lambda: _Reading(by_descriptor if fd >= 0 else by_loop, size, progress)


def push_to(
    transport: Transport, reference: Reference, descriptor: Descriptor, body: Callable[[], _Reading],
    sources: Sequence[str],
) -> str:  # fmt: skip
    """Make ``descriptor`` be at one endpoint; how it came to be there."""
    if descriptor.media_type in INDEXES | MANIFESTS:
        return _push_document(transport, reference, descriptor, body)
    return _Blob(transport, reference, descriptor, body).push(sources)


def _push_document(
    transport: Transport, reference: Reference, descriptor: Descriptor, body: Callable[[], _Reading]
) -> str:
    if descriptor.size > MAX_DOCUMENT:
        raise ResourceExhausted(f"{descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
    path = f"/{reference.path}/manifests/{reference.tag or descriptor.digest}"
    scopes = _scopes(reference)
    head = transport.request("HEAD", path, scopes=scopes, headers={"Accept": descriptor.media_type})
    discard(head)
    if head.status == 200 and head.headers.get("Docker-Content-Digest") == descriptor.digest:
        return EXISTS
    data = body().read()
    response = transport.request("PUT", path, scopes=scopes, body=Body(len(data), lambda: data, descriptor.media_type))
    _check_stored(response, descriptor, 200, 201, 202)
    return PUSHED


class _Blob:
    """One blob on its way."""

    def __init__(
        self, transport: Transport, reference: Reference, descriptor: Descriptor, body: Callable[[], _Reading]
    ) -> None:
        self._transport, self._reference, self._descriptor, self._body = transport, reference, descriptor, body

    def push(self, sources: Sequence[str]) -> str:
        path = f"/{self._reference.path}/blobs/{self._descriptor.digest}"
        head = self._transport.request("HEAD", path, scopes=_scopes(self._reference))
        discard(head)
        if head.status == 200:
            return EXISTS
        if head.status not in (404, 405):
            check(head)
        upload = self._mount(sources)
        if upload == "":
            return MOUNTED
        delays = list(self._transport.retry_delays)
        while True:
            try:
                self._upload(upload or self._begin())
                return PUSHED
            except Unavailable:
                if not delays:
                    raise
            time.sleep(delays.pop(0))
            upload = None

    def _mount(self, sources: Sequence[str]) -> str | None:
        """Empty: mounted. Otherwise the session that the registry offered instead, if it did."""
        for source in [each for each in sources if each != self._reference.path][:_MAX_SOURCES]:
            scopes = _scopes(self._reference) | {f"repository:{source}:pull"}
            try:
                response = self._post(scopes, {"mount": self._descriptor.digest, "from": source})
            except PortsideError:
                continue  # no access to the source: upload
            if response.status == 201:
                return ""
            return self._location(response)
        return None

    def _begin(self) -> str:
        return self._location(self._post(_scopes(self._reference), {}))

    def _post(self, scopes: frozenset[str], query: dict[str, str]) -> Response:
        response = self._transport.request(
            "POST",
            f"/{self._reference.path}/blobs/uploads/",
            scopes=scopes,
            query=query,
            headers={"Content-Length": "0"},
        )
        check(response, 201, 202)
        discard(response)
        return response

    def _location(self, response: Response) -> str:
        location = response.headers.get("Location", "")
        if not location:
            raise Unavailable("the registry does not say where to upload")
        return urljoin(self._transport.endpoint.url + "/", location)

    def _upload(self, url: str) -> None:
        """One PUT of the whole. A lost connection starts over with a new session."""
        response = self._transport.request(
            "PUT", url, scopes=_scopes(self._reference), query={"digest": self._descriptor.digest},
            body=Body(self._descriptor.size, self._body), retry=False,
        )  # fmt: skip
        _check_stored(response, self._descriptor, 201, 204)


def _scopes(reference: Reference) -> frozenset[str]:
    return frozenset({f"repository:{reference.path}:pull,push"})


def _check_stored(response: Response, descriptor: Descriptor, *expected: int) -> None:
    check(response, *expected)
    stored = response.headers.get("Docker-Content-Digest", "")
    discard(response)
    if stored and stored != descriptor.digest:
        raise FailedPrecondition(f"the registry stored {descriptor.digest} as {stored[:100]}")
