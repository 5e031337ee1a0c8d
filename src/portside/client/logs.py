"""Logs: what a container wrote, from its log file, and what it goes on to write.

The file is the shim's (``shim/logfile.py``): it is rotated by a rename to ``….1`` and a new file, so a reader who has
the old one open reads it to its end and goes on with the new one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

from portside.client.labels import LOG, LOG_FORMAT
from portside.client.log_lines import LogEntry, parse_line
from portside.core.containers import Container
from portside.core.services import Services
from portside.core.tasks import Status
from portside.core.work import in_thread
from portside.errors import FailedPrecondition, PortsideError, from_oserror

POLL_SECONDS = 0.1
"""Between two looks at a log that is followed."""
CHUNK = 256 << 10
MAX_LINE = 1 << 20
"""A log line is at most some 16 KiB; more than this without a newline is not a log of ours, and is left out."""


async def logs(
    services: Services, container: Container, *,
    follow: bool = False, tail: int = -1, since_ns: int = 0, until_ns: int = 0,
) -> AsyncIterator[LogEntry]:  # fmt: skip
    """Entries in order: the last ``tail`` (negative: all) between the two times; with ``follow`` until it has ended.

    FailedPrecondition for a container that was made elsewhere and has no log of ours.
    """
    path = container.labels.get(LOG, "")
    if not path:
        raise FailedPrecondition(f"container {container.id[:12]}: it was not made by portside and has no log")
    reader = _LogReader(path, raw=container.labels.get(LOG_FORMAT) == "raw")
    wanted = _Wanted(since_ns, until_ns)
    try:
        # Asked before the look at the file: what is there once it has ended is all there will be.
        ended = not follow or await _has_ended(services, container)
        kept: deque[LogEntry] = deque(maxlen=max(tail, 0))
        while batch := await in_thread(reader.read):
            for entry in wanted.among(batch):
                if tail < 0:
                    yield entry
                else:
                    kept.append(entry)
        for entry in kept:
            yield entry
        while not ended and not wanted.is_over:
            ended = await _has_ended(services, container)
            batch = await in_thread(reader.read)
            for entry in wanted.among(batch):
                yield entry
            if not batch and not ended:
                await asyncio.sleep(POLL_SECONDS)
            ended = ended and not batch
        for entry in wanted.among(reader.rest()):
            yield entry
    finally:
        # In turn after a read that is still under way: a cancelled caller leaves that behind.
        await in_thread(reader.close)


async def _has_ended(services: Services, container: Container) -> bool:
    try:
        return (await services.tasks.get(container.id)).status is Status.STOPPED
    except PortsideError:
        return True


class _Wanted:
    """Which entries the caller asked for, by time; those of a file without times all."""

    def __init__(self, since_ns: int, until_ns: int) -> None:
        self._since_ns, self._until_ns = since_ns, until_ns
        self.is_over = False
        """Whether an entry came that is newer than what is wanted."""

    def among(self, entries: Sequence[LogEntry]) -> Iterator[LogEntry]:
        for entry in entries:
            if self._until_ns and entry.time_ns > self._until_ns:
                self.is_over = True
            elif not entry.time_ns or entry.time_ns >= self._since_ns:
                yield entry


class _LogReader:
    """A log file, read by name: starts with the rotated one, goes on with whatever carries the name.

    Blocking; one thread at a time has it.
    """

    def __init__(self, path: str, raw: bool) -> None:
        self._path, self._raw = path, raw
        self._lock = threading.Lock()
        self._closed = False
        self._fd = -1
        self._rest = b""
        self._started = raw

    def read(self) -> list[LogEntry]:
        """The next entries, up to ``CHUNK`` bytes of them; none if there are no more for now, or once it is closed."""
        with self._lock:
            return [] if self._closed else self._read()

    def _read(self) -> list[LogEntry]:
        if not self._started:
            self._started = True
            self._open(f"{self._path}.1")
        while True:
            data = os.read(self._fd, CHUNK) if self._fd >= 0 else b""
            if data:
                entries = self._parse(data)
                if entries:
                    return entries
            elif not self._next():
                return []

    def rest(self) -> list[LogEntry]:
        """The line without an end, once nobody writes any more."""
        line, self._rest = self._rest, b""
        entry = parse_line(line) if line else None
        return [entry] if entry is not None else []

    def close(self) -> None:
        """Close the file, once nobody reads it."""
        with self._lock:
            self._closed = True
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self, path: str) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise from_oserror(error, f"open log {path}") from error
        self._close()
        self._fd = fd
        return True

    def _next(self) -> bool:
        """Go on to the file that has the name now, if that is another one than is open; what is open is at its end."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._fd >= 0:
            current = os.fstat(self._fd)
            if (current.st_dev, current.st_ino) == (named.st_dev, named.st_ino):
                return False
        return self._open(self._path)

    def _parse(self, data: bytes) -> list[LogEntry]:
        if self._raw:
            return [LogEntry(0, "stdout", piece) for piece in data.splitlines(keepends=True)]
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest = b""
        return [entry for line in lines if (entry := parse_line(line)) is not None]
