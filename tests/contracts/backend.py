"""What every ``core.services.Backend`` does, local or remote: subclasses bring the fixture ``backend``.

Each test works in a namespace of its own and removes what it made, so that a server may be shared.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentStore, read_blob
from portside.core.events import Envelope
from portside.core.images import Image
from portside.core.labels import GC_ROOT
from portside.core.leases import Resource
from portside.core.services import Backend, Services
from portside.core.snapshots import Kind
from portside.core.tasks import Status, TaskIO
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PortsideError
from portside.oci.descriptor import LAYER, LAYER_GZIP, Descriptor
from portside.oci.digest import Digest
from tests.support.images import BUSYBOX, busybox_files, tar_layer
from tests.support.peers import SLOWNESS

KEEP = {GC_ROOT: "2026-01-01T00:00:00Z"}
MISSING = Digest.of(b"nobody has this")


async def put(store: ContentStore, data: bytes, ref: str = "put", labels: dict[str, str] | None = None) -> Digest:
    """Write a blob, which stays while nothing refers to it."""
    writer = await store.writer(ref, len(data), Digest.of(data))
    try:
        there = (await writer.status()).offset  # all of it where another namespace has the blob
        await writer.write(data[there:])
        return await writer.commit(len(data), Digest.of(data), KEEP | (labels or {}))
    finally:
        await writer.close()


def spec(*args: str, root: str = "rootfs") -> AnyMessage:
    """A small runtime spec that every runtime takes."""
    namespaces = [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")]
    document = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": list(args), "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": root},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    }
    return AnyMessage(SPEC, json.dumps(document).encode())


class BackendContract:
    """The suite."""

    still_running: type[PortsideError] = FailedPrecondition
    """What the deletion of a running task raises."""

    @pytest.fixture
    async def services(self, backend: Backend, request: pytest.FixtureRequest) -> AsyncIterator[Services]:
        name = f"t{abs(hash(request.node.name)) % 10**8}"
        await backend.namespaces.create(name)
        services = backend.bind(name)
        yield services
        await clear(backend, services)

    # Namespaces

    async def test_namespaces(self, backend: Backend) -> None:
        await backend.namespaces.create("ns-one", {"a": "1"})
        assert "ns-one" in await backend.namespaces.list()
        assert await backend.namespaces.labels("ns-one") == {"a": "1"}
        await backend.namespaces.set_label("ns-one", "b", "2")
        await backend.namespaces.set_label("ns-one", "a", "")
        assert await backend.namespaces.labels("ns-one") == {"b": "2"}
        with pytest.raises(AlreadyExists):
            await backend.namespaces.create("ns-one")
        await backend.namespaces.delete("ns-one")
        for call in (backend.namespaces.labels("ns-one"), backend.namespaces.delete("ns-one")):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(InvalidArgument):
            await backend.namespaces.create("no/slash")
        with pytest.raises(InvalidArgument):
            backend.bind("no/slash")

    async def test_a_namespace_that_is_not_empty_stays(self, backend: Backend, services: Services) -> None:
        await put(services.content, b"something")
        with pytest.raises(FailedPrecondition):
            await backend.namespaces.delete(services.namespace)

    # Content

    async def test_a_blob_from_write_to_delete(self, services: Services) -> None:
        content, data = services.content, os.urandom(3 << 20)
        digest = await put(content, data, labels={"color": "red"})
        assert digest == Digest.of(data)
        info = await content.info(digest)
        assert (info.size, info.labels["color"]) == (len(data), "red")
        assert info.created_ns > 1_600_000_000 * 10**9
        assert await read_blob(content, digest) == data
        reader = await content.open(digest)
        assert (reader.size, await reader.read(1 << 20, 10)) == (len(data), data[1 << 20 : (1 << 20) + 10])
        assert await reader.read(len(data), 10) == b""
        assert len(await reader.read(len(data) - 3, 10)) == 3
        await reader.close()
        assert [found.digest async for found in content.list()] == [digest]
        assert [found async for found in content.list(["labels.color==blue"])] == []
        changed = await content.update(replace(info, labels={"color": "blue"}), ["labels.color"])
        assert changed.labels["color"] == "blue" and GC_ROOT in changed.labels
        assert len([found async for found in content.list(["labels.color==blue"])]) == 1
        await content.delete(digest)
        for call in (content.info(digest), content.delete(digest), content.open(digest)):
            with pytest.raises(NotFound):
                await call

    async def test_an_empty_blob(self, services: Services) -> None:
        digest = await put(services.content, b"")
        assert await read_blob(services.content, digest) == b""

    async def test_an_ingest_is_resumed(self, services: Services) -> None:
        content, data = services.content, os.urandom(300_000)
        writer = await content.writer("resumed", len(data), Digest.of(data))
        await writer.write(data[:100_000])
        status = await writer.status()
        assert (status.ref, status.offset, status.total) == ("resumed", 100_000, len(data))
        assert await writer.digest() == Digest.of(data[:100_000])
        await writer.close()
        await writer.close()
        assert (await content.status("resumed")).offset == 100_000
        assert [status.ref for status in await content.list_statuses()] == ["resumed"]
        writer = await content.writer("resumed", len(data), Digest.of(data))
        assert (await writer.status()).offset == 100_000
        await writer.write(memoryview(data)[100_000:])
        await writer.commit(len(data), Digest.of(data), KEEP)
        await writer.close()
        assert await read_blob(content, Digest.of(data)) == data
        with pytest.raises(NotFound):
            await content.status("resumed")

    async def test_an_ingest_is_started_again(self, services: Services) -> None:
        writer = await services.content.writer("again")
        await writer.write(b"wrong")
        with pytest.raises(OutOfRange):
            await writer.truncate(6)
        await writer.truncate(0)
        await writer.write(b"right")
        assert await writer.commit(5, None, KEEP) == Digest.of(b"right")
        await writer.close()

    async def test_what_does_not_match_is_not_committed(self, services: Services) -> None:
        content = services.content
        for size, expected in ((4, None), (0, MISSING)):
            writer = await content.writer("mismatch")
            await writer.write(b"12345")
            with pytest.raises(FailedPrecondition):
                await writer.commit(size, expected)
            await writer.close()
            await content.abort("mismatch")
        assert [info async for info in content.list()] == []

    async def test_a_blob_is_written_once(self, services: Services) -> None:
        digest = await put(services.content, b"once")
        with pytest.raises(AlreadyExists):
            await services.content.writer("twice", 4, digest)
        writer = await services.content.writer("thrice")
        await writer.write(b"once")
        with pytest.raises(AlreadyExists):
            await writer.commit(4, digest)
        await writer.close()
        with pytest.raises(NotFound):
            await services.content.abort("thrice")

    async def test_namespaces_do_not_see_each_other(self, backend: Backend, services: Services) -> None:
        digest = await put(services.content, b"mine")
        other = backend.bind("other-namespace")
        with pytest.raises(NotFound):
            await other.content.info(digest)

    # Images

    async def test_images(self, services: Services) -> None:
        digest = await put(services.content, b"{}")
        target = Descriptor("application/vnd.oci.image.manifest.v1+json", digest, 2, {"note": "x"})
        made = await services.images.create(Image("example.org/a:1", target, {"one": "1"}))
        assert made.target == target and made.created_ns
        assert await services.images.get("example.org/a:1") == made
        with pytest.raises(AlreadyExists):
            await services.images.create(made)
        changed = await services.images.update(replace(made, labels={"two": "2"}), ["labels.two"])
        assert changed.labels == {"one": "1", "two": "2"}
        assert [image.name for image in await services.images.list(["name==example.org/a:1"])] == ["example.org/a:1"]
        assert await services.images.list(["name==nothing"]) == []
        await services.images.delete("example.org/a:1", sync=True)
        for call in (services.images.get("example.org/a:1"), services.images.delete("example.org/a:1")):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(InvalidArgument):
            await services.images.create(Image("", target))

    # Containers

    async def test_containers(self, services: Services) -> None:
        record = Container(
            "c1", "io.containerd.runc.v2", spec("true"), {"a": "1"}, "img",
            extensions={"x": AnyMessage("type/x", b"\0\xff")},
        )  # fmt: skip
        made = await services.containers.create(record)
        assert replace(made, created_ns=0, updated_ns=0) == record
        assert await services.containers.get("c1") == made
        with pytest.raises(AlreadyExists):
            await services.containers.create(record)
        changed = await services.containers.update(replace(made, labels={"b": "2"}), ["labels"])
        assert dict(changed.labels) == {"b": "2"} and changed.spec == made.spec
        with pytest.raises(InvalidArgument):
            await services.containers.update(replace(made, runtime="other"), ["runtime"])
        assert [container.id for container in await services.containers.list(['labels."b"==2'])] == ["c1"]
        await services.containers.delete("c1")
        for call in (services.containers.get("c1"), services.containers.delete("c1")):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(InvalidArgument):
            await services.containers.create(replace(record, id="no/slash"))

    # Leases

    async def test_leases(self, services: Services) -> None:
        lease = await services.leases.create("l1", {"a": "1"})
        assert (lease.id, dict(lease.labels)) == ("l1", {"a": "1"})
        with pytest.raises(AlreadyExists):
            await services.leases.create("l1")
        held = services.with_lease("l1")
        assert (held.lease, held.namespace) == ("l1", services.namespace)
        writer = await held.content.writer("leased")
        await writer.write(b"leased")
        digest = await writer.commit()
        await writer.close()
        assert Resource("content", digest) in await services.leases.list_resources("l1")
        other = Resource("snapshots/" + services.default_snapshotter, "no-such-snapshot")
        await services.leases.add_resource("l1", other)
        assert other in await services.leases.list_resources("l1")
        await services.leases.delete_resource("l1", other)
        assert other not in await services.leases.list_resources("l1")
        assert [found.id for found in await services.leases.list(["id==l1"])] == ["l1"]
        await services.leases.delete("l1", sync=True)
        with pytest.raises(NotFound):
            await services.leases.delete("l1")
        with pytest.raises(NotFound):  # nothing holds it any more
            await services.content.info(digest)

    # Snapshots and layers

    async def test_snapshots(self, services: Services) -> None:
        snapshotter = services.snapshotter()
        mounts = await snapshotter.prepare("work", labels={"a": "1"} | KEEP)
        assert mounts and await snapshotter.mounts("work") == mounts
        info = await snapshotter.stat("work")
        assert (info.name, info.parent, info.kind, info.labels["a"]) == ("work", "", Kind.ACTIVE, "1")
        with pytest.raises(AlreadyExists):
            await snapshotter.prepare("work")
        await snapshotter.commit("base", "work", KEEP)
        assert (await snapshotter.stat("base")).kind is Kind.COMMITTED
        await snapshotter.view("look", "base", KEEP)
        assert [(found.name, found.parent) async for found in snapshotter.walk(["kind==view"])] == [("look", "base")]
        assert {found.name async for found in snapshotter.walk()} == {"base", "look"}
        changed = await snapshotter.update(replace(info, name="base", labels={"b": "2"}), ["labels.b"])
        assert changed.labels["b"] == "2"
        assert (await snapshotter.usage("base")).inodes >= 0
        with pytest.raises(FailedPrecondition):
            await snapshotter.remove("base")
        await snapshotter.remove("look")
        await snapshotter.remove("base")
        for call in (snapshotter.stat("base"), snapshotter.remove("base"), snapshotter.prepare("x", "base")):
            with pytest.raises(NotFound):
                await call
        await snapshotter.cleanup()

    async def test_a_layer_there_and_back(self, services: Services) -> None:
        tar = tar_layer({"etc/": b"", "etc/hello": b"world", "link": "etc/hello"})
        blob = gzip.compress(tar, mtime=0)
        layer = Descriptor(LAYER_GZIP, await put(services.content, blob), len(blob))
        snapshotter = services.snapshotter()
        applied = await services.diff.apply(layer, await snapshotter.prepare("layer", labels=KEEP))
        assert applied.digest == Digest.of(tar) and applied.size == len(tar)
        await snapshotter.commit("lower", "layer", KEEP)
        usage = await snapshotter.usage("lower")
        assert usage.inodes >= 3 and usage.size > 0
        lower = await snapshotter.view("below", "lower", KEEP)
        upper = await snapshotter.prepare("above", "lower", KEEP)
        more = tar_layer({"etc/": b"", "etc/more": b"!"})
        await services.diff.apply(Descriptor(LAYER, await put(services.content, more, "more"), len(more)), upper)
        diff = await services.diff.compare(lower, upper, media_type=LAYER, ref="compare", labels=KEEP)
        names = {name.strip("/") for name in names_of(await read_blob(services.content, diff.digest))}
        assert "etc/more" in names and "etc/hello" not in names and diff.media_type == LAYER

    # Events

    async def test_events(self, services: Services) -> None:
        filters = [f"namespace=={services.namespace},topic~=^/test/"]
        events = services.events.subscribe(filters).__aiter__()
        first = asyncio.ensure_future(anext(events))
        sent = 0
        while not first.done():  # a subscription over the wire begins when it begins
            await services.events.publish("/test/hello", AnyMessage("test/type", b"%d" % sent))
            sent += 1
            await asyncio.wait([first], timeout=0.05)
        envelope: Envelope = await first
        assert (envelope.namespace, envelope.topic) == (services.namespace, "/test/hello")
        assert envelope.event is not None and envelope.event.type_url == "test/type" and envelope.timestamp_ns
        forwarded = Envelope(envelope.timestamp_ns + 1, services.namespace, "/test/forwarded", envelope.event)
        await services.events.forward(forwarded)
        while envelope.topic != "/test/forwarded":
            envelope = await anext(events)
        assert envelope == forwarded
        await events.aclose()  # type: ignore[attr-defined]
        with pytest.raises(InvalidArgument):
            await services.events.publish("no-slash", AnyMessage("test/type", b""))

    # Introspection

    async def test_introspection(self, backend: Backend) -> None:
        version = await backend.introspection.version()
        assert version.version
        assert (await backend.introspection.server()).uuid
        plugins = await backend.introspection.plugins()
        assert ("io.containerd.content.v1", "content") in {(plugin.type, plugin.id) for plugin in plugins}
        only = await backend.introspection.plugins(["type==io.containerd.snapshotter.v1"])
        assert {plugin.type for plugin in only} == {"io.containerd.snapshotter.v1"}
        assert backend.bind("default").default_snapshotter in backend.snapshotters()

    # Tasks

    async def test_tasks_that_are_not_there(self, services: Services) -> None:
        tasks = services.tasks
        assert await tasks.list() == []
        for call in (tasks.get("none"), tasks.start("none"), tasks.wait("none"), tasks.delete("none"),
                     tasks.kill("none", 9), tasks.pids("none"), tasks.create("none", (), TaskIO())):  # fmt: skip
            with pytest.raises(NotFound):
                await call

    async def test_a_task_from_create_to_delete(self, services: Services, running: Any) -> None:
        tasks, id = (
            services.tasks,
            await running(services, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"),
        )
        process = await tasks.get(id)
        assert (process.container_id, process.status, process.pid > 0) == (id, Status.RUNNING, True)
        assert [process.container_id for process in await tasks.list()] == [id]
        assert process.pid in [info.pid for info in await tasks.pids(id)]
        (metric,) = await tasks.metrics([f"id=={id}"])
        assert metric.id == id and metric.data.value
        with pytest.raises(self.still_running):
            await tasks.delete(id)
        waiting = asyncio.ensure_future(tasks.wait(id))
        await tasks.kill(id, 15)
        async with asyncio.timeout(30 * SLOWNESS):
            assert (await waiting).status == 7
        assert (await tasks.wait(id)).status == 7  # again, and at once
        gone = await tasks.delete(id)
        assert (gone.status, gone.pid) == (7, process.pid) and gone.exited_ns
        with pytest.raises(NotFound):
            await tasks.get(id)

    async def test_an_exec(self, services: Services, running: Any) -> None:
        tasks, id = services.tasks, await running(services, "sleep", "1000")
        process = json.loads(spec("sh", "-c", "exit 3").value)["process"]
        body = AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/Process", json.dumps(process).encode())
        await tasks.exec(id, "e1", body, TaskIO())
        assert (await tasks.get(id, "e1")).status is Status.CREATED
        waiting = asyncio.ensure_future(tasks.wait(id, "e1"))
        assert await tasks.start(id, "e1") > 0
        async with asyncio.timeout(30 * SLOWNESS):
            assert (await waiting).status == 3
        assert (await tasks.delete(id, "e1")).status == 3
        with pytest.raises(NotFound):
            await tasks.get(id, "e1")

    async def test_pause_and_resume(self, services: Services, running: Any) -> None:
        tasks, id = services.tasks, await running(services, "sleep", "1000")
        await tasks.pause(id)
        assert (await tasks.get(id)).status is Status.PAUSED
        await tasks.resume(id)
        assert (await tasks.get(id)).status is Status.RUNNING

    @pytest.fixture
    async def running(self) -> AsyncIterator[Any]:
        """Starts a container of busybox; what still runs at the end is killed."""
        if not BUSYBOX.exists():
            pytest.skip("needs busybox-static")
        started: list[tuple[Services, str]] = []

        async def run(services: Services, *args: str) -> str:
            id = f"run{len(started)}-{services.namespace}"
            tar = tar_layer(busybox_files())
            layer = Descriptor(LAYER, await put(services.content, tar, "busybox"), len(tar))
            mounts = await services.snapshotter().prepare(id, labels=KEEP)
            await services.diff.apply(layer, mounts)
            snapshotter = services.default_snapshotter
            await services.containers.create(
                Container(id, "io.containerd.runc.v2", spec(*args), snapshotter=snapshotter, snapshot_key=id)
            )
            started.append((services, id))
            await services.tasks.create(id, mounts, TaskIO())
            await services.tasks.start(id)
            return id

        yield run
        for services, id in started:
            try:
                await services.tasks.kill(id, 9, all=True)
                await services.tasks.wait(id)
                await services.tasks.delete(id)
            except NotFound:
                pass


async def clear(backend: Backend, services: Services) -> None:
    """Remove what a test may have left, from the top down, and the namespace with it."""
    for container in await services.containers.list():
        await services.containers.delete(container.id)
    for image in await services.images.list():
        await services.images.delete(image.name)
    for lease in await services.leases.list():
        await services.leases.delete(lease.id)
    for name in backend.snapshotters():
        while left := [info async for info in services.snapshotter(name).walk()]:
            parents = {info.parent for info in left}
            for info in left:
                if info.name not in parents:
                    await services.snapshotter(name).remove(info.name)
    for status in await services.content.list_statuses():
        await services.content.abort(status.ref)
    for blob in [blob async for blob in services.content.list()]:
        await services.content.delete(blob.digest)
    await backend.namespaces.delete(services.namespace)


def names_of(tar: bytes) -> list[str]:
    """What a tar holds."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()
