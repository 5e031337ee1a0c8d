"""The sandbox controller ``shim``: lives and ends of sandboxes, here and over gRPC, across restarts and accidents."""

import asyncio
import json
import os
import secrets
import signal
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from portside.api.containerd.methods import containerd_methods
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.sandboxes import NOT_READY, READY, Sandbox
from portside.core.tasks import TaskIO
from portside.engine.engine import EngineConfig, LocalBackend
from portside.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PortsideError,
    Unimplemented,
)
from portside.remote.backend import RemoteBackend
from portside.shim.record import start_time
from portside.supervisor.connection import ShimConnection
from portside.supervisor.sandbox import SERVICE, ShimSandbox
from portside.wire.codec import decode, encode
from portside.wire.grpc.server import GrpcServer
from portside.wire.tables import containerd_events
from portside.wire.tables.containerd_runtime_sandbox_v1 import SERVICES
from portside.wire.ttrpc.client import TtrpcClient
from tests.support import bundles
from tests.support.images import BUSYBOX
from tests.support.peers import SLOWNESS, need_root

DEADLINE = 20 * SLOWNESS
POD = Sandbox("pod", "io.containerd.runc.v2", spec=AnyMessage(SPEC, b'{"ociVersion": "1.0.2"}'), sandboxer="shim")


class Events:
    """Those of sandboxes, as they come."""

    def __init__(self, services):
        self.seen = []
        self._subscription = services.events.subscribe(['topic~="/sandboxes/"'])
        self._task = asyncio.create_task(self._listen())

    async def _listen(self):
        async for envelope in self._subscription:
            table = getattr(containerd_events, envelope.event.type_name.rpartition(".")[2])
            self.seen.append((envelope.topic, dict(decode(table, envelope.event.value))))

    async def until(self, count):
        async with asyncio.timeout(DEADLINE):
            while len(self.seen) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return [topic.removeprefix("/sandboxes/") for topic, _ in self.seen]

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
def config():
    need_root()
    with tempfile.TemporaryDirectory(prefix="portside") as place:
        yield EngineConfig(Path(place, "root"), Path(place, "state"))


@asynccontextmanager
async def opened(config):
    backend = await LocalBackend.open(config)
    try:
        yield backend
    finally:
        controller = backend.bind("default").sandbox_controller("shim")
        for id in ("pod", "other"):
            try:
                await controller.stop(id)
                await controller.shutdown(id)
            except PortsideError:
                pass
        await backend.close()


@pytest.fixture(params=["local", "gRPC"])
async def backend(request, config):
    async with asyncio.timeout(2 * DEADLINE), opened(config) as local:
        if request.param == "local":
            yield local
            return
        server = GrpcServer(containerd_methods(local))
        await server.listen_unix(str(config.root / "socket"))
        async with await RemoteBackend.connect(str(config.root / "socket")) as remote:
            yield remote
        await server.drain(5)


@pytest.fixture
def controller(backend):
    return backend.bind("default").sandbox_controller("shim")


def left(config):
    """Bundles and sockets of shims."""
    found = [*(config.state / "io.containerd.sandbox.controller.v1.shim").glob("*/*"), *(config.state / "s").iterdir()]
    return [str(path) for path in found]


