"""A plan of writes to control files, and the one place that carries it out.

Which values go to which files is decided by pure functions (``limits_v1``, ``limits_v2``, ``devices``); what the
kernel demands about order and what may be missing is expressed by the flags of a write.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OPTIONAL = 1
"""A kernel without the file is as good: the value is the one that such a kernel has anyway."""
PAIRED = 2
"""The kernel compares this value with the next one; if it refuses (EINVAL), the next is written first."""
EITHER = 4
"""Where the file is missing, the next write stands for this one; where it is there, the next is left out."""


class Write:
    """``value`` goes to ``file`` of the group in the hierarchy of ``controller``."""

    __slots__ = ("controller", "file", "flags", "value")

    def __init__(self, controller: str, file: str, value: object, flags: int = 0) -> None:
        self.controller = controller
        self.file = file
        self.value = str(value)
        self.flags = flags

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Write) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"Write{self._fields()!r}"

    def _fields(self) -> tuple[str, str, str, int]:
        return self.controller, self.file, self.value, self.flags


def write_file(path: str, value: str) -> None:
    """Write ``value`` in one call, as the kernel wants it; the error names the file and the value."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, f"{os.strerror(number)} (writing {value.strip()[:80]!r})", path) from None


def read_file(path: str) -> str:
    """The whole of a control file, without the newline at its end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        # Only files with a line per CPU or device outgrow one read.
        while len(data) >= 4096:
            more = os.read(fd, 65536)
            if not more:
                break
            data += more
    finally:
        os.close(fd)
    return data.decode("utf-8", "surrogateescape").rstrip("\n")


def apply_writes(writes: Sequence[Write], directory_of: Callable[[str], str]) -> None:
    """Carry the plan out, in its order; ``directory_of`` gives the group's directory for a controller.

    OSError with errno, file and value at the first that fails; earlier ones stay written.
    """
    index = 0
    while index < len(writes):
        write = writes[index]
        index += 1
        try:
            write_file(f"{directory_of(write.controller)}/{write.file}", write.value)
        except FileNotFoundError:
            if write.flags & EITHER:
                continue
            if not write.flags & OPTIONAL:
                raise
        except OSError as error:
            if not (write.flags & PAIRED and error.errno == errno.EINVAL):
                raise
            for again in (writes[index], write):
                write_file(f"{directory_of(again.controller)}/{again.file}", again.value)
            index += 1
        if write.flags & EITHER:
            index += 1
