"""The one way for blocking work to leave the event loop: a bounded pool of threads.

A blocking call on the loop stalls every client. System calls that may wait for a disk (fsync, umount, a rename of a
large tree) go through ``in_thread``; work on archives goes to worker processes (``layers/``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

MAX_THREADS = 8
_pool: ThreadPoolExecutor | None = None


async def in_thread(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run ``function`` in the pool. Cancelling the caller does not stop it: it must be short or bounded by itself."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="portside-blocking")
    return await asyncio.get_running_loop().run_in_executor(_pool, lambda: function(*args, **kwargs))
