"""A daemon that is killed at random moments: what its clients do meanwhile, what they were promised, and what is left.

A round is: several clients at work at once, SIGKILL, a new daemon on the same root, ``check``. Every client works on
names of its own and notes in ``Promises`` what was acknowledged, so that at most one step of each is in doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import portside
from portside.client.closure import is_whole, walk
from portside.client.images import remove_image
from portside.client.lookup import find_container
from portside.client.remove import remove
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo, ContentStore, read_blob
from portside.core.images import Image
from portside.core.labels import GC_REF, GC_REF_SNAPSHOT, GC_ROOT
from portside.core.leases import Resource
from portside.core.services import Services
from portside.errors import AlreadyExists, FailedPrecondition, NotFound, PortsideError
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.sdk.client import Client
from tests.support.peers import Daemon

NAMESPACE = f"kill-{os.getpid()}"
PATIENCE = 60.0
"""Seconds that clients may take to notice that the daemon is gone, and that a check may take."""
DRIVER = "io.containerd.snapshotter.v1.overlayfs"


@dataclass
class Promises:
    """What must be there, by kind and name, and what may or may not."""

    there: dict[str, set[str]] = field(default_factory=dict)
    doubtful: dict[str, set[str]] = field(default_factory=dict)
    kept: int = 0
    """Acknowledged steps so far."""

    async def step(self, kind: str, name: str, work: Awaitable[object], *, makes: bool) -> None:
        """Await ``work``, which makes or removes ``name``: in doubt until it is acknowledged."""
        there, doubtful = self.there.setdefault(kind, set()), self.doubtful.setdefault(kind, set())
        there.discard(name)
        doubtful.add(name)
        await work
        doubtful.discard(name)
        if makes:
            there.add(name)
        self.kept += 1

    def let_go(self, kind: str, name: str) -> None:
        """What holds ``name`` is about to go."""
        self.there[kind].discard(name)
        self.doubtful[kind].add(name)

    def settle(self, kind: str, found: set[str]) -> None:
        """``found`` are there now: all that must be, nothing that must not."""
        must, may = self.there.get(kind, set()), self.doubtful.get(kind, set())
        assert must <= found, f"{kind}: lost {sorted(must - found)}"
        assert found <= must | may, f"{kind}: came back {sorted(found - must - may)}"
        self.there[kind], self.doubtful[kind] = set(found), set()

    def settle_held(self, kind: str, found: set[str]) -> None:
        """As ``settle`` for what is there only while something else holds it, and beside things of other clients."""
        must, may = self.there.get(kind, set()), self.doubtful.get(kind, set())
        assert must <= found, f"{kind}: lost {sorted(must - found)}"
        self.doubtful[kind] = may & found


@dataclass
class Material:
    """What the clients work with."""

    base: str
    """An image that is pulled at the beginning and stays."""
    references: list[str]
    """On the registry."""
    archives: dict[str, Path]
    """By the name of the image inside."""


async def put(content: ContentStore, data: bytes, labels: dict[str, str] | None = None) -> Digest:
    """Write a blob; one that is there is fine."""
    digest = Digest.of(data)
    with contextlib.suppress(AlreadyExists):
        writer = await content.writer(f"put {digest}", len(data), digest)
        try:
            await writer.write(data)
            await writer.commit(len(data), digest, labels)
        finally:
            with contextlib.suppress(PortsideError):
                await writer.close()
    return digest


# What clients do, each until the daemon is gone.

Work = Callable[[Client, Promises, Material, random.Random], Awaitable[None]]


async def pulls(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Images come from the registry and go, with and without waiting for the space."""
    while True:
        name = dice.choice(material.references)
        await promises.step("image", name, client.pull(name), makes=True)
        if dice.random() < 0.6:
            removal = (
                remove_image(client.services, name) if dice.random() < 0.5 else client.services.images.delete(name)
            )
            await promises.step("image", name, removal, makes=False)


