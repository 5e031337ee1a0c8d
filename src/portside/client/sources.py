"""Where images come from and go to, as the verbs see it; ``registry/`` has the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from portside.core.content import ContentReader
from portside.oci.descriptor import Descriptor
from portside.oci.reference import Reference


class Source(Protocol):
    """A place to pull from."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What the reference stands for now; NotFound, Unauthenticated, PermissionDenied, Unavailable."""
        ...

    def fetch(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob's bytes from ``offset`` on."""
        ...


class Sink(Protocol):
    """A place to push to."""

    async def push(
        self, reference: Reference, descriptor: Descriptor, reader: ContentReader,
        *, sources: Sequence[str] = (), progress: Callable[[int], None] | None = None,
    ) -> str:  # fmt: skip
        """Make the blob or document be there: ``exists``, ``mounted`` or ``pushed``.

        ``sources`` are repositories of the same registry that may have it; ``progress`` is told the bytes sent, maybe
        in another thread. The caller keeps and closes ``reader``.
        """
        ...
