"""The OCI distribution protocol as coroutines: resolve, fetch (distribution-spec, "Pull"); push is in ``push``.

Each call runs its blocking HTTP (``transport``) in a thread of the registry's own pool and tries the endpoints that
the host's configuration names, in order. Every error names what was done to which reference: ``pull host/name:tag: not
found``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from portside.core.content import MAX_DOCUMENT, ContentReader
from portside.errors import DataLoss, InvalidArgument, NotFound, OutOfRange, PortsideError, Unimplemented
from portside.oci.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, INDEXES, MANIFEST, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry.endpoints import (
    PULL,
    PUSH,
    RESOLVE,
    Credentials,
    Endpoint,
    RegistryConfig,
    endpoints_for,
)
from portside.registry.flow import MAX_SEGMENTS, first_end, parts_of

if TYPE_CHECKING:
    from portside.registry.download import Download
    from portside.registry.transport import Response, Transport

_Result = TypeVar("_Result")
ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, "*/*;q=0.1"))
MAX_THREADS = 32
MAX_URLS = 8
"""Addresses of a foreign layer that are tried."""
_CALLBACK_TIMEOUT = 300.0


class Registry:
    """All registries, as one configuration sees them. Whoever made it closes it.

    Nothing of HTTP or TLS is imported before the first call.
    """

    def __init__(self, config: RegistryConfig | None = None) -> None:
        self.config = config or RegistryConfig()
        self._pool: ThreadPoolExecutor | None = None
        self._transports: dict[Endpoint, Transport] = {}
        self._segments = asyncio.Semaphore(MAX_SEGMENTS)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def resolve(self, reference: Reference) -> Descriptor:
        """What the reference stands for now.

        NotFound, Unauthenticated, PermissionDenied, Unavailable; DataLoss if a registry answers a digest with
        something else; Unimplemented for a document that is neither manifest nor index.
        """
        return await self._each(f"pull {reference}", reference, RESOLVE, lambda each: resolve_at(each, reference))

    async def fetch(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob or document from ``offset`` on, ``size - offset`` of them, in parts of up to 1 MiB.

        A lost connection is taken up where it broke; a large blob may come over several (``flow``). Whether the bytes
        are what the digest says is for who stores them to check. DataLoss if there are more bytes than the descriptor
        says.
        """
        step = f"pull {reference}: fetch {descriptor.digest}"
        connections, fast_enough = self.config.connections, self.config.fast_enough
        end = first_end(descriptor.size, offset, connections)
        first = await self._each(
            step, reference, PULL, lambda each: start_download(each, reference, descriptor, offset, end)
        )
        try:
            async with aclosing(parts_of(first, self._submit, self._segments, connections, fast_enough)) as parts:
                async for part in parts:
                    yield part
        except PortsideError as error:
            raise type(error)(f"{step}: {error}") from error

    async def size_of(self, reference: Reference, digest: Digest) -> int:
        """The length in bytes of a blob of which no manifest tells it (HEAD); errors as ``resolve``."""
        step = f"pull {reference}: look for {digest}"
        return await self._each(step, reference, PULL, lambda each: length_at(each, reference, digest))

    async def fetch_document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A whole manifest, index or config, its digest verified (DataLoss); at most ``MAX_DOCUMENT`` bytes."""
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidArgument(f"pull {reference}: {descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
        data = b"".join([part async for part in self.fetch(reference, descriptor)])
        if Digest.of(data) != descriptor.digest and descriptor.digest.algorithm == "sha256":
            raise DataLoss(f"pull {reference}: what came is not {descriptor.digest}")
        return data

    async def push(
        self, reference: Reference, descriptor: Descriptor, reader: ContentReader,
        *, sources: Sequence[str] = (), progress: Callable[[int], None] | None = None,
    ) -> str:  # fmt: skip
        """Make the blob or document be there: ``exists``, ``mounted`` or ``pushed``.

        A document is put under the reference's tag, or under its digest if there is no tag. ``sources`` are other
        repositories of the same registry that may have the blob. ``progress`` is told, in a thread, how many bytes are
        sent. ``reader`` stays the caller's.
        """
        from portside.registry.push import push_to, reading

        loop = asyncio.get_running_loop()
        body = reading(reader, descriptor.size, loop, progress)
        return await self._each(
            f"push {reference}", reference, PUSH, lambda each: push_to(each, reference, descriptor, body, sources)
        )

    async def close(self) -> None:
        """Drop connections and threads; calls at work end with their connection."""
        pool, self._pool = self._pool, None
        for transport in self._transports.values():
            transport.close()
        self._transports.clear()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _each(
        self, step: str, reference: Reference, capability: str, action: Callable[[Transport], _Result]
    ) -> _Result:
        """Run ``action`` at each endpoint until one succeeds; the error that tells most about why none did."""
        self._loop = asyncio.get_running_loop()
        try:
            endpoints = endpoints_for(reference.host, self.config, capability)
        except PortsideError as error:
            raise type(error)(f"{step}: {error}") from error
        if not endpoints:
            raise InvalidArgument(f"{step}: the configuration names no server that may {capability}")
        failed: PortsideError | None = None
        for endpoint in endpoints:
            try:
                return await self._wait(step, self._submit(self._at, endpoint, action))
            except PortsideError as error:
                # That the image is not there is the weakest answer: a mirror need not have it.
                if failed is None or isinstance(failed, NotFound):
                    failed = error
        assert failed is not None
        raise failed

    def _at(self, endpoint: Endpoint, action: Callable[[Transport], _Result]) -> _Result:
        from portside.registry.transport import Transport

        transport = self._transports.get(endpoint)
        if transport is None:
            made = Transport(endpoint, self.config, self._credentials)
            transport = self._transports.setdefault(endpoint, made)
        return action(transport)

    def _submit(self, function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="portside-registry")
        return self._pool.submit(function, *arguments)

    async def _wait(self, step: str, future: Future[_Result]) -> _Result:
        try:
            return await asyncio.wrap_future(future)
        except PortsideError as error:
            raise type(error)(f"{step}: {error}") from error

    def _credentials(self, host: str) -> Credentials | None:
        """Asks the callback, in a worker thread; a coroutine runs on the loop that waits for this call."""
        if self.config.credentials is None:
            return None
        answer = self.config.credentials(host)
        if inspect.isawaitable(answer):
            assert self._loop is not None
            return asyncio.run_coroutine_threadsafe(_awaited(answer), self._loop).result(_CALLBACK_TIMEOUT)
        return answer


async def _awaited(answer: Any) -> Credentials | None:
    found: Credentials | None = await answer
    return found


def scope_of(path: str, actions: str) -> frozenset[str]:
    """The scope that a token must have (docs: "Token Scope Documentation")."""
    return frozenset({f"repository:{path}:{actions}"})


def resolve_at(transport: Transport, reference: Reference) -> Descriptor:
    """Ask one endpoint: HEAD, and GET where the answer to that is not enough."""
    from portside.registry.transport import check, discard, read_limited

    path = f"/{reference.path}/manifests/{reference.object}"
    scopes = scope_of(reference.path, "pull")
    response = transport.request("HEAD", path, scopes=scopes, headers={"Accept": ACCEPT})
    found = _from_headers(response.headers) if response.status == 200 else None
    if response.status != 200 and response.status not in (400, 404, 405, 501):
        check(response)
    discard(response)
    if found is None:
        response = transport.request("GET", path, scopes=scopes, headers={"Accept": ACCEPT})
        check(response, 200)
        data = read_limited(response, MAX_DOCUMENT, "the manifest")
        found = _from_document(data, response.headers)
    if reference.digest is not None and found.digest != reference.digest:
        raise DataLoss(f"the registry answers with {found.digest}")
    return found


def length_at(transport: Transport, reference: Reference, digest: Digest) -> int:
    """Ask one endpoint for the length of a blob; DataLoss if its answer has none."""
    from portside.registry.transport import check, discard

    path = f"/{reference.path}/blobs/{digest}"
    response = transport.request("HEAD", path, scopes=scope_of(reference.path, "pull"))
    try:
        check(response, 200)
        length = response.headers.get("Content-Length", "")
    finally:
        discard(response)
    if not length.isascii() or not length.isdigit():
        raise DataLoss(f"the registry does not say how long {digest} is")
    return int(length)


def _media_type(headers: Any) -> str:
    return str(headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _from_headers(headers: Any) -> Descriptor | None:
    digest, length = headers.get("Docker-Content-Digest", ""), headers.get("Content-Length", "")
    media_type = _media_type(headers)
    if media_type not in INDEXES | MANIFESTS or not length.isascii() or not length.isdigit() or int(length) == 0:
        return None
    try:
        return Descriptor(media_type, Digest.parse(digest), int(length))
    except InvalidArgument:
        return None


def _from_document(data: bytes, headers: Any) -> Descriptor:
    stated = headers.get("Docker-Content-Digest", "")
    digest = Digest.of(data)
    if stated.startswith("sha256:") and stated != digest:
        raise DataLoss(f"the manifest is not {stated[:80]}, as the registry says")
    media_type = check_document(data, _media_type(headers))
    return Descriptor(media_type, digest, len(data))


def check_document(data: bytes, media_type: str = "") -> str:
    """The media type of a manifest or index. One that could be read as both is InvalidArgument, as is one whose own
    ``mediaType`` is not the one it was served with; Unimplemented for documents of other kinds."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("the manifest is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidArgument("the manifest is not a JSON object")
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    if is_index and is_manifest:
        raise InvalidArgument("the document is both a manifest and an index")
    stated = document.get("mediaType")
    known = INDEXES | MANIFESTS
    if stated is not None and stated != media_type and media_type in known:
        raise InvalidArgument(f"the document says {str(stated)[:100]!r}, the registry {media_type!r}")
    kind = media_type if media_type in known else stated if stated in known else INDEX if is_index else MANIFEST
    if (kind in INDEXES) != is_index or not (is_index or is_manifest):
        raise Unimplemented(f"a document of media type {str(stated or media_type)[:100]!r} is no image")
    return str(kind)


