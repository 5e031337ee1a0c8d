"""What a worker leaves behind when it goes to sleep, and what the next one begins with (``keeper.py``).

Objects turn themselves into plain values by ``freeze(ice)`` and back by ``thaw(ice, values)``; descriptors go by their
place in a list, since the next worker has them under other numbers. ``NotQuiet`` says that something is going on.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]


class NotQuiet(Exception):
    """There is something that cannot be put to sleep now."""


class Freezing:
    """Takes descriptors; those to be watched wake the next worker."""

    __slots__ = ("fds", "peers", "watched")

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.watched = bytearray()
        self.peers: dict[int, int] = {}
        """Connections (by ``id``) and their places, for calls that wait."""

    def put(self, fd: int, watch: int = 0) -> int:
        """The place of ``fd``, to be watched for ``watch`` (POLLIN, POLLPRI); -1 for -1."""
        if fd < 0:
            return -1
        self.fds.append(fd)
        self.watched.append(watch)
        return len(self.fds) - 1


class Thawing:
    """Gives descriptors, each once: it is the taker's."""

    __slots__ = ("_fds", "peers")

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds
        self.peers: list[Any] = []
        """Connections, by their places."""

    def take(self, place: int) -> int:
        """The descriptor at ``place``; -1 for -1."""
        return self._fds[place] if place >= 0 else -1
