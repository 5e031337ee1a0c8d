"""What the daemon is doing, as text: its tasks and what each waits for, its threads, its peers and their calls.

Over HTTP on a socket for root alone (``[debug] address``): ``/debug/tasks``, ``/debug/stacks``, ``/debug/vars``; and on
SIGUSR1 to the log, nowhere else: a file of a dump in a directory that others can write to was an attack on containerd.
Names of objects and places in our code are shown, never values of variables: those may be credentials.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any, TextIO

from portside.daemon.http import Answer, Page, Request, text_answer
from portside.engine.engine import LocalBackend
from portside.version import __version__
from portside.wire.grpc.server import GrpcServer

log = logging.getLogger(__name__)

MAX_FRAMES = 40
MAX_STACKS = 2000
"""Different stacks of tasks that are shown; tasks with the same one are shown together."""
MAX_NAMES = 20


class Debug:
    """Knows a server and an engine. ``pages`` are for an ``HttpServer``, ``listen_to_signal`` for a process of ours."""

    def __init__(self, server: GrpcServer, backend: LocalBackend) -> None:
        self._server, self._backend = server, backend
        self._since = time.time()
        self._dumping: asyncio.Task[None] | None = None

    def pages(self) -> dict[str, Page]:
        """By path."""

        async def index(request: Request) -> Answer:
            return text_answer("/debug/tasks\n/debug/stacks\n/debug/vars\n")

        async def tasks(request: Request) -> Answer:
            return text_answer(tasks_text())

        async def stacks(request: Request) -> Answer:
            return text_answer(stacks_text())

        async def variables(request: Request) -> Answer:
            text = json.dumps(await self.variables(), indent=2, default=str) + "\n"
            return Answer([text.encode()], "application/json; charset=utf-8")

        return {"/debug": index, "/debug/tasks": tasks, "/debug/stacks": stacks, "/debug/vars": variables}

    async def variables(self) -> dict[str, Any]:
        """Figures of the process, the server and the engine, as JSON has them."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "version": __version__,
            "python": sys.version,
            "pid": os.getpid(),
            "started": self._since,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "max_rss_kilobytes": usage.ru_maxrss,
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
            "threads": [thread.name for thread in threading.enumerate()],
            "asyncio_tasks": len(asyncio.all_tasks()),
            "python_gc": gc.get_stats(),
            "grpc": {
                **self._server.statistics(),
                "peers": self._server.peers(),
                "calls": dict(Counter(task.get_name() for task in self._server.tasks)),
            },
            "engine": await self._backend.statistics(),
        }

    def listen_to_signal(self, number: int = signal.SIGUSR1, file: TextIO = sys.stderr) -> None:
        """Dump to the log on ``number``; thread stacks go to ``file`` even while the loop is stuck."""
        asyncio.get_running_loop().add_signal_handler(number, self._dump_soon)
        # In C, before the loop's own handler: it needs neither the loop nor the interpreter's lock.
        faulthandler.register(number, file=file, all_threads=True, chain=True)

    def _dump_soon(self) -> None:
        if self._dumping is None or self._dumping.done():
            self._dumping = asyncio.get_running_loop().create_task(self.dump(), name="dump")

    async def dump(self) -> None:
        """Everything to the log, a paragraph each."""
        log.info("dump begins: %s", json.dumps(await self.variables(), default=str))
        for paragraph in tasks_text().split("\n\n"):
            log.info("tasks: %s", paragraph)
        log.info("dump ends")


def tasks_text() -> str:
    """All tasks of the running loop, those that wait for the same thing in the same place together."""
    groups: dict[str, list[str]] = {}
    for task in asyncio.all_tasks():
        groups.setdefault("\n".join(_task_stack(task)), []).append(task.get_name())
    total = sum(map(len, groups.values()))
    paragraphs = [f"{total} tasks, {len(groups)} different stacks"]
    for stack, names in sorted(groups.items(), key=lambda group: -len(group[1]))[:MAX_STACKS]:
        shown = ", ".join(sorted(names)[:MAX_NAMES])
        more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        paragraphs.append(f"{len(names)} task{'s' if len(names) > 1 else ''}: {shown}{more}\n{stack}")
    return "\n\n".join(paragraphs) + "\n"


def stacks_text() -> str:
    """All threads with their stacks, innermost last, as tracebacks have them."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    paragraphs = []
    for ident, frame in sys._current_frames().items():
        lines = [f"thread {names.get(ident, 'unknown')} ({ident})"]
        for entry in traceback.extract_stack(frame, MAX_FRAMES):
            lines.append(f"  {entry.filename}:{entry.lineno} in {entry.name}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def _task_stack(task: asyncio.Task[Any]) -> list[str]:
    """Where a task is, outermost first: ``Task.get_stack`` shows only the outermost of coroutines that wait."""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(lines) < MAX_FRAMES:
        frame: FrameType | None = None
        if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
            # It has no attribute that says of which generator.
            generators = [found for found in gc.get_referents(awaited) if isinstance(found, AsyncGeneratorType)]
            awaited = generators[0] if generators else awaited
        if isinstance(awaited, CoroutineType):
            frame, following = awaited.cr_frame, awaited.cr_await
        elif hasattr(awaited, "ag_frame"):
            frame, following = awaited.ag_frame, awaited.ag_await
        elif hasattr(awaited, "gi_frame"):
            frame, following = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            lines.append(f"  waits for {type(awaited).__name__}")
            break
        if frame is not None:
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        awaited = following
    return lines
