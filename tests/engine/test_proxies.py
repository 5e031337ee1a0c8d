"""Proxy plugins of an engine whose peers are missing, hang, die or talk nonsense: it lives, and nothing is lost."""

import asyncio
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from portside.core.introspection import PluginStatus
from portside.core.plugin import DIFFER, SNAPSHOTTER
from portside.core.sandboxes import READY, Sandbox
from portside.core.settings import ProxyPlugin
from portside.core.snapshots import Kind
from portside.daemon.plugin_host import PluginHost
from portside.engine import bounded
from portside.engine.engine import EngineConfig, LocalBackend
from portside.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
    Unknown,
)
from portside.oci.descriptor import LAYER, Descriptor
from portside.oci.digest import Digest
from portside.oci.platform import Platform
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import methods_of
from portside.wire.pb.containerd.services.content.v1 import content_pb2
from portside.wire.pb.containerd.services.diff.v1 import diff_pb2
from portside.wire.pb.containerd.services.snapshots.v1 import snapshots_pb2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="engines and snapshots belong to root")

IMPATIENT = {f"io.portside.timeout.proxy.{name}": 0.2 for name in ("call", "work", "layer")}
SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
DIFF = diff_pb2.DESCRIPTOR.services_by_name["Diff"]


@pytest.fixture
def socket():
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        yield str(Path(short, "p.sock"))


@pytest.fixture
def config(tmp_path, socket):
    proxies = {
        "peer": ProxyPlugin("snapshot", socket, "linux/arm64", {"root": "/peer", "address": "a lie"}, ("remap-ids",))
    }
    return EngineConfig(tmp_path / "root", tmp_path / "state", timeouts=IMPATIENT, proxy_plugins=proxies)


@pytest.fixture
async def backend(config):
    backend = await LocalBackend.open(config)
    yield backend
    await backend.close()


@pytest.fixture
def snapshots(backend):
    return backend.bind("default").snapshotter("peer")


class Silent:
    """Has every method and answers none."""

    def __init__(self):
        self.asked = asyncio.Event()

    def __getattr__(self, name):
        async def method(request, call):
            self.asked.set()
            await asyncio.Event().wait()

        async def stream(request, call):
            self.asked.set()
            await asyncio.Event().wait()
            yield None

        return stream if name in ("list", "write") else method


async def serve(socket, service, implementation):
    server = GrpcServer(methods_of(service, implementation))
    await server.listen_unix(socket)
    return server


async def test_introspection_shows_it_though_nobody_is_there(backend, socket):
    (shown,) = await backend.introspection.plugins(["id==peer"])
    expected = {"root": "/peer", "address": socket}
    platforms = (Platform("linux", "arm64"),)
    assert shown == PluginStatus(SNAPSHOTTER, "peer", (), platforms, expected, ("remap-ids",))
    assert backend.snapshotters()["peer"] == "" and backend.bind("default").is_foreign("peer")
    assert not backend.bind("default").is_foreign()


async def test_nobody_is_there(backend, snapshots, socket):
    for call in (snapshots.prepare("a"), snapshots.view("a"), snapshots.cleanup()):
        with pytest.raises((Unavailable, FailedPrecondition), match=socket):
            await call
    for call in (snapshots.stat("a"), snapshots.mounts("a"), snapshots.remove("a"), snapshots.commit("b", "a")):
        with pytest.raises(NotFound):
            await call
    assert [info async for info in snapshots.walk()] == []
    with pytest.raises(NotFound):
        await backend.bind("default").snapshotter("overlayfs").stat("a")


async def test_one_that_hangs_holds_up_nobody(backend, snapshots, socket):
    server = await serve(socket, SNAPSHOTS, Silent())
    with pytest.raises(DeadlineExceeded, match=r"snapshotter peer at .*: prepare: no answer within 0.2 s"):
        await snapshots.prepare("a")
    report = await backend._metadata.collect()
    assert any("peer" in failure for failure in report.failures)
    others = backend.bind("default").snapshotter("overlayfs")
    assert await others.prepare("a")
    await others.remove("a")
    await server.drain(0)


