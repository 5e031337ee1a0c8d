"""A process of a container with our streams, on an event loop: what ``run``, ``exec`` and ``attach`` share."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from portside.cli.attach import CHUNK, FORWARDED, GRACE, Outputs, Terminal, window_size
from portside.client.fifos import Fifos, fifo_directory
from portside.client.remove import quietly
from portside.core.services import Services
from portside.core.tasks import Exit, TaskIO
from portside.errors import FailedPrecondition


async def in_foreground(
    services: Services, id: str, exec_id: str, terminal: bool, begin: Callable[[TaskIO], Awaitable[object]],
    fifo_base: str = "",
) -> Exit:  # fmt: skip
    """``begin`` creates and starts the process with the streams that it is given; returns when it has ended.

    The fifos are below ``fifo_base``, by default where ours are. BrokenPipeError if nobody reads our output any more:
    as ctr, which SIGPIPE ends, we leave the process running then, and the caller ends it where it is ours to end.
    """
    fifos = Fifos(fifo_base or fifo_directory(), stdin=True, terminal=terminal)
    outputs = None
    try:
        outputs = Outputs(fifos)
        await begin(TaskIO(fifos.stdin, fifos.stdout, fifos.stderr, terminal))
        return await _follow(services, id, exec_id, fifos.stdin, outputs, terminal)
    finally:
        if outputs is not None:
            outputs.close()
        fifos.remove()


def _check_fifos(id: str, io: TaskIO) -> None:
    for path in (io.stdin, io.stdout, io.stderr):
        if path and not (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)):
            raise FailedPrecondition(f"task {id}: its stream {path[:200]} is not a fifo that can be attached to")


class _Existing:
    """The fifos that a task has already, as ``Outputs`` wants them."""

    def __init__(self, io: TaskIO) -> None:
        self.stdin, self.stdout, self.stderr = io.stdin, io.stdout, "" if io.terminal else io.stderr


async def attached(services: Services, id: str, io: TaskIO) -> Exit:
    """Stay with the first process of task ``id``, whose streams are ``io``; FailedPrecondition if they are no fifos."""
    _check_fifos(id, io)
    outputs = Outputs(_Existing(io))  # type: ignore[arg-type]
    try:
        return await _follow(services, id, "", io.stdin, outputs, io.terminal)
    finally:
        outputs.close()


async def unseen(services: Services, id: str, exec_id: str = "") -> Exit:
    """Stay with a process whose streams are not ours, and hand signals on to it."""
    return await _follow(services, id, exec_id, "", Outputs(_Existing(TaskIO())), terminal=False)  # type: ignore[arg-type]


async def _follow(services: Services, id: str, exec_id: str, stdin: str, outputs: Outputs, terminal: bool) -> Exit:
    raw = Terminal(0) if terminal and os.isatty(0) else None
    try:
        streams = _Streams(services, id, exec_id, stdin, outputs)
        streams.start(terminal)
        waiting = asyncio.ensure_future(services.tasks.wait(id, exec_id))
        try:
            await asyncio.wait((waiting, streams.unheard), return_when=asyncio.FIRST_COMPLETED)
            if not streams.unheard.done():
                return await waiting
        finally:
            waiting.cancel()
            await streams.finish()
        raise BrokenPipeError("nobody reads the output")
    finally:
        if raw is not None:
            raw.close()


class _Streams:
    """Copies between the fifos and our own descriptors, and hands on signals and window sizes."""

    def __init__(self, services: Services, id: str, exec_id: str, stdin: str, outputs: Outputs) -> None:
        self._services, self._id, self._exec_id = services, id, exec_id
        self._stdin, self._outputs = stdin, outputs
        self._loop = asyncio.get_running_loop()
        self.unheard: asyncio.Future[None] = self._loop.create_future()
        """Done when nobody reads our output any more."""
        self._closed = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()

    def start(self, terminal: bool) -> None:
        """Begin to copy. Our input is read by a thread that dies with us: a read of it cannot be taken back."""
        for fd in self._outputs.targets:
            self._loop.add_reader(fd, self._output, fd)
        if not self._outputs.targets:
            self._closed.set()
        if self._stdin:
            threading.Thread(target=self._input, daemon=True).start()
        for number in FORWARDED:
            self._loop.add_signal_handler(number, self._signal, number)
        if terminal:
            self._resize()
            self._loop.add_signal_handler(signal.SIGWINCH, self._resize)

    async def finish(self) -> None:
        """The process has ended: wait for the rest of its output."""
        try:
            await asyncio.wait_for(self._closed.wait(), GRACE)
        except TimeoutError:
            pass
        for fd in self._outputs.targets:
            self._loop.remove_reader(fd)
        for number in (*FORWARDED, signal.SIGWINCH):
            self._loop.remove_signal_handler(number)

    def _output(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if not data:
            self._close(fd)
            return
        try:
            while data:
                data = data[os.write(self._outputs.targets[fd], data) :]
        except BrokenPipeError:
            for each in tuple(self._outputs.targets):
                self._close(each)
            self.unheard.set_result(None)

    def _close(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._outputs.close(fd)
        if not self._outputs.targets:
            self._closed.set()

    def _input(self) -> None:
        try:
            fd = os.open(self._stdin, os.O_WRONLY | os.O_CLOEXEC)
            while data := os.read(0, CHUNK):
                while data:
                    data = data[os.write(fd, data) :]
            os.close(fd)
        except OSError:
            return  # the process has closed its input, or has ended
        self._loop.call_soon_threadsafe(self._ask, self._services.tasks.close_io(self._id, self._exec_id))

    def _signal(self, number: int) -> None:
        self._ask(self._services.tasks.kill(self._id, number, self._exec_id))

    def _resize(self) -> None:
        width, height = window_size()
        if width:
            self._ask(self._services.tasks.resize(self._id, width, height, self._exec_id))

    def _ask(self, call: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(quietly(call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


async def copy_out(outputs: dict[int, int]) -> None:
    """What comes from each of these fifos to the descriptor beside it, until their writers are gone.

    The caller closes them.
    """
    loop = asyncio.get_running_loop()
    open_now = set(outputs)
    ended = asyncio.Event()

    def read(fd: int) -> None:
        data = os.read(fd, CHUNK)
        if data:
            os.write(outputs[fd], data)
            return
        loop.remove_reader(fd)
        open_now.discard(fd)
        if not open_now:
            ended.set()

    for fd in outputs:
        loop.add_reader(fd, read, fd)
    if outputs:
        await ended.wait()
