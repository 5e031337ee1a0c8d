"""What ``c.run(...)`` and ``task.exec(...)`` return: awaited it gives the object, entered it also cleans up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """Nothing happens before it is awaited or entered; do one of the two, once.

    ``make`` is told which it was (True: entered).
    """

    def __init__(self, make: Callable[[bool], Awaitable[T]], dispose: Callable[[T], Awaitable[None]]) -> None:
        self._make, self._dispose = make, dispose
        self._made: list[T] = []

    def __await__(self) -> Generator[Any, Any, T]:
        return self._make(False).__await__()

    async def __aenter__(self) -> T:
        made = await self._make(True)
        self._made.append(made)
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._dispose(self._made.pop())
