"""Locks by key, for the many things of which only one with the same name may be worked on at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLocks(Generic[K]):
    """One lock for each key, forgotten when nobody holds or wants it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._locks: dict[K, tuple[asyncio.Lock, int]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether somebody holds it or waits for it."""
        return key in self._locks

    @asynccontextmanager
    async def one(self, key: K) -> AsyncIterator[None]:
        """Hold ``key``; who wants it meanwhile waits, in order."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