def start_download(
    transport: Transport, reference: Reference, descriptor: Descriptor, offset: int, end: int
) -> Download:
    """The download, its first answer there. What the registry does not have may be at the descriptor's ``urls``."""
    from portside.registry.download import Download

    if not 0 <= offset <= descriptor.size:
        raise OutOfRange(f"offset {offset} is not in the {descriptor.size} bytes")
    kind = "manifests" if descriptor.media_type in INDEXES | MANIFESTS else "blobs"
    path = f"/{reference.path}/{kind}/{descriptor.digest}"
    scopes = scope_of(reference.path, "pull")
    headers = {"Accept": f"{descriptor.media_type}, */*;q=0.1"}
    delays = transport.retry_delays

    def ask(more: dict[str, str]) -> Response:
        return transport.request("GET", path, scopes=scopes, headers=headers | more)

    download = Download(ask, descriptor.size, offset, delays, end)
    try:
        download.start()
        return download
    except NotFound:
        if not descriptor.urls:
            raise
    failed: PortsideError = NotFound("not found")
    for url in descriptor.urls[:MAX_URLS]:
        download = Download(partial(transport.plain_request, url), descriptor.size, offset, delays, end)
        try:
            download.start()
            return download
        except PortsideError as error:
            failed = error
    raise failed
