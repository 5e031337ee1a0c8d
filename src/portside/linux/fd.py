"""Descriptors with an owner.

What belongs here: ownership, and making a pair of ends. What does not: what is behind a descriptor.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

#: open(2) flags for a handle on a place in the tree that can be neither read nor written.
O_PATH = os.O_PATH | os.O_CLOEXEC


class OwnedFd:
    """One open descriptor with one owner, who closes it; the number is -1 once it is closed or given away.

    Use it as a context manager, or call :meth:`close` (harmless when repeated). :meth:`detach` hands the number to
    another owner. A recycled number is never used: :meth:`fileno` of a closed one raises ``ValueError``.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def closed(self) -> bool:
        """Whether it has been closed or given away."""
        return self._number < 0

    def fileno(self) -> int:
        """The number, still owned by this object."""
        if self._number < 0:
            raise ValueError("the descriptor is closed")
        return self._number

    def detach(self) -> int:
        """Give the number away: the caller closes it from now on."""
        number = self.fileno()
        self._number = -1
        return number

    def duplicate(self) -> OwnedFd:
        """A second descriptor (close-on-exec) for the same open file."""
        return OwnedFd(fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))

    def close(self) -> None:
        """Close it; a second call does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._number})"


def pipe() -> tuple[OwnedFd, OwnedFd]:
    """The reading and the writing end of a new pipe, both close-on-exec, both the caller's."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return OwnedFd(reader), OwnedFd(writer)
