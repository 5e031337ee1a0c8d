"""Timestamps, Any, descriptors, platforms and mounts: what all other messages are made of."""

from __future__ import annotations

from collections.abc import Iterable

from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.errors import InvalidArgument
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest
from portside.oci.platform import Platform
from portside.wire.pb.containerd.types import descriptor_pb2, mount_pb2, platform_pb2
from portside.wire.pb.google.protobuf import any_pb2, timestamp_pb2


def timestamp_to_pb(ns: int) -> timestamp_pb2.Timestamp:
    """From nanoseconds since the epoch."""
    return timestamp_pb2.Timestamp(seconds=ns // 1_000_000_000, nanos=ns % 1_000_000_000)


def timestamp_from_pb(message: timestamp_pb2.Timestamp) -> int:
    """To nanoseconds since the epoch; an unset one is 0, and so is the zero time of Go (the year 1)."""
    return 0 if message.seconds < 0 else message.seconds * 1_000_000_000 + message.nanos


def any_to_pb(value: AnyMessage | None) -> any_pb2.Any | None:
    """None stays None, which leaves a field unset."""
    return None if value is None else any_pb2.Any(type_url=value.type_url, value=value.value)


def any_from_pb(message: any_pb2.Any) -> AnyMessage | None:
    """An unset or empty Any is None."""
    if not message.type_url and not message.value:
        return None
    return AnyMessage(message.type_url, message.value)


def descriptor_to_pb(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    """The platform does not travel: the message has no place for it."""
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def descriptor_from_pb(message: descriptor_pb2.Descriptor) -> Descriptor:
    """InvalidArgument for a digest that is none or a negative size."""
    if message.size < 0:
        raise InvalidArgument(f"descriptor {message.digest[:100]}: size {message.size} is negative")
    return Descriptor(message.media_type, Digest.parse(message.digest), message.size, dict(message.annotations))


def platform_to_pb(platform: Platform) -> platform_pb2.Platform:
    """Field by field."""
    return platform_pb2.Platform(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def platform_from_pb(message: platform_pb2.Platform) -> Platform:
    """Normalised."""
    return Platform(
        message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features)
    ).normalized()


def mount_to_pb(mount: Mount) -> mount_pb2.Mount:
    """Field by field."""
    return mount_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)


def mounts_to_pb(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    """A list of them."""
    return [mount_to_pb(mount) for mount in mounts]


def mounts_from_pb(messages: Iterable[mount_pb2.Mount]) -> tuple[Mount, ...]:
    """A list of them."""
    return tuple(Mount(m.type, m.source, m.target, tuple(m.options)) for m in messages)
