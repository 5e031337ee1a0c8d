from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from portside.core.anymessage import LINUX_RESOURCES, METRICS_V1, METRICS_V2, PROCESS, RUNC_OPTIONS, SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.tasks import Status, TaskIO
from portside.engine.tasks import TaskManager, Tasks
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from portside.wire.codec import encode
from portside.wire.tables.containerd_runc_v1 import Options
from tests.supervisor.conftest import NAMESPACE, Client, Engine, engine, rootfs  # noqa: F401
from tests.support import bundles


class Records:
    """Containers, as far as tasks ask for them."""

    def __init__(self) -> None:
        self.records: dict[str, Container] = {}

    async def get(self, id: str) -> Container:
        if id not in self.records:
            raise NotFound(f"container {id}: not found")
        return self.records[id]


class World:
    def __init__(self, engine: Engine) -> None:  # noqa: F811
        self.engine, self.records = engine, Records()
        self.manager = TaskManager(engine.supervisor, lambda namespace: self.records)  # type: ignore[arg-type,return-value]
        self.tasks: Tasks = self.manager.bind(NAMESPACE)

    def container(
        self, id: str, *args: str, runtime: str = "io.containerd.runc.v2", options: AnyMessage | None = None
    ) -> None:
        spec = AnyMessage(SPEC, self.engine.spec(*args, id=id))
        self.records.records[id] = Container(id, runtime, spec, runtime_options=options)

    def mounts(self, id: str) -> Sequence[Mount]:
        fields = bundles.overlay_mount(self.engine.rootfs, self.engine.directory / "snapshots" / id)
        return [Mount(fields["type"], fields["source"], "", tuple(fields["options"]))]

    async def run(self, id: str, *args: str, io: TaskIO | None = None) -> int:
        self.container(id, *args)
        await self.tasks.create(id, self.mounts(id), io or TaskIO())
        return await self.tasks.start(id)


@pytest.fixture
async def world(engine: Engine) -> AsyncIterator[World]:  # noqa: F811
    yield World(engine)


async def test_a_task_as_a_service(world: World, tmp_path: Path) -> None:
    client = Client(tmp_path)
    io = TaskIO(client.io["stdin"], client.io["stdout"], client.io["stderr"])
    pid = await world.run("c", "cat", io=io)
    found = await world.tasks.get("c")
    assert (found.container_id, found.pid, found.status, found.io) == ("c", pid, Status.RUNNING, io)
    assert [process.pid for process in await world.tasks.list()] == [pid]
    assert [info.pid for info in await world.tasks.pids("c")] == [pid]
    (metric,) = await world.tasks.metrics(["id==c"])
    assert metric.id == "c" and metric.data.type_name in (METRICS_V1, METRICS_V2)
    assert not await world.tasks.metrics(["id==other"])
    await world.tasks.update("c", AnyMessage(LINUX_RESOURCES, b'{"pids":{"limit":50}}'))
    await world.tasks.pause("c")
    assert (await world.tasks.get("c")).status == Status.PAUSED
    await world.tasks.resume("c")
    spec = AnyMessage(PROCESS, bundles.dump(bundles.process("sh", "-c", "exit 6")))
    await world.tasks.exec("c", "e", spec, TaskIO())
    assert (await world.tasks.get("c", "e")).status == Status.CREATED
    exec_pid = await world.tasks.start("c", "e")
    ended = await world.tasks.wait("c", "e")
    assert (ended.pid, ended.status) == (exec_pid, 6)
    assert (await world.tasks.delete("c", "e")) == ended
    await client.feed(b"x")
    await world.tasks.close_io("c")
    assert (await world.tasks.wait("c")).status == 0
    assert await client.output() == b"x"
    with pytest.raises(NotFound):
        await world.tasks.kill("c", 9)
    await world.tasks.delete("c")
    assert not await world.tasks.list()


async def test_errors_have_containerds_meanings(world: World) -> None:
    with pytest.raises(NotFound):
        await world.tasks.create("nothing", [], TaskIO())
    for call in (world.tasks.get, world.tasks.start, world.tasks.delete, world.tasks.wait, world.tasks.pause):
        with pytest.raises(NotFound):
            await call("nothing")
    world.container("foreign", "true", runtime="io.containerd.kata.v2")
    with pytest.raises(Unimplemented, match="kata"):
        await world.tasks.create("foreign", [], TaskIO())
    world.records.records["bare"] = Container("bare", "io.containerd.runc.v2")
    with pytest.raises(InvalidArgument, match="spec"):
        await world.tasks.create("bare", [], TaskIO())
    world.container("odd", "true", options=AnyMessage("some.other.Options", b"x"))
    with pytest.raises(InvalidArgument, match=r"some\.other\.Options"):
        await world.tasks.create("odd", world.mounts("odd"), TaskIO())
    await world.run("c", "sleep", "1000")
    with pytest.raises(AlreadyExists):
        await world.tasks.create("c", world.mounts("c"), TaskIO())
    with pytest.raises(FailedPrecondition):
        await world.tasks.start("c")
    with pytest.raises(FailedPrecondition):
        await world.tasks.delete("c")
    with pytest.raises(NotFound):
        await world.tasks.wait("c", "missing")
    with pytest.raises(FailedPrecondition):
        await world.tasks.resize("c", 80, 24)
    spec = AnyMessage(PROCESS, bundles.dump(bundles.process("true")))
    for odd in ("a b", "../e", "e" * 77):
        with pytest.raises(InvalidArgument):
            await world.tasks.exec("c", odd, spec, TaskIO())
    await world.tasks.kill("c", 9)
    await world.tasks.wait("c")
    with pytest.raises(FailedPrecondition):
        await world.tasks.exec("c", "e", spec, TaskIO())
    await world.tasks.delete("c")


async def test_options_of_the_container_choose_the_runtime(world: World) -> None:
    value = encode(Options, {"binary_name": "no-such-runtime"})
    world.container("c", "true", options=AnyMessage(RUNC_OPTIONS, value))
    with pytest.raises(NotFound, match="no-such-runtime"):
        await world.tasks.create("c", world.mounts("c"), TaskIO())


async def test_a_caller_that_goes_away_leaves_a_task_or_nothing(world: World) -> None:
    world.container("c", "sleep", "1000")
    creating = asyncio.create_task(world.tasks.create("c", world.mounts("c"), TaskIO()))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    for _ in range(100):
        if await world.tasks.list():
            break
        await asyncio.sleep(0.05)
    assert await world.tasks.start("c") > 0


async def test_many_waiters_share_one_answer(world: World) -> None:
    await world.run("c", "sh", "-c", "sleep 0.2; exit 3")
    waits = [asyncio.create_task(world.tasks.wait("c")) for _ in range(50)]
    await asyncio.sleep(0)
    waits[0].cancel()
    assert {ended.status for ended in await asyncio.gather(*waits[1:])} == {3}
    await world.tasks.delete("c")
