"""``ctr containers checkpoint`` and ``restore``, ``ctr tasks checkpoint``.

A checkpoint is an image whose index names what was saved: the runtime's options, the image's manifest, the writable
layer, and what the server made of the task. Whether tasks can be saved is for the server to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from portside.cli.ctr.command import Session, command, complain
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.tasking import run_task
from portside.cli.options import Option
from portside.client.closure import config_of, manifest_of, read_document
from portside.client.exec import first_process
from portside.client.leasing import hold, leased
from portside.convert.basics import any_from_pb, descriptor_from_pb
from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.content import read_blob
from portside.core.images import Image
from portside.core.labels import GC_REF_CONTENT
from portside.core.services import Services
from portside.errors import AlreadyExists, InvalidArgument, NotFound, PortsideError
from portside.oci.descriptor import INDEX, LAYER_GZIP, Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.image import Index
from portside.oci.platform import host_platform
from portside.remote.backend import RemoteServices
from portside.remote.caller import Caller
from portside.wire.pb.containerd.services.tasks.v1 import tasks_pb2
from portside.wire.pb.containerd.types.runc.options import oci_pb2
from portside.wire.pb.google.protobuf import any_pb2

_TASK = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
_CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_OPTIONS = "application/vnd.containerd.container.checkpoint.options.v1+proto"
_RUNTIME_OPTIONS = "application/vnd.containerd.container.checkpoint.runtime.options+proto"
_IMAGE_NAME = "org.opencontainers.image.ref.name"
_RUNTIME = "io.containerd.checkpoint.runtime"
_SNAPSHOTTER = "io.containerd.checkpoint.snapshotter"
_CHECKPOINT_OPTIONS = "containerd.runc.v1.CheckpointOptions"


async def _checkpoint_task(
    session: Session, services: RemoteServices, id: str, options: oci_pb2.CheckpointOptions
) -> list[Descriptor]:
    """What the server made of the task: its state, and the container's specification."""
    caller = Caller(session.backend.channel, "containerd.services.tasks.v1.Tasks", session.namespace, services.lease)
    request = tasks_pb2.CheckpointTaskRequest(container_id=id)
    request.options.type_url, request.options.value = _CHECKPOINT_OPTIONS, options.SerializeToString()
    response = await caller.call("Checkpoint", request, tasks_pb2.CheckpointTaskResponse, timeout=None)
    return [replace(descriptor_from_pb(each), platform=host_platform()) for each in response.descriptors]


@command(
    "CONTAINER REF",
    Option("--rw", help="with what was written"),
    Option("--image", help="with the image"),
    Option("--task", help="with the task's memory"),
)
async def checkpoint(session: Session, values: Values, words: Sequence[str]) -> None:
    """A task is frozen meanwhile."""
    id, name = words
    async with leased(session.services) as services:
        assert isinstance(services, RemoteServices)
        container = await services.containers.get(id)
        paused = await _pause(services, id)
        try:
            parts = await _parts(session, services, container, values)
        finally:
            if paused:
                try:
                    await services.tasks.resume(id)
                except PortsideError as error:
                    complain(f"task {id}: it stays frozen: {error}")
        annotations = {_IMAGE_NAME: container.image, _RUNTIME: container.runtime, _SNAPSHOTTER: container.snapshotter}
        await services.images.create(Image(name, await _write_index(services, parts, annotations)))


async def _pause(services: Services, id: str) -> bool:
    try:
        await services.tasks.get(id)
    except NotFound:
        return False
    await services.tasks.pause(id)
    return True


async def _parts(session: Session, services: RemoteServices, container: Container, values: Values) -> list[Descriptor]:
    parts: list[Descriptor] = []
    if container.runtime_options is not None and container.runtime_options.value:
        parts.append(await _write_any(services, container.runtime_options, _RUNTIME_OPTIONS))
    if values["image"]:
        parts.append((await services.images.get(container.image)).target)
    if values["rw"]:
        store = services.snapshotter(container.snapshotter)
        view = f"{container.snapshot_key}-checkpoint-{os.urandom(4).hex()}"
        parent = (await store.stat(container.snapshot_key)).parent
        lower = await store.view(view, parent)
        try:
            upper = await store.mounts(container.snapshot_key)
            layer = await services.diff.compare(lower, upper, media_type=LAYER_GZIP)
        finally:
            await store.remove(view)
        parts.append(replace(layer, platform=host_platform()))
    if values["task"]:
        options = oci_pb2.CheckpointOptions(file_locks=True)
        parts += await _checkpoint_task(session, services, container.id, options)
        saved = AnyMessage(_CHECKPOINT_OPTIONS, options.SerializeToString())
        parts.append(await _write_any(services, saved, _OPTIONS))
    return parts


