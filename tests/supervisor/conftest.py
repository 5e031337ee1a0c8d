from __future__ import annotations

import asyncio
import functools
import inspect
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portside.core.events import Envelope
from portside.core.tasks import Exit
from portside.supervisor.supervisor import Supervisor
from portside.supervisor.task import ShimTask
from portside.wire.codec import Message, decode
from portside.wire.tables import containerd_events
from tests.support import bundles, leftovers
from tests.support.peers import SLOWNESS, need_root

NAMESPACE = "test"
DEADLINE = 20.0 * SLOWNESS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that would hang fails, so that its containers are cleaned away."""
    for item in items:
        here = Path(__file__).parent in item.path.parents
        if here and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = within_deadline(item.obj)


def within_deadline(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(2 * DEADLINE):
            await test(*args, **kwargs)

    return bounded


async def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Poll what the kernel does not tell us about."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Client:
    """The fifos of a client, as containerd's clients make them, and threads that read them to the end."""

    def __init__(self, directory: Path) -> None:
        self.io = {name: str(directory / name) for name in ("stdin", "stdout", "stderr")}
        for path in self.io.values():
            os.mkfifo(path)
        self._read = {name: _Reader(self.io[name]) for name in ("stdout", "stderr")}

    async def feed(self, data: bytes) -> None:
        """Write to standard input, and let go of it."""
        writer = os.open(self.io["stdin"], os.O_WRONLY | os.O_NONBLOCK)
        try:
            while data:
                try:
                    data = data[os.write(writer, data) :]
                except BlockingIOError:
                    await asyncio.sleep(0.002)
        finally:
            os.close(writer)

    async def output(self) -> bytes:
        return await self._read["stdout"].all()

    async def errors(self) -> bytes:
        return await self._read["stderr"].all()


class _Reader(threading.Thread):
    """Reads a fifo from its first writer to the end of its last."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)  # a test that fails must not wait for a writer that never comes
        self._path = path
        self._data = b""
        self.start()

    def run(self) -> None:
        self._data = Path(self._path).read_bytes()

    async def all(self) -> bytes:
        await eventually(lambda: not self.is_alive(), f"the end of {self._path}")
        return self._data


class Engine:
    """A supervisor on a private state that can be thrown away, as by kill -9, and started again."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.events: list[tuple[str, Message]] = []
        self.heard = asyncio.Event()
        self.cgroup = f"/portside-test-{os.getpid()}-{directory.name}"
        self.supervisor = self._supervisor()

    def _supervisor(self) -> Supervisor:
        return Supervisor(str(self.directory / "state"), str(self.directory / "root"), self._forward)

    def _forward(self, envelope: Envelope) -> None:
        assert envelope.event is not None and envelope.namespace == NAMESPACE
        name = envelope.event.type_name.rpartition(".")[2]
        self.events.append((envelope.topic, decode(getattr(containerd_events, name), envelope.event.value)))
        self.heard.set()

    async def restart(self) -> None:
        """A new owner, after the old one ended without a word."""
        await self.vanish()
        self.supervisor = self._supervisor()
        await self.supervisor.start()

    async def vanish(self) -> None:
        """What kill -9 of the daemon does: its connections break, its zygote goes; no shim is told anything."""
        await self.supervisor.close()

    def topics(self, id: str) -> list[str]:
        return [topic.removeprefix("/tasks/") for topic, event in self.events if event["container_id"] == id]

    async def heard_of(self, id: str, topic: str, count: int = 1) -> list[Message]:
        def found() -> list[Message]:
            return [event for name, event in self.events if name == f"/tasks/{topic}" and event["container_id"] == id]

        async with asyncio.timeout(DEADLINE):
            while len(found()) < count:
                self.heard.clear()
                await self.heard.wait()
        return found()

    def spec(self, *args: str, id: str = "c", **more: Any) -> bytes:
        return bundles.dump(bundles.spec(*args, cgroup=f"{self.cgroup}/{id}", **more))

    async def create(
        self, id: str, *args: str, io: dict[str, Any] | None = None, options: Any = None, **more: Any
    ) -> int:
        """A task over an overlay of its own; the pid of init."""
        fields: dict[str, Any] = {"rootfs": [bundles.overlay_mount(self.rootfs, self.directory / "snapshots" / id)]}
        fields |= io or {}
        if options is not None:
            fields["options"] = options
        spec = self.spec(*args, id=id, terminal=bool(fields.get("terminal")), **more)
        return await self.supervisor.create(NAMESPACE, id, spec, fields)

    async def run(self, id: str, *args: str, **more: Any) -> ShimTask:
        await self.create(id, *args, **more)
        task = await self.task(id)
        await task.start("")
        return task

    async def task(self, id: str) -> ShimTask:
        return await self.supervisor.task(NAMESPACE, id)

    async def remove(self, id: str) -> Exit:
        """Kill if needed, wait, delete."""
        task = await self.task(id)
        if (await task.state()).status != 3:
            await task.kill(9, "", True)
        await task.wait()
        return await self.supervisor.delete(task)

    async def exec(
        self, task: ShimTask, exec_id: str, *args: str, io: dict[str, Any] | None = None, **more: Any
    ) -> int:
        process = bundles.dump(bundles.process(*args, terminal=bool((io or {}).get("terminal")), **more))
        spec = {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/Process", "value": process}
        await task.call("Exec", {"exec_id": exec_id, "spec": spec, **(io or {})})
        return await task.start(exec_id)

    def shims(self) -> dict[int, str]:
        return leftovers.processes(f"portside-shim -namespace {NAMESPACE} ") | self.zygotes()

    def zygotes(self) -> dict[int, str]:
        pid = self.supervisor.zygote_pid
        return {pid: "zygote"} if pid and os.path.exists(f"/proc/{pid}") else {}


def remove(engine: Engine) -> None:
    """The directories that are the test's own."""
    for path in Path("/sys/fs/cgroup").glob(f"*{engine.cgroup}"):
        path.rmdir()
    shutil.rmtree(engine.directory)


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    need_root()
    if not bundles.has_busybox():
        pytest.skip("needs the program busybox")
    directory = Path(tempfile.mkdtemp(prefix="portside-rootfs-"))
    yield bundles.make_rootfs(directory)
    shutil.rmtree(directory)


@pytest.fixture
async def engine(rootfs: Path) -> AsyncIterator[Engine]:
    """Afterwards nothing may be left: no process, mount, control group, fifo, socket or directory."""
    directory = Path(tempfile.mkdtemp(prefix="ps-"))
    mounts, fds = leftovers.mounts(), len(os.listdir("/proc/self/fd"))
    engine = Engine(directory, rootfs)
    await engine.supervisor.start()
    try:
        yield engine
    finally:
        for task in await engine.supervisor.tasks(NAMESPACE):
            await engine.remove(task.id)
        await eventually(lambda: not leftovers.cgroups(engine.cgroup + "/"), "the end of all control groups")
        plugin = directory / "state/io.containerd.runtime.v2.task" / NAMESPACE
        await eventually(lambda: not plugin.exists() or not os.listdir(plugin), "the end of all bundles")
        await eventually(
            lambda: len(engine.shims()) == len(engine.zygotes()), f"the end of all shims: {engine.shims()}"
        )
        await engine.supervisor.close()
        sockets = os.listdir(directory / "state/s")
        remove(engine)
    assert not sockets and not [point for point in leftovers.mounts() - mounts if str(directory) in point]
    assert len(os.listdir("/proc/self/fd")) <= fds
