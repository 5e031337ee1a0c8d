"""The synchronous face: the same objects without ``await``, each call run on the client's loop thread."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO

from portside.client.images import ImageSummary
from portside.client.list import ContainerSummary
from portside.client.log_lines import LogEntry
from portside.client.progress import ProgressCallback, ignore
from portside.client.run_options import RunOptions, Volume
from portside.client.stats import Stats
from portside.client.stop import STOP_TIMEOUT
from portside.client.streams import OutputStream
from portside.core.events import Envelope
from portside.core.images import Image
from portside.sdk.client import Client
from portside.sdk.process import ExecProcess, Input, Process
from portside.sdk.runner import LoopThread
from portside.sdk.task import Task


class SyncOutput:
    """``OutputStream`` for code without asyncio: iterate over it, or ``read`` all."""

    def __init__(self, loop: LoopThread, stream: OutputStream) -> None:
        self._loop, self._stream = loop, stream

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read_some():
            yield chunk

    def read_some(self) -> bytes:
        """What has come since the last call, waiting for something; empty at the end."""
        return self._loop.run(self._stream.read_some())

    def read(self) -> bytes:
        """Everything up to the end."""
        return self._loop.run(self._stream.read())

    def lines(self) -> Iterator[bytes]:
        """Lines without their newline."""
        return self._loop.iterate(self._stream.lines())


class SyncInput:
    """``Input`` for code without asyncio."""

    def __init__(self, loop: LoopThread, stream: Input) -> None:
        self._loop, self._stream = loop, stream

    def write(self, data: bytes | str) -> None:
        """Hand over all of it."""
        self._loop.run(self._stream.write(data))

    def close(self) -> None:
        """End of input."""
        self._loop.run(self._stream.close())


class _SyncProcess:
    """What tasks and execs have in common; see ``sdk/process.py`` for what each method does and raises."""

    def __init__(self, loop: LoopThread, process: Process) -> None:
        self._loop, self._process = loop, process

    @property
    def stdin(self) -> SyncInput:
        """Standard input."""
        return SyncInput(self._loop, self._process.stdin)

    @property
    def stdout(self) -> SyncOutput:
        """Standard output as it comes."""
        return SyncOutput(self._loop, self._process.stdout)

    @property
    def stderr(self) -> SyncOutput:
        """Standard error as it comes."""
        return SyncOutput(self._loop, self._process.stderr)

    @property
    def returncode(self) -> int | None:
        """The exit status if the end has been seen."""
        return self._process.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; TimeoutError."""
        return self._loop.run(self._process.wait(timeout))

    def output(self, *, check: bool = False) -> bytes:
        """All of standard output, once the process has ended."""
        return self._loop.run(self._process.output(check=check))

    def communicate(self, input: bytes | str | None = None) -> tuple[bytes, bytes]:
        """Write ``input``, read both outputs to their end, wait."""
        return self._loop.run(self._process.communicate(input))

    def lines(self) -> Iterator[str]:
        """Lines of standard output as text."""
        return self._loop.iterate(self._process.lines())

    def kill(self, signal: int | str = "KILL") -> None:
        """Send a signal."""
        self._loop.run(self._process.kill(signal))

    def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal how large the window is."""
        self._loop.run(self._process.resize(columns, rows))


class SyncExecProcess(_SyncProcess):
    """``ExecProcess`` for code without asyncio; leaving its ``with`` block removes it."""

    def __init__(self, loop: LoopThread, process: ExecProcess) -> None:
        super().__init__(loop, process)
        self._exec = process

    @property
    def id(self) -> str:
        """The exec's id."""
        return self._exec.id

    def remove(self) -> None:
        """Kill it if it runs and forget it."""
        self._loop.run(self._exec.remove())

    def __enter__(self) -> SyncExecProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