async def _write_any(services: Services, message: AnyMessage, media_type: str) -> Descriptor:
    packed = any_pb2.Any(type_url=message.type_url, value=message.value)
    return replace(await _write(services, packed.SerializeToString(), media_type, {}), platform=host_platform())


async def _write(services: Services, data: bytes, media_type: str, labels: Mapping[str, str]) -> Descriptor:
    digest = Digest.of(data)
    try:
        writer = await services.content.writer(f"checkpoint-{digest}", len(data), digest)
    except AlreadyExists:
        await hold(services, "content", digest)
        return Descriptor(media_type, digest, len(data))
    try:
        await writer.truncate(0)
        await writer.write(data)
        await writer.commit(len(data), digest, labels)
    finally:
        await writer.close()
    return Descriptor(media_type, digest, len(data))


async def _write_index(services: Services, parts: Sequence[Descriptor], annotations: Mapping[str, str]) -> Descriptor:
    data = json.dumps(Index(INDEX, tuple(parts), annotations).to_json(), separators=(",", ":")).encode()
    labels = {f"{GC_REF_CONTENT}.{number}": str(part.digest) for number, part in enumerate(parts)}
    return await _write(services, data, INDEX, labels)


@command(
    "CONTAINER REF",
    Option("--rw", help="with what was written"),
    Option("--live", help="with the task's memory"),
    asks_snapshotters=True,
)
async def restore(session: Session, values: Values, words: Sequence[str]) -> int:
    """Makes the container anew and starts it; stays with it if it has a terminal."""
    id, name = words
    async with leased(session.services) as services:
        saved = await services.images.get(name)
        index = await read_document(services, saved.target)
        if not isinstance(index, Index) or not index.annotations.get(_IMAGE_NAME):
            raise InvalidArgument(f"image {name}: not a checkpoint of a container")
        container = await _restored(services, id, index, with_changes=values["rw"])
        mounts = await services.snapshotter(container.snapshotter).mounts(id)
        state = _part(index, _TASK) if values["live"] else None
        chosen = Values(()) | {"detach": not first_process(container).get("terminal"), "log_uri": "", "fifo_dir": ""}
        chosen["pid_file"] = ""
        return await run_task(services, container, mounts, chosen, checkpoint=state)  # type: ignore[arg-type]


def _part(index: Index, media_type: str) -> Descriptor:
    for part in index.manifests:
        if part.media_type == media_type:
            return part
    raise NotFound(f"checkpoint: nothing of type {media_type} was saved")


async def _restored(services: Services, id: str, index: Index, *, with_changes: bool) -> Container:
    """Record and snapshot as they were."""
    spec = any_from_pb(any_pb2.Any.FromString(await read_blob(services.content, _part(index, _CONFIG).digest)))
    image = await services.images.get(index.annotations[_IMAGE_NAME])
    _, manifest = await manifest_of(services, image.target)
    config = await config_of(services, manifest)
    snapshotter = index.annotations.get(_SNAPSHOTTER) or services.default_snapshotter
    store = services.snapshotter(snapshotter)
    mounts = await store.prepare(id, chain_id(list(config.diff_ids)))
    try:
        if with_changes:
            await services.diff.apply(_part(index, LAYER_GZIP), mounts)
        options = [part for part in index.manifests if part.media_type == _RUNTIME_OPTIONS]
        runtime_options = None
        if options:
            packed = await read_blob(services.content, options[0].digest)
            runtime_options = any_from_pb(any_pb2.Any.FromString(packed))
        container = Container(
            id, index.annotations.get(_RUNTIME, ""), spec, {}, image.name, runtime_options, snapshotter, id
        )
        return await services.containers.create(container)
    except BaseException:
        await store.remove(id)
        raise


@command(
    "CONTAINER",
    Option("--exit", help="end the task then"),
    Flag("--image-path", value="DIR", help="write criu's files there, no image"),
    Flag("--work-path", value="DIR", help="for criu's logs"),
)
async def checkpoint_task(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints the name of the image that was made, unless its files went to a directory."""
    options = oci_pb2.CheckpointOptions(
        exit=values["exit"], image_path=values["image_path"], work_path=values["work_path"]
    )
    async with leased(session.services) as services:
        assert isinstance(services, RemoteServices)
        container = await services.containers.get(words[0])
        parts = await _checkpoint_task(session, services, container.id, options)
        if values["image_path"]:
            return
        annotations = {_IMAGE_NAME: container.image, _RUNTIME: container.runtime, _SNAPSHOTTER: container.snapshotter}
        target = await _write_index(services, parts, annotations)
        name = f"containerd.io/checkpoint/{container.id}:{os.urandom(8).hex()}"
        await services.images.create(Image(name, target))
    print(name)
