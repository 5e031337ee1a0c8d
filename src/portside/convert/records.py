"""Namespaced records: containers, images, leases, blobs, ingests and snapshots."""

from __future__ import annotations

from portside.convert.basics import (
    any_from_pb,
    any_to_pb,
    descriptor_from_pb,
    descriptor_to_pb,
    timestamp_from_pb,
    timestamp_to_pb,
)
from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo, IngestStatus
from portside.core.images import Image
from portside.core.leases import Lease, Resource
from portside.core.snapshots import Kind, SnapshotInfo
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest
from portside.wire.pb.containerd.services.containers.v1 import containers_pb2
from portside.wire.pb.containerd.services.content.v1 import content_pb2
from portside.wire.pb.containerd.services.images.v1 import images_pb2
from portside.wire.pb.containerd.services.leases.v1 import leases_pb2
from portside.wire.pb.containerd.services.snapshots.v1 import snapshots_pb2


def container_to_pb(container: Container) -> containers_pb2.Container:
    """The spec as the bytes that came."""
    return containers_pb2.Container(
        id=container.id,
        labels=container.labels,
        image=container.image,
        runtime=containers_pb2.Container.Runtime(name=container.runtime, options=any_to_pb(container.runtime_options)),
        spec=any_to_pb(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=timestamp_to_pb(container.created_ns),
        updated_at=timestamp_to_pb(container.updated_ns),
        extensions={key: any_to_pb(value) for key, value in container.extensions.items()},  # type: ignore[misc]
        sandbox=container.sandbox_id,
    )


def container_from_pb(message: containers_pb2.Container) -> Container:
    """Field by field."""
    return Container(
        id=message.id,
        runtime=message.runtime.name,
        spec=any_from_pb(message.spec),
        labels=dict(message.labels),
        image=message.image,
        runtime_options=any_from_pb(message.runtime.options),
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        created_ns=timestamp_from_pb(message.created_at),
        updated_ns=timestamp_from_pb(message.updated_at),
        extensions={key: AnyMessage(value.type_url, value.value) for key, value in message.extensions.items()},
        sandbox_id=message.sandbox,
    )


def image_to_pb(image: Image) -> images_pb2.Image:
    """Field by field."""
    return images_pb2.Image(
        name=image.name,
        labels=image.labels,
        target=descriptor_to_pb(image.target),
        created_at=timestamp_to_pb(image.created_ns),
        updated_at=timestamp_to_pb(image.updated_ns),
    )


def image_from_pb(message: images_pb2.Image) -> Image:
    """InvalidArgument if the target is not a descriptor; one without digest is kept, for updates of something else."""
    target = message.target
    empty = Descriptor(target.media_type, Digest(), target.size, dict(target.annotations))
    return Image(
        message.name,
        descriptor_from_pb(target) if target.digest else empty,
        dict(message.labels),
        timestamp_from_pb(message.created_at),
        timestamp_from_pb(message.updated_at),
    )


def lease_to_pb(lease: Lease) -> leases_pb2.Lease:
    """Field by field."""
    return leases_pb2.Lease(id=lease.id, labels=lease.labels, created_at=timestamp_to_pb(lease.created_ns))


def lease_from_pb(message: leases_pb2.Lease) -> Lease:
    """Field by field."""
    return Lease(message.id, dict(message.labels), timestamp_from_pb(message.created_at))


def resource_to_pb(resource: Resource) -> leases_pb2.Resource:
    """Field by field."""
    return leases_pb2.Resource(id=resource.id, type=resource.type)


def resource_from_pb(message: leases_pb2.Resource) -> Resource:
    """Field by field."""
    return Resource(message.type, message.id)


def content_info_to_pb(info: ContentInfo) -> content_pb2.Info:
    """Field by field."""
    return content_pb2.Info(
        digest=info.digest,
        size=info.size,
        labels=info.labels,
        created_at=timestamp_to_pb(info.created_ns),
        updated_at=timestamp_to_pb(info.updated_ns),
    )


def content_info_from_pb(message: content_pb2.Info) -> ContentInfo:
    """InvalidArgument for a digest that is none."""
    return ContentInfo(
        Digest.parse(message.digest),
        message.size,
        dict(message.labels),
        timestamp_from_pb(message.created_at),
        timestamp_from_pb(message.updated_at),
    )


def ingest_status_to_pb(status: IngestStatus) -> content_pb2.Status:
    """Field by field."""
    return content_pb2.Status(
        started_at=timestamp_to_pb(status.started_ns),
        updated_at=timestamp_to_pb(status.updated_ns),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )


def ingest_status_from_pb(message: content_pb2.Status) -> IngestStatus:
    """Field by field."""
    return IngestStatus(
        message.ref,
        message.offset,
        message.total,
        message.expected,
        timestamp_from_pb(message.started_at),
        timestamp_from_pb(message.updated_at),
    )


def snapshot_info_to_pb(info: SnapshotInfo) -> snapshots_pb2.Info:
    """Field by field."""
    return snapshots_pb2.Info(
        name=info.name,
        parent=info.parent,
        kind=int(info.kind),  # type: ignore[arg-type]
        labels=info.labels,
        created_at=timestamp_to_pb(info.created_ns),
        updated_at=timestamp_to_pb(info.updated_ns),
    )


def snapshot_info_from_pb(message: snapshots_pb2.Info) -> SnapshotInfo:
    """A kind nobody defined is UNKNOWN."""
    kind = Kind(message.kind) if message.kind in Kind._value2member_map_ else Kind.UNKNOWN
    return SnapshotInfo(
        message.name,
        message.parent,
        kind,
        dict(message.labels),
        timestamp_from_pb(message.created_at),
        timestamp_from_pb(message.updated_at),
    )