def has_worker(pid):
    """Whether a shim is awake."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


async def test_a_life(backend, controller, config):
    events = Events(backend.bind("default"))
    await asyncio.sleep(0)
    if isinstance(backend, RemoteBackend):
        await backend.namespaces.list()  # The subscription is under way.
    await controller.create(POD)
    with pytest.raises(AlreadyExists):
        await controller.create(POD)
    status = await controller.status("pod")
    assert (status.id, status.state, status.exited_ns, dict(status.info)) == ("pod", NOT_READY, 0, {})
    instance = await controller.start("pod")
    assert (instance.id, start_time(instance.pid) > 0, instance.created_ns > 0) == ("pod", True, True)
    assert instance.address.startswith("ttrpc+unix:///") and instance.version == 3
    with pytest.raises(FailedPrecondition):
        await controller.start("pod")
    status = await controller.status("pod", verbose=True)
    assert (status.state, status.pid, status.address) == (READY, instance.pid, instance.address)
    assert status.info["bundle"].endswith("/default/pod")
    assert (await controller.platform("pod")).os == "linux"
    metric = await controller.metrics("pod")
    assert (metric.id, metric.timestamp_ns > 0) == ("pod", True)
    await controller.update("pod", POD, ["labels"])
    waiting = asyncio.ensure_future(controller.wait("pod"))
    await controller.stop("pod", 5)
    ended = await waiting
    assert (ended.status, ended.exited_ns > 0) == (0, True)
    assert await controller.wait("pod") == ended
    status = await controller.status("pod")
    assert (status.state, status.exited_ns) == (NOT_READY, ended.exited_ns)
    await controller.stop("pod")
    await controller.shutdown("pod")
    assert not start_time(instance.pid)
    assert left(config) == []
    assert await events.until(3) == ["create", "start", "exit"]
    assert events.seen[2][1]["sandbox_id"] == "pod"
    await events.close()


async def test_what_is_not_there(controller):
    for call in (controller.start, controller.platform, controller.wait, controller.shutdown, controller.metrics):
        with pytest.raises(NotFound):
            await call("pod")
    await controller.stop("pod")
    await controller.update("pod", POD)
    status = await controller.status("pod")
    assert (status.id, status.state, status.pid, status.exited_ns > 0) == ("pod", "", 0, True)


async def test_controllers_by_name(backend):
    services = backend.bind("default")
    with pytest.raises(NotFound):
        await services.sandbox_controller("none").status("pod")


@pytest.mark.parametrize(
    ("sandbox", "options", "error"),
    [
        (Sandbox(""), {}, InvalidArgument),
        (Sandbox("a/b"), {}, InvalidArgument),
        (Sandbox("pod", "io.containerd.nothing.v2"), {}, (Unimplemented, NotFound)),
        (Sandbox("pod"), {"netns_path": "/nowhere/net"}, NotFound),
        (Sandbox("pod"), {"rootfs": [Mount("bind", "/nowhere/at/all", options=("rbind",))]}, NotFound),
    ],
)
async def test_what_cannot_be_created_leaves_nothing(controller, config, sandbox, options, error):
    with pytest.raises(error):
        await controller.create(sandbox, **options)
    assert left(config) == []
    assert (await controller.status("pod")).state == ""


async def test_many_at_once(controller, config):
    ids = [f"pod-{number}" for number in range(6)]
    await asyncio.gather(*(controller.create(Sandbox(id)) for id in ids))
    pids = {instance.pid for instance in await asyncio.gather(*map(controller.start, ids))}
    assert len(pids) == 6
    await asyncio.gather(*map(controller.shutdown, ids))
    assert left(config) == []


async def test_a_root_file_system_and_a_network_namespace(controller, config, tmp_path):
    (tmp_path / "file").write_text("x")
    rootfs = [Mount("bind", str(tmp_path), options=("rbind", "ro"))]
    await controller.create(POD, rootfs=rootfs, netns_path="/proc/self/ns/net", annotations={"a": "b"})
    info = (await controller.status("pod", verbose=True)).info
    assert info["netns"] == "/proc/self/ns/net"
    assert os.listdir(f"{info['bundle']}/rootfs") == ["file"]
    await controller.shutdown("pod")
    assert left(config) == [] and (tmp_path / "file").exists()


async def test_it_is_found_again(config):
    """The daemon goes and comes back; the sandbox sleeps meanwhile, and waits on."""
    async with opened(config) as first:
        controller = first.bind("default").sandbox_controller("shim")
        await controller.create(POD)
        pid = (await controller.start("pod")).pid
        await first.close()
        async with opened(config) as second:
            controller = second.bind("default").sandbox_controller("shim")
            status = await controller.status("pod")
            assert (status.pid, status.state) == (pid, READY)
            with pytest.raises(AlreadyExists):
                await controller.create(POD)
            events = Events(second.bind("default"))
            waiting = asyncio.ensure_future(controller.wait("pod"))
            await controller.stop("pod")
            assert (await waiting).status == 0
            assert await events.until(1) == ["exit"]
            await controller.shutdown("pod")
            assert left(config) == []
            await events.close()


async def test_it_sleeps_and_is_woken(controller):
    await controller.create(POD)
    pid = (await controller.start("pod")).pid
    waiting = asyncio.ensure_future(controller.wait("pod"))
    async with asyncio.timeout(DEADLINE):
        while has_worker(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (await controller.status("pod")).state == READY
    assert not waiting.done()
    await controller.stop("pod")
    assert (await waiting).status == 0
    await controller.shutdown("pod")


@pytest.mark.parametrize("when", ["running", "away"])
async def test_a_shim_that_dies(config, when):
    async with opened(config) as backend:
        controller = backend.bind("default").sandbox_controller("shim")
        events = Events(backend.bind("default"))
        await controller.create(POD)
        pid = (await controller.start("pod")).pid
        waiting = asyncio.ensure_future(controller.wait("pod"))
        await asyncio.sleep(0)
        if when == "away":
            waiting.cancel()
            await events.close()
            await backend.close()
        os.kill(pid, signal.SIGKILL)
        if when == "away":
            async with opened(config) as second:
                controller = second.bind("default").sandbox_controller("shim")
                assert (await controller.status("pod")).state == ""
                assert left(config) == []
            return
        assert (await waiting).status == 137
        status = await controller.status("pod")
        assert (status.state, status.exited_ns > 0) == (NOT_READY, True)
        assert await events.until(3) == ["create", "start", "exit"]
        await controller.stop("pod")
        await controller.shutdown("pod")
        assert left(config) == []
        await events.close()


@pytest.mark.parametrize("obedient", [True, False])
async def test_its_tasks_end_with_it(controller, tmp_path, obedient):
    """A task in the sandbox's shim, made over the address that start tells, as CRI does it."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    await controller.create(POD)
    instance = await controller.start("pod")
    rootfs = bundles.make_rootfs(tmp_path / "root")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "rootfs").mkdir()
    script = "trap 'exit 3' TERM; " if obedient else "trap '' TERM; "
    cgroup = f"/portside-test-{secrets.token_hex(4)}"
    document = bundles.spec("sh", "-c", f"{script}echo up; while :; do sleep 0.02; done", cgroup=cgroup)
    (bundle / "config.json").write_text(json.dumps(document))
    output = tmp_path / "output"
    task = ShimConnection(instance.address.removeprefix("ttrpc+unix://"), "default")
    mount = {"type": "bind", "source": str(rootfs), "options": ["rbind"]}
    fields = {"id": "one", "bundle": str(bundle), "rootfs": [mount], "stdout": f"file://{output}"}
    await task.call("Create", fields, DEADLINE)
    await task.call("Start", {"id": "one"}, DEADLINE)
    async with asyncio.timeout(DEADLINE):
        while not output.exists() or "up" not in output.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await controller.status("pod", verbose=True)).info["tasks"] == "one"
    with pytest.raises(FailedPrecondition):
        await controller.shutdown("pod")
    await controller.stop("pod", 60 if obedient else 1)
    exited = await task.call("Wait", {"id": "one"}, DEADLINE)
    assert exited["exit_status"] == (3 if obedient else 137)
    assert (await controller.status("pod")).state == NOT_READY
    await task.call("Delete", {"id": "one"}, DEADLINE)
    await task.call("Shutdown", {"id": "one"}, DEADLINE)
    assert (await controller.status("pod")).state == NOT_READY  # A task's Shutdown does not end a sandbox.
    await task.close()
    await controller.shutdown("pod")


