"""Programs of others that the engine runs for one answer: started with the descriptors they get and no others, and
gone with all that they started when we have done with them.

Each leads a session of its own. When it ends, whatever it has left in its process group is killed, so that a child
that keeps a pipe open holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from portside.errors import from_oserror

KEPT = 1 << 15
"""Bytes of a program's output that are kept; what is more is read and thrown away."""
_CHUNK = 1 << 16
_DEFAULTS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Program:
    """A running program, which ``end`` ends."""

    def __init__(self, what: str, pid: int, pidfd: int) -> None:
        self.what, self.pid, self._pidfd = what, pid, pidfd
        self._status: int | None = None
        self._waiting: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        """The exit status, negative for a signal. May be called again, and cancelled."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._wait(), name=f"wait for {self.what}")
        return await asyncio.shield(self._waiting)

    async def end(self) -> None:
        """Kill what still runs, and reap it."""
        if self._status is None:
            self._kill()
        await self.wait()

    async def _wait(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        self._kill()  # its children: until we reap it, nobody else can have its group's number
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])  # noqa: ASYNC222 - it has ended
        os.close(self._pidfd)
        return self._status

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def start(what: str, argv: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]) -> Program:
    """Run ``argv`` (a bare name is looked up in PATH) with ``descriptors``, by the numbers that it sees.

    NotFound, PermissionDenied and the like, naming ``what``. Descriptors stay the caller's. On the event loop: posix
    spawn is vfork(2) and exec, which take no time that depends on our size.
    """
    # Numbers that are wanted may be those of descriptors that are given: all go out of the way first.
    moved: dict[int, int] = {}
    try:
        for number, fd in descriptors.items():
            moved[number] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(descriptors) + 1)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in moved.items()]
        signals: dict[str, Any] = {"setsigmask": (), "setsigdef": _DEFAULTS}
        pid = os.posix_spawnp(argv[0], list(argv), dict(environment), file_actions=actions, setsid=True, **signals)
    except OSError as error:
        raise from_oserror(error, f"start {what} ({argv[0]})") from error
    finally:
        for fd in moved.values():
            os.close(fd)
    try:
        return Program(what, pid, os.pidfd_open(pid))
    except OSError as error:  # no descriptor is free, and without one nobody would wait for it
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise from_oserror(error, f"start {what} ({argv[0]})") from error


async def read_all(fd: int, limit: int = KEPT) -> bytes:
    """What comes out of the pipe ``fd``, which is closed at the end: ``limit`` bytes and one more if there are."""
    reader = asyncio.StreamReader(_CHUNK)
    kept = b""
    with os.fdopen(fd, "rb", 0) as file:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        try:
            while data := await reader.read(_CHUNK):
                kept += data[: limit + 1 - len(kept)]
        finally:
            transport.close()
    return kept


async def write_all(fd: int, data: bytes) -> None:
    """Write ``data`` to the pipe ``fd``, which is closed at the end; a reader who goes away early is no error."""
    try:
        with contextlib.suppress(BrokenPipeError):
            await write(fd, data)
    finally:
        os.close(fd)


async def write(fd: int, data: bytes) -> None:
    """Write all of ``data`` to the pipe ``fd``, waiting for its reader; BrokenPipeError if there is none any more."""
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _writable(fd)


async def _writable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def words(text: bytes, limit: int = KEPT) -> str:
    """Output of a program, for people: without control characters, and saying so if it was cut."""
    shown = "".join(c if c.isprintable() else " " for c in text[:limit].decode("utf-8", "replace")).strip()
    return shown + (" (cut)" if len(text) > limit else "")