async def test_closing_does_not_wait_for_one_that_hangs(config, socket):
    patient = replace(config, timeouts={})
    backend, silent = await LocalBackend.open(patient), Silent()
    server = await serve(socket, SNAPSHOTS, silent)
    asking = asyncio.create_task(backend.bind("default").snapshotter("peer").prepare("a"))
    await silent.asked.wait()
    await backend.close()
    with pytest.raises(Unavailable):
        await asking
    await server.drain(0)


async def test_one_that_dies_comes_back_with_everything(tmp_path, config, backend, snapshots, socket):
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "peer")
    await snapshots.prepare("making", labels={"containerd.io/gc.root": "x"})
    await snapshots.commit("layer", "making", {"containerd.io/gc.root": "x"})
    mounts = await snapshots.prepare("top", "layer", {"containerd.io/gc.root": "x"})
    await host.stop(0)
    for call in (snapshots.mounts("top"), snapshots.stat("top"), snapshots.commit("second", "top")):
        with pytest.raises(Unavailable):
            await call
    assert [info.name async for info in snapshots.walk()] == ["layer", "top"]
    await snapshots.remove("top")  # is recorded, and done when that can be
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "peer")
    await snapshots.cleanup()
    assert (await snapshots.stat("layer")).kind == Kind.COMMITTED
    again = await snapshots.prepare("top", "layer")
    assert mounts != again
    there = backend._metadata._snapshotters["peer"].there("default")
    assert len([info async for info in there.walk()]) == 2
    await host.stop(0)


async def test_records_survive_the_engine(tmp_path, config, socket):
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "peer")
    for round in range(2):
        backend = await LocalBackend.open(config)
        snapshots = backend.bind("default").snapshotter("peer")
        if not round:
            await snapshots.prepare("making")
            await snapshots.commit("layer", "making", {"containerd.io/gc.root": "x"})
        await snapshots.prepare(f"top {round}", "layer", {"containerd.io/gc.root": "x"})
        await backend._metadata.collect()
        assert [info.name async for info in snapshots.walk()] == ["layer", "top 0", "top 1"][: round + 2]
        await backend.close()
    await host.stop(0)


async def test_one_that_serves_something_else(snapshots, socket):
    server = await serve(socket, DIFF, Silent())
    with pytest.raises(Unimplemented, match="snapshotter peer"):
        await snapshots.prepare("a")
    await server.drain(0)


async def test_what_is_new_is_said_to_exist(snapshots, socket):
    class Liar(Silent):
        async def prepare(self, request, call):
            raise AlreadyExists("no idea")

        async def list(self, request, call):
            for page in ():
                yield page

    server = await serve(socket, SNAPSHOTS, Liar())
    with pytest.raises(Unknown, match="said to exist"):
        await snapshots.prepare("a")
    with pytest.raises(NotFound, match="does not have it"):
        await snapshots.prepare("a", labels={"containerd.io/snapshot.ref": "chain"})
    await server.drain(0)


async def test_a_list_without_end(backend, snapshots, socket, monkeypatch):
    class Endless(Silent):
        async def list(self, request, call):
            page = snapshots_pb2.ListSnapshotsResponse(info=[snapshots_pb2.Info(name=str(n)) for n in range(100)])
            while True:
                yield page

    monkeypatch.setattr(bounded, "MAX_LISTED", 1000)
    server = await serve(socket, SNAPSHOTS, Endless())
    with pytest.raises(FailedPrecondition, match="more than 1000 snapshots"):
        await snapshots.cleanup()
    await server.drain(0)