@pytest.fixture
def container(tmp_path):
    """Makes a container's record in the sandbox, and gives the mounts of its root."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    rootfs = bundles.make_rootfs(tmp_path / "root")
    cgroup = f"/portside-test-{secrets.token_hex(4)}"

    async def make(services, id, script):
        document = bundles.spec("sh", "-c", script, cgroup=f"{cgroup}-{id}")
        spec = AnyMessage(SPEC, bundles.dump(document))
        await services.containers.create(Container(id, "io.containerd.runc.v2", spec, sandbox_id="pod"))
        return [Mount("bind", str(rootfs), options=("rbind",))]

    return make


def shim_of(config, id):
    record = config.state / "io.containerd.runtime.v2.task/default" / id / "state.json"
    return json.loads(record.read_text())["shim"]["pid"]


def task_bundles(config):
    return [path for path in (config.state / "io.containerd.runtime.v2.task").glob("*/*") if path.name[0] != "."]


SLEEP = "trap 'exit 3' TERM; while :; do sleep 0.02; done"


async def test_tasks_of_its_containers_are_in_its_shim(config, container):
    """They come and go, it stays; without a sandbox of that name a container has a shim of its own."""
    async with asyncio.timeout(2 * DEADLINE), opened(config) as backend:
        services = backend.bind("default")
        controller = services.sandbox_controller("shim")
        mounts = await container(services, "one", "exit 3")
        await services.tasks.create("one", mounts, TaskIO())
        alone = shim_of(config, "one")
        await services.tasks.start("one")
        assert (await services.tasks.wait("one")).status == 3
        await services.tasks.delete("one")
        await controller.create(POD)
        pid = (await controller.start("pod")).pid
        await container(services, "two", "exit 4")
        for _ in range(2):
            for id, status in (("one", 3), ("two", 4)):
                await services.tasks.create(id, mounts, TaskIO())
                with pytest.raises(AlreadyExists):
                    await services.tasks.create(id, mounts, TaskIO())
                assert shim_of(config, id) == pid != alone
                await services.tasks.start(id)
                assert (await services.tasks.wait(id)).status == status
            assert (await controller.status("pod", verbose=True)).info["tasks"] == "one,two"
            for id in ("one", "two"):
                await services.tasks.delete(id)
        with pytest.raises(PortsideError):
            await services.tasks.create("one", [Mount("nofs", "x")], TaskIO())
        async with asyncio.timeout(DEADLINE):
            while task_bundles(config):  # noqa: ASYNC110 - removed in the background
                await asyncio.sleep(0.01)
        assert (await controller.status("pod")).state == READY
        await controller.shutdown("pod")
        assert left(config) == []


async def test_its_tasks_are_found_again(config, container):
    async with asyncio.timeout(2 * DEADLINE), opened(config) as first:
        services = first.bind("default")
        controller = services.sandbox_controller("shim")
        await controller.create(POD)
        await controller.start("pod")
        mounts = await container(services, "one", SLEEP)
        await services.tasks.create("one", mounts, TaskIO())
        await services.tasks.start("one")
        await first.close()
        async with opened(config) as second:
            services = second.bind("default")
            controller = services.sandbox_controller("shim")
            assert [process.container_id for process in await services.tasks.list()] == ["one"]
            await services.tasks.kill("one", 9)
            assert (await services.tasks.wait("one")).status == 137
            await services.tasks.delete("one")
            await container(services, "two", SLEEP)
            await services.tasks.create("two", mounts, TaskIO())
            await services.tasks.start("two")
            await controller.stop("pod", 10)
            assert (await services.tasks.wait("two")).status == 3
            await services.tasks.delete("two")
            await controller.shutdown("pod")
            assert left(config) == []


async def test_its_tasks_end_when_its_shim_dies(config, container):
    async with asyncio.timeout(2 * DEADLINE), opened(config) as backend:
        services = backend.bind("default")
        controller = services.sandbox_controller("shim")
        await controller.create(POD)
        pid = (await controller.start("pod")).pid
        mounts = await container(services, "one", SLEEP)
        await services.tasks.create("one", mounts, TaskIO())
        init = await services.tasks.start("one")
        waiting = asyncio.ensure_future(services.tasks.wait("one"))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert (await waiting).status == 137
        assert not start_time(init)
        assert (await controller.wait("pod")).status == 137
        await services.tasks.delete("one")
        await controller.shutdown("pod")
        assert left(config) == []


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_shim_that_is_mute(config, monkeypatch, adopted):
    """It can be shut down all the same; whoever waits hears that it was killed."""
    async with opened(config) as backend:
        controller = backend.bind("default").sandbox_controller("shim")
        await controller.create(POD)
        pid = (await controller.start("pod")).pid
        if adopted:
            await backend.close()
            backend = await LocalBackend.open(config)
            controller = backend.bind("default").sandbox_controller("shim")
            await controller.status("pod")
        waiting = asyncio.ensure_future(controller.wait("pod"))
        await asyncio.sleep(0)
        stopped = stop_all(pid)
        monkeypatch.setattr(ShimSandbox.call, "__defaults__", (0.2,))
        with pytest.raises(DeadlineExceeded):
            await controller.status("pod")
        await controller.shutdown("pod")
        assert not start_time(pid)
        assert (await waiting).status == 137
        assert left(config) == []
        for process in stopped - {pid}:
            os.kill(process, signal.SIGKILL)  # A worker ends with its keeper, unless it was stopped.
        if adopted:
            await backend.close()


def stop_all(pid):
    """Stop a shim and its worker; their pids."""
    stopped = {pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())}
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    return stopped


async def test_odd_calls_to_the_shim(controller):
    """What a peer of the shim's socket can say."""
    await controller.create(POD)
    instance = await controller.start("pod")
    address = instance.address.removeprefix("ttrpc+unix://")
    client = await TtrpcClient.connect(address, DEADLINE)

    async def call(method, payload):
        return await client.call(SERVICE, method, payload, timeout=DEADLINE, metadata={})

    try:
        for method, fields, error in (
            ("CreateSandbox", {"sandbox_id": "two", "bundle_path": "/x"}, AlreadyExists),
            ("StartSandbox", {"sandbox_id": "two"}, NotFound),
            ("StartSandbox", {}, NotFound),
            ("StopSandbox", {"sandbox_id": "two"}, NotFound),
            ("WaitSandbox", {"sandbox_id": "two"}, NotFound),
            ("SandboxMetrics", {"sandbox_id": "two"}, NotFound),
            ("ShutdownSandbox", {"sandbox_id": "two"}, NotFound),
        ):
            request = SERVICES[SERVICE][method][0]
            with pytest.raises(error):
                await call(method, encode(request, fields))
        with pytest.raises(InvalidArgument):
            await call("PingSandbox", b"\xff\xff")
        with pytest.raises(Unimplemented):
            await call("Nothing", b"")
        assert await call("PingSandbox", encode(SERVICES[SERVICE]["PingSandbox"][0], {"sandbox_id": "pod"})) == b""
    finally:
        await client.close()
    await controller.shutdown("pod")