async def imports(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Images come from archives and go."""
    while True:
        for name, archive in material.archives.items():
            await promises.step("image", name, client.import_images(archive), makes=True)
            if dice.random() < 0.8:
                await promises.step("image", name, client.services.images.delete(name, sync=True), makes=False)


async def containers(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Records with snapshots, made and removed."""
    services = client.services
    while True:
        name = f"record-{dice.randrange(1 << 48):x}"
        record = Container(name, "io.containerd.runc.v2", AnyMessage(SPEC, b"{}"), snapshotter="overlayfs")
        record = Container(**{slot: getattr(record, slot) for slot in record.__slots__} | {"snapshot_key": name})
        await promises.step("container", name, services.containers.create(record), makes=True)
        await promises.step("snapshot", name, services.snapshotter("overlayfs").prepare(name), makes=True)
        if dice.random() < 0.8:
            promises.let_go("snapshot", name)
            await promises.step("container", name, services.containers.delete(name), makes=False)


async def runs(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Containers that run for a moment."""
    while True:
        async with client.run(material.base, ["true"]) as task:
            await task.wait()


async def leases(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Blobs that a lease holds, ingests that stay unfinished, and collections that are waited for."""
    services = client.services
    while True:
        name, data = f"lease-{dice.randrange(1 << 48):x}", dice.randbytes(dice.randrange(1, 300_000))
        await promises.step("lease", name, services.leases.create(name), makes=True)
        held = services.with_lease(name).content
        await promises.step("blob", Digest.of(data), put(held, data), makes=True)
        writer = await held.writer(f"unfinished {name}")
        await writer.write(b"half of")
        await writer.close()
        if dice.random() < 0.8:
            promises.let_go("blob", Digest.of(data))
            await promises.step("lease", name, services.leases.delete(name, sync=True), makes=False)
            promises.doubtful["blob"].discard(Digest.of(data))


async def namespaces(client: Client, promises: Promises, material: Material, dice: random.Random) -> None:
    """Namespaces with a little of everything, emptied and removed."""
    backend = client.backend
    while True:
        name = f"{NAMESPACE}-{dice.randrange(1 << 48):x}"
        await promises.step("namespace", name, backend.namespaces.create(name), makes=True)
        services = backend.bind(name)
        digest = await put(services.content, dice.randbytes(1000), {GC_ROOT: "test"})
        await services.images.create(Image("image", Descriptor(MANIFEST, digest, 1000)))
        await services.snapshotter("overlayfs").prepare("key", labels={GC_ROOT: "test"})
        await empty(services)
        await promises.step("namespace", name, backend.namespaces.delete(name), makes=False)


async def empty(services: Services) -> None:
    """Remove all that is in a namespace and keeps it from being removed."""
    for image in await services.images.list():
        await services.images.delete(image.name)
    for info in [info async for info in services.snapshotter("overlayfs").walk()]:
        with contextlib.suppress(NotFound):
            await services.snapshotter("overlayfs").remove(info.name)
    for blob in [info async for info in services.content.list()]:
        with contextlib.suppress(NotFound):
            await services.content.delete(blob.digest)


WORK: tuple[Work, ...] = (pulls, imports, containers, runs, leases, namespaces)


# One round.


async def work_until_killed(
    daemon: Daemon, promises: Promises, material: Material, dice: random.Random, seconds: float
) -> None:
    """All clients at work; the daemon is killed after ``seconds``, by a thread that knows nothing of them."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(daemon)) for _ in WORK]
        assert daemon.process is not None
        killer = threading.Timer(seconds, os.kill, (daemon.process.pid, signal.SIGKILL))
        tasks = [
            asyncio.ensure_future(work(client, promises, material, random.Random(dice.random())))
            for work, client in zip(WORK, clients, strict=True)
        ]
        killer.start()
        try:
            # Who waits for a container goes on waiting: the next daemon will know how it ended.
            hurried = [task for task, work in zip(tasks, WORK, strict=True) if work is not runs]
            done, late = await asyncio.wait(hurried, timeout=PATIENCE)
            assert not late, f"still waiting for a daemon that is gone: {[where(task) for task in late]}"
            for task in done:
                error = task.exception()
                assert isinstance(error, PortsideError), f"failed before or otherwise than by the kill: {error!r}"
        finally:
            killer.join()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    daemon.process.wait()


def where(task: asyncio.Task[None]) -> list[str]:
    """The functions and lines that a task waits in, outermost first."""
    found, waiting = [], task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return found


def connected(daemon: Daemon) -> contextlib.AbstractAsyncContextManager[Client]:
    """A client of the daemon in our namespace."""
    return portside.connect(str(daemon.socket), namespace=NAMESPACE)


async def check(daemon: Daemon, promises: Promises) -> None:
    """Everything acknowledged is there and readable, nothing is corrupt, and a collection leaves what is referenced."""
    async with asyncio.timeout(PATIENCE), connected(daemon) as client:
        backend, services = client.backend, client.services
        names = {name for name in await backend.namespaces.list() if name.startswith(NAMESPACE + "-")}
        promises.settle("namespace", names)
        for name in (NAMESPACE, *names):
            await check_blobs(backend.bind(name).content)
        await check_images(services)
        await settle_all(services, promises)
        await clean_up(services, promises)
        for name in names:
            await empty(backend.bind(name))
            await backend.namespaces.delete(name)
        promises.there["namespace"] = set()
        await collect(services)
        await settle_all(services, promises)
        await check_disk(daemon, services)


async def settle_all(services: Services, promises: Promises) -> None:
    """Compare with what the daemon lists."""
    images = {image.name for image in await services.images.list()}
    promises.settle("image", images)
    records = {container.id for container in await services.containers.list() if container.id.startswith("record-")}
    promises.settle("container", records)
    promises.settle("lease", {lease.id for lease in await services.leases.list() if lease.id.startswith("lease-")})
    snapshots = {info.name async for info in services.snapshotter("overlayfs").walk()}
    blobs = {str(info.digest) async for info in services.content.list()}
    promises.settle_held("snapshot", snapshots)
    promises.settle_held("blob", blobs)


async def check_blobs(content: ContentStore) -> None:
    """Every blob is what its name says."""
    async for info in content.list():
        try:
            data = await read_blob(content, info.digest)
        except NotFound:  # a collection came; what may not go is counted elsewhere
            continue
        assert len(data) == info.size and Digest.of(data) == info.digest, f"{info.digest} is damaged"


async def check_images(services: Services) -> None:
    """Every image is whole, and so are the snapshots of its layers, each with the file that tells which it is."""
    store = services.snapshotter("overlayfs")
    infos = {info.name: info async for info in store.walk()}
    for image in await services.images.list():
        assert await is_whole(services, image.target), f"{image.name} is not whole"
        async for part in walk(services, image.target):
            key = (await services.content.info(part.digest)).labels.get(GC_REF_SNAPSHOT + "overlayfs", "")
            while key:
                assert key in infos, f"{image.name}: the snapshot {key} is missing"
                await check_layer(services, key)
                key = infos[key].parent


async def check_layer(services: Services, key: str) -> None:
    """A view of a snapshot on nothing shows its files themselves: the directory must not be empty."""
    store, name = services.snapshotter("overlayfs"), f"look at {key}"
    with contextlib.suppress(NotFound):
        await store.remove(name)
    mounts = await store.view(name, key)
    top = next((o for o in mounts[0].options if o.startswith("lowerdir=")), "lowerdir=" + mounts[0].source)
    directory = Path(top.removeprefix("lowerdir=").split(":")[0])
    check_directory(directory, key)
    await store.remove(name)


def check_directory(directory: Path, key: str) -> None:
    """The files of a layer: some, and the marker with all of its text."""
    assert any(directory.iterdir()), f"the snapshot {key} has lost its files"
    for marker in directory.glob("marker-*"):
        assert marker.read_bytes() == marker.name.encode() * 500, f"{marker} of the snapshot {key} is damaged"


async def clean_up(services: Services, promises: Promises) -> None:
    """Remove what the clients that were cut off could not: containers that ran, and leases of verbs."""
    for container in await services.containers.list():
        if not container.id.startswith("record-"):
            with contextlib.suppress(NotFound):
                await remove(services, await find_container(services, container.id), force=True)
    for task in await services.tasks.list():
        with contextlib.suppress(NotFound, FailedPrecondition):
            await services.tasks.kill(task.id, signal.SIGKILL)
        with contextlib.suppress(NotFound):
            await services.tasks.delete(task.id)
    for lease in await services.leases.list():
        if lease.id not in promises.there["lease"]:
            await services.leases.delete(lease.id)
    for ingest in await services.content.list_statuses():
        if not await _is_held(services, Resource("ingests", ingest.ref)):
            with contextlib.suppress(NotFound):
                await services.content.abort(ingest.ref)


async def _is_held(services: Services, resource: Resource) -> bool:
    for lease in await services.leases.list():
        if resource in await services.leases.list_resources(lease.id):
            return True
    return False


async def collect(services: Services) -> None:
    """One collection, waited for."""
    await services.leases.create("collect")
    await services.leases.delete("collect", sync=True)


async def check_disk(daemon: Daemon, services: Services) -> None:
    """What is on disk is what is referenced, counted here anew from what the API says."""
    blobs, snapshots, ingests = await referenced(services)
    content = daemon.root / "io.containerd.content.v1.content"
    same("blobs on disk", {"sha256:" + name for name in names_in(content / "blobs/sha256")}, blobs)
    same("blobs", {str(info.digest) async for info in services.content.list()}, blobs)
    refs = {(content / "ingest" / name / "ref").read_text() for name in names_in(content / "ingest")}
    statuses = {status.ref for status in await services.content.list_statuses()}
    same("ingests on disk", {ref.split("/", 2)[2] for ref in refs}, statuses)
    same("ingests", statuses, statuses & ingests)  # a lease may also name some whose making was cut off
    same("snapshots", {info.name async for info in services.snapshotter("overlayfs").walk()}, snapshots)
    places = names_in(daemon.root / DRIVER / "snapshots")
    assert len(places) == len(snapshots), f"{len(places)} snapshots on disk: {sorted(places)}; want {sorted(snapshots)}"
    same("removed snapshots", names_in(daemon.root / DRIVER / "removed"), set())
    tasks = {task.id for task in await services.tasks.list()}
    for place in (daemon.state, daemon.root):
        same(f"bundles in {place}", names_in(place / "io.containerd.runtime.v2.task" / NAMESPACE), tasks)


def same(what: str, found: set[str], wanted: set[str]) -> None:
    """Fails with the difference."""
    assert found == wanted, f"{what}: too many {sorted(found - wanted)}, missing {sorted(wanted - found)}"


def names_in(directory: Path) -> set[str]:
    """Entries of a directory; none if it is not there."""
    return set(os.listdir(directory)) if directory.is_dir() else set()


async def referenced(services: Services) -> tuple[set[str], set[str], set[str]]:
    """Digests, keys of snapshots and refs of ingests that images, containers and leases hold."""
    infos = {str(info.digest): info async for info in services.content.list()}
    parents = {info.name: info.parent async for info in services.snapshotter("overlayfs").walk()}
    blobs, snapshots, ingests = set[str](), set[str](), set[str]()
    waiting = [("content", str(image.target.digest)) for image in await services.images.list()]
    waiting += [("snapshots/overlayfs", record.snapshot_key) for record in await services.containers.list()]
    async for resource in _resources(services):
        waiting.append((resource.type, resource.id))
    while waiting:
        kind, name = waiting.pop()
        if kind == "ingests":
            ingests.add(name)
        elif kind == "content" and name in infos and name not in blobs:
            blobs.add(name)
            waiting += _labelled(infos[name])
        elif kind == "snapshots/overlayfs" and name in parents and name not in snapshots:
            snapshots.add(name)
            waiting.append((kind, parents[name]))
    return blobs, snapshots, ingests


async def _resources(services: Services) -> AsyncIterator[Resource]:
    for lease in await services.leases.list():
        for resource in await services.leases.list_resources(lease.id):
            yield resource


def _labelled(info: ContentInfo) -> list[tuple[str, str]]:
    return [
        ("snapshots/overlayfs" if key.startswith(GC_REF_SNAPSHOT) else "content", value)
        for key, value in info.labels.items()
        if key.startswith(GC_REF)
    ]
