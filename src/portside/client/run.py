"""Run: create and start, with the streams that the caller wants; and what follows when it has ended."""

from __future__ import annotations

import re
from dataclasses import dataclass

from portside.client.create import create
from portside.client.labels import LOG
from portside.client.lookup import name_of
from portside.client.places import MAX_LOG, Places
from portside.client.remove import discard, quietly, remove
from portside.client.run_options import RunOptions
from portside.client.start import start
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.services import Services
from portside.core.tasks import Exit, TaskIO
from portside.errors import CommandNotExecutable, CommandNotFound, PortsideError

_MISSING = re.compile(
    r"executable file .*not found in \$PATH|\bexec:? .*no such file or directory|executable path is empty", re.I
)
_NOT_EXECUTABLE = re.compile(
    r"\b(exec:? |open executable).*(permission denied|operation not permitted|is a directory|exec format error)", re.I
)


@dataclass(frozen=True, slots=True)
class Attached:
    """Fifos that the caller has made and opened for reading; an empty one is not wanted."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A container that was started."""

    container: Container
    pid: int

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.container)


async def run(
    services: Services, places: Places, image: Image, options: RunOptions,
    *, attached: Attached | None = None, remove: bool = False,
) -> Running:  # fmt: skip
    """Create and start a container. If anything fails, nothing of it stays.

    Without ``attached`` its output goes to its log. With it, the fifos get the output; unless the container is to be
    removed when it ends (``remove``), the log gets it as well.
    """
    made = await create(services, places, image, options, remove=remove)
    io = stream_io(places, made.container, options.tty, attached, keep_log=not remove)
    try:
        pid = await start(services, made.container, io, made.rootfs)
    except BaseException as error:
        await discard(services, made.container)
        failure = command_failure(error)
        if failure is error:
            raise
        raise failure from error
    return Running(made.container, pid)


def command_failure(error: BaseException) -> BaseException:
    """What the failure of a start says of the command, if it is about that.

    By its text, as the status does not tell: containerd's shims have Unknown for every failure of a runtime, which
    clients know and ours keeps to, and NotFound would be said of a missing mount, snapshot or task just as well.
    """
    if isinstance(error, PortsideError):
        text = str(error)
        if _MISSING.search(text):
            return CommandNotFound(text)
        if _NOT_EXECUTABLE.search(text):
            return CommandNotExecutable(text)
    return error


def stream_io(
    places: Places, container: Container, terminal: bool, attached: Attached | None, *, keep_log: bool
) -> TaskIO:
    """Where the streams go: fifos, the log, or the log with a live copy into the fifos."""
    path = container.labels.get(LOG, "")
    if attached is None:
        if not path:  # made by another client, who keeps no log
            return TaskIO("", "", "", terminal)
        uri = places.log_uri(path, max_size=MAX_LOG)
        return TaskIO("", uri, "" if terminal else uri, terminal)
    if not keep_log or not path or not places.lines:
        return TaskIO(attached.stdin, attached.stdout, "" if terminal else attached.stderr, terminal)
    stdout = places.log_uri(path, max_size=MAX_LOG, stdout=attached.stdout)
    stderr = "" if terminal else places.log_uri(path, max_size=MAX_LOG, stderr=attached.stderr)
    return TaskIO(attached.stdin, stdout, stderr, terminal)


async def finish(services: Services, container: Container, *, remove_container: bool) -> Exit:
    """Wait for the end; then remove the container if it was to go. The exit of its first process."""
    ended = await services.tasks.wait(container.id)
    if remove_container:
        await quietly(remove(services, container))
    return ended
