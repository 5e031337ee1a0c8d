"""Create: a container's record and its snapshot, ready to start.

The record is written first: it holds the snapshot, so no lease is needed in between.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from portside.client.closure import config_of, manifest_of
from portside.client.image_user import image_user, known_user
from portside.client.labels import AUTO_REMOVE, IMAGE_DIGEST, LOG, LOG_FORMAT, NAME, STOP_SIGNAL, inherited
from portside.client.leasing import leased
from portside.client.names import check_name, new_id, new_name
from portside.client.places import MAX_LOG, Places
from portside.client.remove import discard
from portside.client.restart import NO, RestartPolicy, restart_labels
from portside.client.run_options import RunOptions
from portside.client.signals import parse_signal
from portside.client.spec import make_spec
from portside.client.unpack import is_unpacked, unpack
from portside.client.users import User
from portside.core.anymessage import RUNC_OPTIONS, SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.mount import Mount
from portside.core.services import Services
from portside.errors import AlreadyExists, InvalidArgument
from portside.oci.digest import Digest, chain_id
from portside.oci.image import ImageConfig, Manifest


@dataclass(frozen=True, slots=True)
class Created:
    """A container that can be started, and how to see its root."""

    container: Container
    rootfs: tuple[Mount, ...]


async def create(
    services: Services, places: Places, image: Image, options: RunOptions, *, remove: bool = False
) -> Created:
    """Make a container of ``image``, unpacking it if need be; ``remove`` marks it to go when it has ended.

    AlreadyExists if the name is taken; NotFound for an image that is not here for this platform, or a user that the
    image does not have. Nothing stays if it fails.
    """
    options.check()
    if options.name:
        check_name(options.name)
    if remove and RestartPolicy.parse(options.restart).name != NO:
        raise InvalidArgument(f"a container that is to be removed when it has ended, and restart {options.restart!r}")
    _, manifest = await manifest_of(services, image.target)
    config = await config_of(services, manifest)
    snapshotter = options.snapshotter or services.default_snapshotter
    chain = await _ensure_unpacked(services, manifest, config, snapshotter)
    id = new_id()
    wanted = options.user or config.user
    known = known_user(chain, wanted, options.groups)
    spec = _spec(services, id, config, options, known or User())
    container = Container(
        id, options.runtime or await services.default_runtime(), spec,
        labels=_labels(services, places, id, image, config, options, remove),
        image=image.name, runtime_options=_runtime_options(options), snapshotter=snapshotter, snapshot_key=id,
    )  # fmt: skip
    record, mounts = await _record(services, container, chain)
    try:
        if options.name:
            await _claim_name(services, record, options.name)
        if known is None:
            user = await image_user(mounts, wanted, options.groups, chain)
            if user != User():
                record = await services.containers.update(
                    replace(record, spec=_spec(services, id, config, options, user)), ("spec",)
                )
    except BaseException:
        await discard(services, record)
        raise
    return Created(record, mounts)


async def _record(services: Services, container: Container, chain: str) -> tuple[Container, tuple[Mount, ...]]:
    """Record and snapshot, asked for together so that one write to disk can do for both."""
    store = services.snapshotter(container.snapshotter)
    made = asyncio.ensure_future(services.containers.create(container))
    prepared = asyncio.ensure_future(store.prepare(container.snapshot_key, chain))
    try:
        return await made, await prepared
    except BaseException:
        await asyncio.gather(made, prepared, return_exceptions=True)
        await discard(services, container)
        raise


async def _ensure_unpacked(services: Services, manifest: Manifest, config: ImageConfig, snapshotter: str) -> Digest:
    if await is_unpacked(services, config.diff_ids, snapshotter):
        return chain_id(list(config.diff_ids))
    async with leased(services) as held:
        return await unpack(held, manifest, config, snapshotter)


async def _claim_name(services: Services, container: Container, name: str) -> None:
    """After the record is there, so that of two at once at most one stays."""
    others = await services.containers.list([f'labels."{NAME}"=="{name}"', f'id=="{name}"'])
    for other in others:
        if other.id != container.id and (other.created_ns, other.id) < (container.created_ns, container.id):
            raise AlreadyExists(f"container {name!r}: the name is taken by {other.id[:12]}")


def _spec(services: Services, id: str, config: ImageConfig, options: RunOptions, user: User) -> AnyMessage:
    devices: list[dict[str, Any]] = []
    if options.privileged:
        from portside.client.host_devices import host_devices

        devices = host_devices()
    document = make_spec(id, services.namespace, config, options, user, host_devices=devices)
    return AnyMessage(SPEC, json.dumps(document, separators=(",", ":")).encode("utf-8", "surrogateescape"))


def _labels(
    services: Services, places: Places, id: str, image: Image, config: ImageConfig, options: RunOptions, remove: bool
) -> Mapping[str, str]:
    labels = inherited(config.labels)
    labels[NAME] = options.name or new_name(id)
    labels[LOG] = places.log_path(services.namespace, id)
    labels[IMAGE_DIGEST] = image.target.digest
    if not places.lines:
        labels[LOG_FORMAT] = "raw"
    policy = RestartPolicy.parse(options.restart)
    labels.update(restart_labels(policy, places.log_uri(labels[LOG], max_size=MAX_LOG)))
    if remove:
        labels[AUTO_REMOVE] = "true"
    signal = options.stop_signal or config.stop_signal
    if signal:
        parse_signal(signal)
        labels[STOP_SIGNAL] = signal
    labels.update(options.labels)
    return labels


def _runtime_options(options: RunOptions) -> AnyMessage | None:
    if not options.runtime_binary:
        return None
    from portside.wire.pb.containerd.types.runc.options import oci_pb2

    return AnyMessage(RUNC_OPTIONS, oci_pb2.Options(binary_name=options.runtime_binary).SerializeToString())
