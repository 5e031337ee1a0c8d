"""What records show to filters (``grammar``): a function from a field path to its text for each kind of ours.

The adaptors of events and plugins are with their owners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portside.core.containers import Container
from portside.core.content import ContentInfo, IngestStatus
from portside.core.grammar import MAX_FILTER, MAX_FILTERS, Adaptor, FieldPath, Filter, compile_filters
from portside.core.images import Image
from portside.core.leases import Lease
from portside.core.mounts import Activation
from portside.core.sandboxes import Sandbox
from portside.core.snapshots import Kind, SnapshotInfo

__all__ = ["MAX_FILTER", "MAX_FILTERS", "Adaptor", "FieldPath", "Filter", "compile_filters"]


def from_map(path: Iterable[str], values: Mapping[str, str]) -> str | None:
    """A label by the rest of its path, which may have dots: ``labels.a.b`` is the label ``a.b``."""
    return values.get(".".join(path))


def container_fields(container: Container) -> Adaptor:
    """``id``, ``image``, ``runtime.name``, ``labels.<key>``; ours: ``snapshotter``, ``snapshot_key``, ``sandbox``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return container.id or None
            case ["image"]:
                return container.image or None
            case ["runtime", "name"]:
                return container.runtime or None
            case ["snapshotter"]:
                return container.snapshotter or None
            case ["snapshot_key"]:
                return container.snapshot_key or None
            case ["sandbox"]:
                return container.sandbox_id or None
            case ["labels", *rest]:
                return from_map(rest, container.labels)
        return None

    return field


def image_fields(image: Image) -> Adaptor:
    """``name``, ``target.digest``, ``target.mediatype``, ``labels.<key>``, ``annotations.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["name"]:
                return image.name or None
            case ["target", "digest"]:
                return str(image.target.digest)
            case ["target", "mediatype"]:
                return image.target.media_type or None
            case ["labels", *rest]:
                return from_map(rest, image.labels)
            case ["annotations", *rest]:
                return from_map(rest, image.target.annotations)
        return None

    return field


def content_fields(info: ContentInfo) -> Adaptor:
    """``digest``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["digest"]:
                return str(info.digest)
            case ["labels", *rest]:
                return from_map(rest, info.labels)
        return None

    return field


def ingest_fields(status: IngestStatus) -> Adaptor:
    """``ref``."""
    return lambda path: status.ref if path == ("ref",) else None


def lease_fields(lease: Lease) -> Adaptor:
    """``id``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return lease.id or None
            case ["labels", *rest]:
                return from_map(rest, lease.labels)
        return None

    return field


_KINDS = {Kind.ACTIVE: "active", Kind.VIEW: "view", Kind.COMMITTED: "committed"}


def snapshot_fields(info: SnapshotInfo) -> Adaptor:
    """``kind`` (active, view, committed), ``name``, ``parent``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["kind"]:
                return _KINDS.get(info.kind)
            case ["name"]:
                return info.name
            case ["parent"]:
                return info.parent or None
            case ["labels", *rest]:
                return from_map(rest, info.labels)
        return None

    return field


def sandbox_fields(sandbox: Sandbox) -> Adaptor:
    """``id``, ``labels.<key>``; ours: ``runtime.name``, ``sandboxer``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["id"]:
                return sandbox.id
            case ["runtime", "name"]:
                return sandbox.runtime or None
            case ["sandboxer"]:
                return sandbox.sandboxer or None
            case ["labels", *rest]:
                return from_map(rest, sandbox.labels)
        return None

    return field


def activation_fields(activation: Activation) -> Adaptor:
    """``name``, ``labels.<key>``."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ["name"]:
                return activation.name
            case ["labels", *rest]:
                return from_map(rest, activation.labels)
        return None

    return field
