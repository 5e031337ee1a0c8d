"""A container that was started, as the library shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from portside.client import freeze, inspect, logs, remove, stats, stop
from portside.client.exec import ExecOptions, exec_process, first_process
from portside.client.log_lines import LogEntry
from portside.client.lookup import name_of
from portside.client.places import Places
from portside.client.run import Attached, stream_io
from portside.client.start import start
from portside.client.stats import Stats
from portside.client.stop import STOP_TIMEOUT
from portside.core.containers import Container
from portside.core.services import Services
from portside.errors import NotFound
from portside.sdk.pending import Pending
from portside.sdk.process import ExecProcess, Process, Streams


class Task(Process):
    """A container and its first process. Made by ``run`` or ``get`` of a client."""

    def __init__(self, services: Services, places: Places, container: Container, streams: Streams | None) -> None:
        super().__init__(services, container.id, "", streams)
        self._places = places
        self.container = container
        """Its record as it was when this object was made."""

    def __repr__(self) -> str:
        return f"<portside.Task {self.name} {self.id[:12]}>"

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    @property
    def name(self) -> str:
        """The container's name."""
        return name_of(self.container)

    async def status(self) -> str:
        """created, running, paused or exited; NotFound once it has been removed."""
        container = await self._services.containers.get(self.id)
        try:
            process = await self._services.tasks.get(self.id)
        except NotFound:
            process = None
        from portside.client.list import summarize

        return summarize(container, process).state

    async def pid(self) -> int:
        """The number of its first process on the server's machine; NotFound without one."""
        return (await self._services.tasks.get(self.id)).pid

    def exec(
        self, args: Sequence[str], *, env: dict[str, str] | None = None, cwd: str = "", user: str = "",
        stdin: bool = False, tty: bool = False, privileged: bool = False,
    ) -> Pending[ExecProcess]:  # fmt: skip
        """Start one more process: ``async with task.exec(["ls"]) as process`` or ``process = await task.exec(…)``.

        Leaving the block kills it if it still runs. NotFound or FailedPrecondition if the container does not run;
        the failure of a missing program says so.
        """
        options = ExecOptions(tuple(args), _variables(env), cwd, user, tty, privileged)

        async def make(scoped: bool) -> ExecProcess:
            streams = Streams(self._places.fifo_directory, stdin=stdin, terminal=tty)
            try:
                fifos = streams.fifos
                exec_id = await exec_process(
                    self._services, self.container, options, Attached(fifos.stdin, fifos.stdout, fifos.stderr)
                )
            except BaseException:
                streams.close()
                raise
            streams.connected()
            return ExecProcess(self._services, self.id, exec_id, streams)

        async def dispose(process: ExecProcess) -> None:
            await asyncio.shield(process.remove())

        return Pending(make, dispose)

    def logs(
        self, *, follow: bool = False, tail: int = -1, since_ns: int = 0, until_ns: int = 0
    ) -> AsyncIterator[LogEntry]:
        """What it wrote, from its log. A container that removes itself and was attached has none."""
        return logs.logs(self._services, self.container, follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns)

    async def start(self) -> None:
        """Start it again after it has ended; its output goes to its log."""
        terminal = bool(first_process(self.container).get("terminal"))
        io = stream_io(self._places, self.container, terminal, None, keep_log=True)
        await start(self._services, self.container, io)
        self._exit = None

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Its stop signal, and SIGKILL after ``timeout`` seconds; returns when it has ended. Twice is fine."""
        ended = await stop.stop(self._services, self.container, timeout=timeout)
        self._exit = ended or self._exit

    async def pause(self) -> None:
        """Freeze all its processes."""
        await freeze.pause(self._services, self.container)

    async def resume(self) -> None:
        """Undo ``pause``."""
        await freeze.resume(self._services, self.container)

    async def stats(self) -> Stats:
        """What it uses now; NotFound if it does not run."""
        found = await stats.stats(self._services, [self.id])
        if not found:
            raise NotFound(f"container {self.name}: no figures, it does not run")
        return found[0]

    async def inspect(self) -> dict[str, Any]:
        """All there is to know, as a document."""
        return await inspect.inspect_container(self._services, self.id)

    async def remove(self, force: bool = False) -> None:
        """Remove it with its files and log; FailedPrecondition if it runs, unless ``force``. Twice is fine."""
        try:
            await remove.remove(self._services, self.container, force=force)
        except NotFound:
            pass
        self._close_streams()

    async def dispose(self, *, keep: bool) -> None:
        """The end of an ``async with`` block: remove it at once, with SIGKILL if need be, or stop it and keep it."""
        try:
            if keep:
                await self.stop()
            else:
                await self.remove(force=True)
        finally:
            self._close_streams()


def _variables(env: dict[str, str] | None) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in (env or {}).items())