class SyncTask(_SyncProcess):
    """``Task`` for code without asyncio; leaving its ``with`` block stops the container and removes it."""

    def __init__(self, loop: LoopThread, task: Task, *, keep: bool = True) -> None:
        super().__init__(loop, task)
        self._task, self._keep = task, keep

    @property
    def id(self) -> str:
        """The container's id."""
        return self._task.id

    @property
    def name(self) -> str:
        """The container's name."""
        return self._task.name

    def status(self) -> str:
        """created, running, paused or exited."""
        return self._loop.run(self._task.status())

    def pid(self) -> int:
        """The number of its first process."""
        return self._loop.run(self._task.pid())

    def exec(
        self, args: Sequence[str], *, env: dict[str, str] | None = None, cwd: str = "", user: str = "",
        stdin: bool = False, tty: bool = False, privileged: bool = False,
    ) -> SyncExecProcess:  # fmt: skip
        """Start one more process; use it as a context manager, or ``remove`` it."""

        async def make() -> ExecProcess:
            return await self._task.exec(args, env=env, cwd=cwd, user=user, stdin=stdin, tty=tty, privileged=privileged)

        return SyncExecProcess(self._loop, self._loop.run(make()))

    def logs(self, *, follow: bool = False, tail: int = -1, since_ns: int = 0, until_ns: int = 0) -> Iterator[LogEntry]:
        """What it wrote."""
        return self._loop.iterate(self._task.logs(follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns))

    def start(self) -> None:
        """Start it again."""
        self._loop.run(self._task.start())

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Its stop signal, and SIGKILL after ``timeout`` seconds."""
        self._loop.run(self._task.stop(timeout))

    def pause(self) -> None:
        """Freeze all its processes."""
        self._loop.run(self._task.pause())

    def resume(self) -> None:
        """Undo ``pause``."""
        self._loop.run(self._task.resume())

    def stats(self) -> Stats:
        """What it uses now."""
        return self._loop.run(self._task.stats())

    def inspect(self) -> dict[str, Any]:
        """All there is to know."""
        return self._loop.run(self._task.inspect())

    def remove(self, force: bool = False) -> None:
        """Remove it."""
        self._loop.run(self._task.remove(force))

    def __enter__(self) -> SyncTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._task.dispose(keep=self._keep))


class SyncClient:
    """``Client`` for code without asyncio; see there for what each method does and raises."""

    def __init__(self, loop: LoopThread, client: Client) -> None:
        self._loop = loop
        self.asynchronous = client
        """The client underneath, for use on its own loop."""

    @property
    def namespace(self) -> str:
        """Its name."""
        return self.asynchronous.namespace

    def version(self) -> str:
        """The server's version."""
        return self._loop.run(self.asynchronous.version())

    def pull(
        self, reference: str, *, platform: str = "", snapshotter: str = "", unpack: bool = True,
        plain_http: bool | None = None, credentials: tuple[str, str] | None = None,
        progress: ProgressCallback = ignore,
    ) -> Image:  # fmt: skip
        """Fetch and unpack an image. ``progress`` is called on the loop's thread."""
        return self._loop.run(
            self.asynchronous.pull(
                reference, platform=platform, snapshotter=snapshotter, unpack=unpack, plain_http=plain_http,
                credentials=credentials, progress=progress,
            )
        )  # fmt: skip

    def push(
        self, image: Image | str, reference: str = "", *, platform: str = "",
        plain_http: bool | None = None, credentials: tuple[str, str] | None = None,
        progress: ProgressCallback = ignore,
    ) -> None:  # fmt: skip
        """Send an image to a registry."""
        self._loop.run(
            self.asynchronous.push(
                image, reference, platform=platform, plain_http=plain_http, credentials=credentials, progress=progress
            )
        )

    def images(self) -> list[ImageSummary]:
        """All images, by name."""
        return self._loop.run(self.asynchronous.images())

    def image(self, name: str) -> Image:
        """One image."""
        return self._loop.run(self.asynchronous.image(name))

    def import_images(
        self, source: str | os.PathLike[str] | BinaryIO, *, base_name: str = "", platform: str = "",
        snapshotter: str = "", unpack: bool = True, progress: ProgressCallback = ignore,
    ) -> list[Image]:  # fmt: skip
        """Read an archive; the images it names."""
        return self._loop.run(
            self.asynchronous.import_images(
                source, base_name=base_name, platform=platform, snapshotter=snapshotter, unpack=unpack,
                progress=progress,
            )
        )  # fmt: skip

    def export_images(
        self, images: Image | str | Sequence[Image | str], target: str | os.PathLike[str] | BinaryIO, *,
        platform: str = "", progress: ProgressCallback = ignore,
    ) -> None:  # fmt: skip
        """Write images as one archive."""
        self._loop.run(self.asynchronous.export_images(images, target, platform=platform, progress=progress))

    def tag(self, image: Image | str, name: str) -> Image:
        """Give an image one more name."""
        return self._loop.run(self.asynchronous.tag(image, name))

    def remove_image(self, image: Image | str, *, force: bool = False) -> None:
        """Remove an image's name, and what only it kept."""
        self._loop.run(self.asynchronous.remove_image(image, force=force))

    def run(
        self, image: Image | str, args: Sequence[str] = (), *,
        name: str = "", env: Mapping[str, str] | None = None, cwd: str = "", user: str = "",
        entrypoint: str | None = None, hostname: str = "", tty: bool = False, stdin: bool = False,
        detach: bool = False, keep: bool = False,
        volumes: Mapping[str, str] | Sequence[Volume] = (), tmpfs: Sequence[str] = (), network: str = "none",
        memory: int | str = 0, cpus: float = 0.0, pids: int = 0, read_only: bool = False, privileged: bool = False,
        cap_add: Sequence[str] = (), cap_drop: Sequence[str] = (), labels: Mapping[str, str] | None = None,
        seccomp: bool = True, no_new_privileges: bool = True, options: RunOptions | None = None,
    ) -> SyncTask:  # fmt: skip
        """Start a container at once; as a context manager, leaving the block stops and removes it."""
        pending = self.asynchronous.run(
            image, args, name=name, env=env, cwd=cwd, user=user, entrypoint=entrypoint, hostname=hostname, tty=tty,
            stdin=stdin, detach=detach, keep=keep, volumes=volumes, tmpfs=tmpfs, network=network, memory=memory,
            cpus=cpus, pids=pids, read_only=read_only, privileged=privileged, cap_add=cap_add, cap_drop=cap_drop,
            labels=labels, seccomp=seccomp, no_new_privileges=no_new_privileges, options=options,
        )  # fmt: skip

        async def make() -> Task:
            return await pending

        return SyncTask(self._loop, self._loop.run(make()), keep=keep)

    def get(self, name: str) -> SyncTask:
        """A container that is there; its streams are not attached."""
        return SyncTask(self._loop, self._loop.run(self.asynchronous.get(name)))

    def containers(self, *, all: bool = True) -> list[ContainerSummary]:
        """Containers, newest first."""
        return self._loop.run(self.asynchronous.containers(all=all))

    def stats(self) -> list[Stats]:
        """What every running container uses now."""
        return self._loop.run(self.asynchronous.stats())

    def inspect(self, name: str, kind: str = "") -> dict[str, Any]:
        """All about a container or an image."""
        return self._loop.run(self.asynchronous.inspect(name, kind))

    def events(self, filters: Sequence[str] = ()) -> Iterator[Envelope]:
        """What happens in this namespace from now on."""
        return self._loop.iterate(self.asynchronous.events(filters))
