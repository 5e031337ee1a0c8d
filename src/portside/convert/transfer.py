"""Objects of transfers and what travels on their streams: domain objects to and from typed values (Any).

An object with a callback names a stream in its message; here that is only a name. Who opens and reads streams:
``remote/transfer.py`` for a caller, ``api/containerd/transfer.py`` for a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from portside.convert.basics import descriptor_from_pb, descriptor_to_pb, platform_from_pb, platform_to_pb
from portside.core.anymessage import AnyMessage
from portside.core.transfer import (
    ImageReference,
    ImageStore,
    Progress,
    RegistryCredentials,
    Snapshot,
    UnpackConfiguration,
)
from portside.errors import InvalidArgument
from portside.oci.platform import Platform
from portside.wire.pb.containerd.types import platform_pb2
from portside.wire.pb.containerd.types.transfer import (
    imagestore_pb2,
    progress_pb2,
    registry_pb2,
    streaming_pb2,
)
from portside.wire.pb.portside.types.transfer.v1 import snapshot_pb2

M = TypeVar("M")


def pack_any(message: Any) -> AnyMessage:
    """A message as a typed value; the type URL is the bare name, as containerd writes it."""
    return AnyMessage(message.DESCRIPTOR.full_name, message.SerializeToString())


def unpack_any(value: AnyMessage, kind: type[M], what: str) -> M:
    """``value`` as a message of ``kind``; InvalidArgument if it is of another type or cannot be read."""
    wanted = kind.DESCRIPTOR.full_name  # type: ignore[attr-defined]
    if value.type_name != wanted:
        raise InvalidArgument(f"{what}: {value.type_url[:200]!r} came where {wanted} is wanted")
    return parse_any(value, kind, what)


def parse_any(value: AnyMessage, kind: type[M], what: str) -> M:
    """``value``, whose type is known, as a message of ``kind``; InvalidArgument if it cannot be read."""
    from google.protobuf.message import DecodeError

    try:
        message: M = kind.FromString(value.value)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise InvalidArgument(f"{what}: {value.type_url[:200]!r} cannot be decoded") from error
    return message


def data_to_any(data: bytes) -> AnyMessage:
    """A part of a stream of bytes."""
    return pack_any(streaming_pb2.Data(data=data))


def window_to_any(size: int) -> AnyMessage:
    """Leave to send so many bytes more."""
    return pack_any(streaming_pb2.WindowUpdate(update=size))


def data_from_any(value: AnyMessage, what: str) -> bytes:
    """A part of a stream of bytes; InvalidArgument for anything else."""
    return unpack_any(value, streaming_pb2.Data, what).data


def window_from_any(value: AnyMessage, what: str) -> int:
    """Leave to send; InvalidArgument for anything else."""
    return unpack_any(value, streaming_pb2.WindowUpdate, what).update


def progress_to_any(progress: Progress) -> AnyMessage:
    """Field by field."""
    return pack_any(
        progress_pb2.Progress(
            event=progress.event, name=progress.name, parents=progress.parents, progress=progress.progress,
            total=progress.total, desc=descriptor_to_pb(progress.descriptor) if progress.descriptor else None,
        )
    )  # fmt: skip


def progress_from_any(value: AnyMessage) -> Progress:
    """InvalidArgument for anything else."""
    message = unpack_any(value, progress_pb2.Progress, "progress stream")
    return Progress(
        message.event, message.name, tuple(message.parents), message.progress, message.total,
        descriptor_from_pb(message.desc) if message.HasField("desc") and message.desc.digest else None,
    )  # fmt: skip


def auth_response(found: RegistryCredentials | None) -> AnyMessage:
    """The answer to an AuthRequest."""
    if found is None:
        return pack_any(registry_pb2.AuthResponse(authType=registry_pb2.NONE))
    if found.header:
        return pack_any(registry_pb2.AuthResponse(authType=registry_pb2.HEADER, secret=found.header))
    kind = registry_pb2.CREDENTIALS if found.username else registry_pb2.REFRESH
    return pack_any(registry_pb2.AuthResponse(authType=kind, username=found.username, secret=found.secret))


def credentials_from_any(value: AnyMessage, what: str) -> RegistryCredentials | None:
    """An AuthResponse; None for one without a secret, which is how containerd's clients say that they have none."""
    message = unpack_any(value, registry_pb2.AuthResponse, what)
    if message.authType == registry_pb2.NONE or not (message.secret or message.username):
        return None
    if message.authType == registry_pb2.HEADER:
        return RegistryCredentials(header=message.secret)
    if message.authType == registry_pb2.CREDENTIALS:
        return RegistryCredentials(message.username, message.secret)
    if message.authType == registry_pb2.REFRESH:
        return RegistryCredentials(secret=message.secret)
    raise InvalidArgument(f"{what}: credentials of kind {message.authType} are not known")


def platforms_from_pb(messages: Iterable[platform_pb2.Platform]) -> tuple[Platform, ...]:
    """Normalised; InvalidArgument for one without operating system or architecture."""
    return tuple(_platform(message) for message in messages)


def _platform(message: platform_pb2.Platform) -> Platform:
    if not message.os or not message.architecture:
        raise InvalidArgument(f"platform {message.os[:50]!r}/{message.architecture[:50]!r}: want both parts")
    return platform_from_pb(message)


def image_store_to_pb(store: ImageStore) -> imagestore_pb2.ImageStore:
    """Field by field."""
    return imagestore_pb2.ImageStore(
        name=store.name, labels=store.labels, platforms=[platform_to_pb(each) for each in store.platforms],
        all_metadata=store.all_metadata, manifest_limit=store.manifest_limit,
        extra_references=[
            imagestore_pb2.ImageReference(
                name=each.name, is_prefix=each.is_prefix, allow_overwrite=each.allow_overwrite,
                add_digest=each.add_digest, skip_named_digest=each.skip_named_digest,
            )
            for each in store.extra_references
        ],
        unpacks=[
            imagestore_pb2.UnpackConfiguration(
                platform=platform_to_pb(each.platform) if each.platform else None, snapshotter=each.snapshotter
            )
            for each in store.unpacks
        ],
    )  # fmt: skip


def image_store_from_pb(message: imagestore_pb2.ImageStore) -> ImageStore:
    """InvalidArgument for a platform that is none or a prefix without text."""
    references = tuple(
        ImageReference(each.name, each.is_prefix, each.allow_overwrite, each.add_digest, each.skip_named_digest)
        for each in message.extra_references
    )
    if not all(each.name for each in references):
        raise InvalidArgument("image store: an extra reference has no name")
    unpacks = tuple(
        UnpackConfiguration(_platform(each.platform) if each.platform.os else None, each.snapshotter)
        for each in message.unpacks
    )
    return ImageStore(
        message.name, dict(message.labels), platforms_from_pb(message.platforms), message.all_metadata,
        message.manifest_limit, references, unpacks,
    )  # fmt: skip


def snapshot_to_pb(snapshot: Snapshot) -> snapshot_pb2.Snapshot:
    """Field by field."""
    return snapshot_pb2.Snapshot(
        snapshotter=snapshot.snapshotter, key=snapshot.key, parent=snapshot.parent, labels=snapshot.labels
    )


def snapshot_from_pb(message: snapshot_pb2.Snapshot) -> Snapshot:
    """Field by field."""
    return Snapshot(message.key, message.parent, message.snapshotter, dict(message.labels))
