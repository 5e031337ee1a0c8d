"""What can go wrong with a container, as one sentence with the step, the object and the kernel's reason."""

from __future__ import annotations

import os

from portside.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class RuntimeFailure(PortsideError):
    """A container or a process in it could not be made, started or changed.

    ``step`` says what was being done ("start container web", "mount proc at /proc"), ``path`` on what (may be empty),
    ``errno`` is the kernel's answer, 0 where our own checks refused; ``reason`` replaces the kernel's text then.
    """

    def __init__(self, step: str, path: str = "", errno: int = 0, reason: str = "") -> None:
        self.step = step
        self.path = path
        self.errno = errno
        self.reason = reason or (os.strerror(errno).lower() if errno else "")
        super().__init__(": ".join(part for part in (step, path, self.reason) if part))

    @classmethod
    def of(cls, step: str, error: OSError, path: str = "") -> Self:
        """The failure of ``step`` for an error of the kernel; chain it with ``from``."""
        number = error.errno or 0
        text, kernel = error.strerror or str(error), os.strerror(number)
        call, found, rest = text.partition(f": {kernel}")
        if found:  # from ``linux.syscalls``: the call stands in front, what the kernel explained behind
            return cls(step, path or call, number, kernel.lower() + rest)
        if text != kernel:
            return cls(step, path, number, text)
        return cls(step, path or _name(error.filename), number)

    def within(self, step: str) -> RuntimeFailure:
        """The same failure seen from outside: ``step`` in front."""
        return RuntimeFailure(f"{step}: {self.step}" if self.step else step, self.path, self.errno, self.reason)


def _name(filename: object) -> str:
    return os.fsdecode(filename) if isinstance(filename, str | bytes) else ""


class Within:
    """``with Within(step):`` lets failures say during which step they happened; an OSError becomes one."""

    __slots__ = ("_step",)

    def __init__(self, step: str) -> None:
        self._step = step

    def __enter__(self) -> None:
        """There is nothing to do before."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RuntimeFailure):
            raise error.within(self._step) from error
        if isinstance(error, OSError):
            raise RuntimeFailure.of(self._step, error) from error
