"""A committed blob, open for reading."""

from __future__ import annotations

import contextlib
import os
import threading

from portside.core.work import in_thread
from portside.errors import FailedPrecondition, from_oserror

QUICK_READ = 1 << 20
"""A read up to this size is tried without leaving the event loop, if the page cache has it."""


class Reader:
    """``core.content.ContentReader`` over a descriptor, which it owns."""

    def __init__(self, descriptor: int, size: int, what: str) -> None:
        self.size = size
        self._descriptor, self._what = descriptor, what
        self._guard = threading.Lock()
        self._users, self._closing = 0, False

    def fileno(self) -> int:
        """-1 once closed."""
        return -1 if self._closing else self._descriptor

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end. OutOfRange is not an error here: beyond the end is empty, too."""
        size = max(0, min(size, self.size - offset))
        if not size or offset < 0:
            return b""
        if size <= QUICK_READ and not self._closing:
            buffer = bytearray(size)
            with contextlib.suppress(OSError):
                count = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
                if count == size:
                    return bytes(buffer)
        return await in_thread(self._read, offset, size)

    async def close(self) -> None:
        """Release the descriptor, once no thread reads from it."""
        with self._guard:
            self._closing = True
            self._close_unused()

    def _read(self, offset: int, size: int) -> bytes:
        with self._guard:
            if self._closing:
                raise FailedPrecondition(f"read {self._what}: closed")
            self._users += 1
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise from_oserror(error, f"read {self._what}") from error
        finally:
            with self._guard:
                self._users -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        if self._closing and not self._users and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
