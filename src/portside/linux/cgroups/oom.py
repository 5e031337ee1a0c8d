"""Being told that the kernel killed a process of a group because its memory ran out.

Version 1 signals an eventfd that is registered with the group; version 2 marks ``memory.events`` as changed. Either
way there is one descriptor to wait for, and a counter to compare.
Sources: kernel admin-guide/cgroup-v1/memory, *OOM Control*; admin-guide/cgroup-v2, *memory.events*.
"""

from __future__ import annotations

import errno
import os
import select


class OomWatch:
    """Open until ``close``. Wait with epoll or poll for ``events`` on ``fileno()``, then call ``kills``."""

    events: int
    """What to wait for: EPOLLIN or EPOLLPRI. Once the group is removed the descriptor stays ready: close it then."""

    gone = False
    """Set by ``kills`` when the group no longer exists."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = 0

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed."""
        return self._fd

    def kills(self) -> int:
        """How many processes were killed since the last call (or since this was opened); also without an event."""
        try:
            count = self._count()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            self.gone = True
            return 0
        new, self._seen = count - self._seen, count
        return new

    def close(self) -> None:
        """Release the descriptors; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _count(self) -> int:
        raise NotImplementedError


class OomWatchV2(OomWatch):
    """On ``memory.events``; kills in groups below count."""

    events = select.EPOLLPRI

    def __init__(self, directory: str) -> None:
        super().__init__(os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC))
        self._seen = self._count()

    def _count(self) -> int:
        return _counter(os.pread(self._fd, 1024, 0), b"oom_kill")


class OomWatchV1(OomWatch):
    """On an eventfd; the counter is that of Linux 4.13 and newer. Groups below signal too but count for themselves."""

    events = select.EPOLLIN

    def __init__(self, directory: str) -> None:
        self._control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            super().__init__(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            control = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(control, f"{self._fd} {self._control}".encode())
            finally:
                os.close(control)
            self._directory = directory
            self._seen = self._count()
        except BaseException:
            self.close()
            raise

    def _count(self) -> int:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        if not os.path.exists(self._directory):
            # The kernel signals the removal too; an open file of the group may still be read for a while.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._directory)
        return _counter(os.pread(self._control, 1024, 0), b"oom_kill")

    def close(self) -> None:
        """See ``OomWatch.close``."""
        super().close()
        control, self._control = self._control, -1
        if control >= 0:
            os.close(control)


def _counter(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
