"""One at a time for each key: two pulls in one process never fetch a blob or unpack a layer twice.

Only an economy. That two processes get along is the stores' doing: a ref has one writer, a name one owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Flights:
    """Locks by key, forgotten when nobody holds or wants them. Belongs to one event loop.

    The waiter looks again for what it wanted once it has the lock: the one before it has usually made it, and if
    that one failed or was cancelled, the waiter does the work itself.
    """

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def one(self, key: str) -> AsyncIterator[None]:
        """Hold ``key``."""
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


def first_error(group: BaseExceptionGroup) -> BaseException:
    """The first failure of a task group, which is what the caller asked about; the rest followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