class TestContent:
    @pytest.fixture
    def config(self, config, socket):
        proxies = {"blobs": ProxyPlugin("content", socket)}
        return replace(config, proxy_plugins=proxies, disabled_plugins=("io.containerd.content.v1.content",))

    async def test_nobody_is_there(self, backend, socket):
        content = backend.bind("default").content
        with pytest.raises(Unavailable, match=f"content store blobs at {socket}"):
            await content.writer("ref", 5)
        with pytest.raises(NotFound):
            await content.open(Digest.of(b"x"))

    async def test_one_that_hangs(self, backend, socket):
        server = await serve(socket, CONTENT, Silent())
        with pytest.raises(DeadlineExceeded, match=r"content store blobs at .*: no answer within 0.2 s"):
            await backend.bind("default").content.writer("ref", 5)
        assert await backend.bind("default").snapshotter("native").prepare("a")
        await server.drain(0)

    async def test_one_that_dies_while_it_is_written_to(self, tmp_path, backend, socket):
        host = await PluginHost.start("content", socket, root=tmp_path / "peer")
        content = backend.bind("default").content
        writer = await content.writer("ref", 10)
        await writer.write(b"12345")
        await host.stop(0)
        with pytest.raises(Unavailable):
            await writer.commit(10)
        host = await PluginHost.start("content", socket, root=tmp_path / "peer")
        writer = await content.writer("ref", 10)
        await writer.write(b"1234567890"[(await writer.status()).offset :])
        digest = await writer.commit(10, Digest.of(b"1234567890"))
        reader = await content.open(digest)
        assert await reader.read(2, 3) == b"345"
        await host.stop(0)
        with pytest.raises(Unavailable, match="content store blobs"):
            await reader.read(0, 3)


class TestDiffers:
    LAYER = Descriptor(LAYER, Digest.of(b"layer"), 5)

    async def open(self, config, socket, order):
        table = {"io.containerd.service.v1.diff-service": {"default": order}}
        proxies = {"foreign": ProxyPlugin("diff", socket)}
        return await LocalBackend.open(replace(config, plugins=table, proxy_plugins=proxies))

    async def test_one_that_cannot_do_it_leaves_it_to_the_next(self, config, socket):
        server = await serve(socket, DIFF, object())
        backend = await self.open(config, socket, ["foreign", "walking"])
        with pytest.raises(InvalidArgument, match="no mounts"):
            await backend.bind("default").diff.apply(self.LAYER, [])
        await backend.close()
        await server.drain(0)

    async def test_its_answer_is_the_answer(self, config, socket):
        class Differ:
            async def apply(self, request, call):
                assert call.metadata["containerd-namespace"] == "default"
                return diff_pb2.ApplyResponse(applied=request.diff)

        server = await serve(socket, DIFF, Differ())
        backend = await self.open(config, socket, ["foreign"])
        assert await backend.bind("default").diff.apply(self.LAYER, []) == self.LAYER
        assert [plugin.id for plugin in await backend.introspection.plugins([f"type=={DIFFER}"])] == [
            "walking",
            "foreign",
        ]
        await backend.close()
        await server.drain(0)

    async def test_one_that_hangs(self, config, socket):
        server = await serve(socket, DIFF, Silent())
        backend = await self.open(config, socket, ["foreign"])
        with pytest.raises(DeadlineExceeded, match="differ foreign"):
            await backend.bind("default").diff.apply(self.LAYER, [])
        await backend.close()
        await server.drain(0)

    async def test_an_order_with_one_that_there_is_not(self, config, socket):
        backend = await self.open(config, socket, ["none"])
        try:
            [plugin] = await backend.introspection.plugins(["id==diff-service"])
            assert "no differ 'none'" in plugin.error
            with pytest.raises(Unimplemented, match="there is no differ"):
                await backend.bind("default").diff.apply(self.LAYER, [])
        finally:
            await backend.close()


async def test_a_sandbox_controller(config, socket):
    """Ours, in another engine."""
    proxies = {"elsewhere": ProxyPlugin("sandbox", socket)}
    backend = await LocalBackend.open(replace(config, proxy_plugins=proxies, timeouts={}))
    controller = backend.bind("default").sandbox_controller("elsewhere")
    with pytest.raises(Unavailable, match="sandbox controller elsewhere"):
        await controller.status("pod")
    with tempfile.TemporaryDirectory(prefix="portside") as place:
        host = await PluginHost.start("sandbox", socket, root=Path(place, "root"))
        await controller.create(Sandbox("pod", "io.containerd.runc.v2"))
        instance = await controller.start("pod")
        assert (instance.id, instance.pid > 0) == ("pod", True)
        assert (await controller.status("pod")).state == READY
        waiting = asyncio.create_task(controller.wait("pod"))
        await controller.stop("pod", 1)
        assert (await waiting).exited_ns
        await controller.shutdown("pod")
        with pytest.raises(NotFound, match="sandbox controller elsewhere"):
            await controller.shutdown("pod")
        await host.stop(5)
    await backend.close()
