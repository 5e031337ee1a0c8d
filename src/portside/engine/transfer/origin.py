"""An image on a registry as a content store to send from: nothing of it is kept on this machine.

Documents are fetched when they are read, verified, and remembered up to a limit; a layer flows through memory from one
registry to the other when the other one asks for it, which it does not if it has the layer. Read only.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from portside.core.content import ContentInfo, ContentReader
from portside.core.work import in_thread
from portside.errors import DataLoss, NotFound
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.digest import Digest
from portside.oci.image import parse_document
from portside.oci.reference import Reference

MAX_REMEMBERED = 32 << 20
"""Bytes of documents of one image; beyond it they are fetched once more when they are sent."""


class Registry(Protocol):
    """What is needed of ``registry.client.Registry``."""

    def fetch(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from ``offset`` on."""
        ...

    async def fetch_document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A whole document, verified."""
        ...


class OriginContent:
    """The blobs of one image. ``info`` and ``open`` of a ``ContentStore``, for what is named by a document read before.

    It begins with ``target`` alone; whatever a document that is opened names is known from then on.
    """

    def __init__(self, registry: Registry, reference: Reference, target: Descriptor) -> None:
        self._registry, self._reference = registry, reference
        self._known = {target.digest: target}
        self._documents: dict[Digest, bytes] = {}
        self._remembered = 0

    async def info(self, digest: Digest) -> ContentInfo:
        """What its descriptor says; NotFound."""
        return ContentInfo(digest, self._find(digest).size)

    async def open(self, digest: Digest) -> ContentReader:
        """A document at once, anything else when it is read; NotFound."""
        descriptor = self._find(digest)
        if descriptor.media_type not in INDEXES | MANIFESTS:
            return _Flow(self._registry, self._reference, descriptor)
        if digest not in self._documents:
            data = await self._registry.fetch_document(self._reference, descriptor)
            for child in parse_document(data, descriptor.media_type).children():
                self._known.setdefault(child.digest, child)
            self._remembered += len(data)
            if self._remembered > MAX_REMEMBERED:
                return _Bytes(data)
            self._documents[digest] = data
        return _Bytes(self._documents[digest])

    def _find(self, digest: Digest) -> Descriptor:
        if digest not in self._known:
            raise NotFound(f"blob {digest}: nothing in {self._reference} names it")
        return self._known[digest]


class _Bytes:
    """A document."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def fileno(self) -> int:
        """-1: it is no file."""
        return -1

    async def read(self, offset: int, size: int) -> bytes:
        """A part of it."""
        return self._data[offset : offset + size]

    async def close(self) -> None:
        """Nothing is held."""


class _Flow:
    """A blob on its way, read from the start to the end; from another offset it is asked for anew."""

    def __init__(self, registry: Registry, reference: Reference, descriptor: Descriptor) -> None:
        self._registry, self._reference, self._descriptor = registry, reference, descriptor
        self.size = descriptor.size
        self._parts: AsyncIterator[bytes] | None = None
        self._at = 0
        self._rest = memoryview(b"")
        self._hasher = hashlib.new(descriptor.digest.algorithm)
        self._hashed = 0

    def fileno(self) -> int:
        """-1: it is no file."""
        return -1

    async def read(self, offset: int, size: int) -> bytes:
        """The next bytes; DataLoss instead of the last ones if the whole is not what its digest says."""
        if self._parts is None or offset != self._at:
            await self._begin(offset)
        assert self._parts is not None
        if not self._rest:
            self._rest = memoryview(await anext(self._parts, b""))
        data = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        await self._check(offset, data)
        self._at += len(data)
        return data

    async def close(self) -> None:
        """Ask for no more."""
        parts, self._parts = self._parts, None
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()

    async def _begin(self, offset: int) -> None:
        await self.close()
        self._parts = self._registry.fetch(self._reference, self._descriptor, offset)
        self._at, self._rest = offset, memoryview(b"")
        if offset == 0:
            self._hasher, self._hashed = hashlib.new(self._descriptor.digest.algorithm), 0

    async def _check(self, offset: int, data: bytes) -> None:
        """Hash what comes in order; what is read from the middle on is for the registry that gets it to verify."""
        if offset != self._hashed:
            return
        await in_thread(self._hasher.update, data)
        self._hashed += len(data)
        if self._hashed == self.size and self._hasher.hexdigest() != self._descriptor.digest.hex:
            raise DataLoss(f"blob {self._descriptor.digest}: what {self._reference.host} sends is not that")
