"""Seeing what is in a snapshot, whatever kind it is, without leaving anything behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from portside.client.remove import quietly
from portside.core.mount import Mount
from portside.core.snapshots import Kind, Snapshotter


@asynccontextmanager
async def seen(store: Snapshotter, key: str) -> AsyncIterator[Sequence[Mount]]:
    """The mounts that show a snapshot: of a committed one those of a view, removed at the end; none for no key.

    A lease of the caller's should hold the view, in case the removal fails. NotFound.
    """
    if not key:
        yield ()
        return
    if (await store.stat(key)).kind is not Kind.COMMITTED:
        yield await store.mounts(key)
        return
    view = f"{key}-view-{os.urandom(8).hex()}"
    mounts = await store.view(view, key)
    try:
        yield mounts
    finally:
        await quietly(store.remove(view))
