"""What the root of an upstream containerd holds: its bolt databases as our records. Reads only.

    <root>/io.containerd.metadata.v1.bolt/meta.db                 the records that clients see, by namespace
    <root>/io.containerd.snapshotter.v1.<name>/metadata.db        which directory a snapshot is, and its kind
    <root>/io.containerd.snapshotter.v1.<name>/snapshots/<id>     the directory; overlayfs has fs/ and work/ in it
    <root>/io.containerd.content.v1.content/blobs/<alg>/<hex>     content, as we have it

A snapshot has a key (what clients say) and a name in its snapshotter, ``<namespace>/<sequence>/<key>``. Numbers are
varints, times Go's binary ones, specs and options ``google.protobuf.Any``. Both databases are read under bolt's lock,
so nobody changes them meanwhile. Not here: what becomes of it (``takeover``).

Source: containerd's core/metadata/buckets.go and core/snapshots/storage/bolt.go (their schema), Go's
time.Time.MarshalBinary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.leases import Lease, Resource
from portside.core.sandboxes import Sandbox
from portside.core.snapshots import Kind, SnapshotInfo, Usage
from portside.doctor.bolt import BoltFile, Bucket
from portside.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest
from portside.wire.pb.google.protobuf.any_pb2 import Any as AnyPb

METADATA = "io.containerd.metadata.v1.bolt"
CONTENT = "io.containerd.content.v1.content"
SNAPSHOTTER = "io.containerd.snapshotter.v1."
SCHEMA = "v1"
VERSIONS = (2, 3, 4)
"""Minor versions of the schema that we know: 1.2 and 1.3; 1.4 to 2.0; later."""
DIRECTORIES = {"overlayfs": "fs", "native": ""}
"""The snapshotters whose snapshots are directories that we can take, and where in such a directory the files are."""
_YEAR_ONE = 62_135_596_800
"""Seconds from Go's zero time to the epoch."""


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot as a snapshotter and the metadata together know it."""

    namespace: str
    snapshotter: str
    info: SnapshotInfo
    """By the keys that clients use."""
    files: Path | None
    """The directory of its files; None where the snapshotter is not one of ``DIRECTORIES``."""
    usage: Usage | None = None


@dataclass(slots=True)
class Upstream:
    """All that was read."""

    root: Path
    version: int
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    content: list[tuple[str, ContentInfo]] = field(default_factory=list)
    images: list[tuple[str, Image]] = field(default_factory=list)
    containers: list[tuple[str, Container]] = field(default_factory=list)
    sandboxes: list[tuple[str, Sandbox]] = field(default_factory=list)
    leases: list[tuple[str, Lease, tuple[Resource, ...]]] = field(default_factory=list)
    snapshots: list[StoredSnapshot] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What is there and is not among these, each with the reason."""

    def blob(self, digest: Digest) -> Path:
        """Where a blob is."""
        return self.root / CONTENT / "blobs" / digest.algorithm / digest.hex


def read(root: Path) -> Upstream:
    """Read a stopped containerd's root.

    NotFound if it is none; Unavailable while containerd runs; DataLoss for a damaged database; FailedPrecondition for
    a schema that is not known.
    """
    path = root / METADATA / "meta.db"
    if not path.exists():
        raise NotFound(f"{root}: there is no {METADATA}/meta.db in it: not the root of a containerd")
    with BoltFile(path) as file:
        schema = file.root.bucket(SCHEMA)
        if schema is None:
            names = ", ".join(name for name, _ in file.root.buckets()) or "nothing"
            raise FailedPrecondition(f"{path}: its schema is not known (found {names}, want {SCHEMA})")
        version = varint(schema.value("version")) if schema.value("version") else 0
        if version not in VERSIONS:
            raise FailedPrecondition(f"{path}: schema {SCHEMA}.{version} is not known; want one of {VERSIONS}")
        found = Upstream(root, version)
        try:
            for namespace, bucket in schema.buckets():
                _namespace(found, namespace, bucket)
            _snapshots(found, dict(schema.buckets()))
        except (InvalidArgument, ValueError, struct.error) as error:
            raise DataLoss(f"{path}: damaged: {error}") from error
    return found


def _namespace(found: Upstream, namespace: str, bucket: Bucket) -> None:
    found.namespaces[namespace] = bucket.texts("labels")
    for name, record in bucket.buckets("content", "blob"):
        digest, created, updated = Digest.parse(name), *_times(record)
        info = ContentInfo(digest, varint(record.value("size")), record.texts("labels"), created, updated)
        found.content.append((namespace, info))
    for name, record in bucket.buckets("images"):
        found.images.append((namespace, _image(name, record)))
    for name, record in bucket.buckets("containers"):
        found.containers.append((namespace, _container(name, record)))
    for name, record in bucket.buckets("leases"):
        lease = Lease(name, record.texts("labels"), _times(record)[0])
        found.leases.append((namespace, lease, tuple(_resources(record))))
    for name, _ in bucket.buckets("content", "ingests"):
        found.left_out.append(f"ingest {namespace}/{name}: a download that was not finished")
    for name, record in bucket.buckets("sandboxes"):
        found.sandboxes.append((namespace, _sandbox(name, record)))


def _image(name: str, record: Bucket) -> Image:
    target = record.bucket("target")
    if target is None:
        raise InvalidArgument(f"image {name}: it has no target")
    size, annotations = varint(target.value("size")), target.texts("annotations")
    descriptor = Descriptor(target.text("mediatype"), Digest.parse(target.text("digest")), size, annotations)
    return Image(name, descriptor, record.texts("labels"), *_times(record))


def _container(id: str, record: Bucket) -> Container:
    runtime = record.bucket("runtime")
    created, updated = _times(record)
    return Container(
        id=id,
        runtime=runtime.text("name") if runtime is not None else "",
        runtime_options=_any(runtime.value("options")) if runtime is not None else None,
        spec=_any(record.value("spec")),
        labels=record.texts("labels"),
        image=record.text("image"),
        snapshotter=record.text("snapshotter"),
        snapshot_key=record.text("snapshotKey"),
        sandbox_id=record.text("sandboxid"),
        extensions=_extensions(record),
        created_ns=created,
        updated_ns=updated,
    )


def _sandbox(id: str, record: Bucket) -> Sandbox:
    runtime = record.bucket("runtime")
    created, updated = _times(record)
    return Sandbox(
        id=id,
        runtime=runtime.text("name") if runtime is not None else "",
        runtime_options=_any(runtime.value("options")) if runtime is not None else None,
        spec=_any(record.value("spec")),
        labels=record.texts("labels"),
        extensions=_extensions(record),
        sandboxer=record.text("sandboxer"),
        created_ns=created,
        updated_ns=updated,
    )


def _extensions(record: Bucket) -> dict[str, AnyMessage]:
    extensions = record.bucket("extensions")
    return {
        key.decode(): message
        for key, value in (extensions.items() if extensions is not None else ())
        if isinstance(value, bytes) and (message := _any(value)) is not None
    }


def _resources(record: Bucket) -> Iterator[Resource]:
    for kind in ("content", "ingests", "images"):
        bucket = record.bucket(kind)
        for key, _ in bucket.items() if bucket is not None else ():
            yield Resource(kind, key.decode())
    for snapshotter, bucket in record.buckets("snapshots"):
        for key, _ in bucket.items():
            yield Resource(f"snapshots/{snapshotter}", key.decode())


def _snapshots(found: Upstream, namespaces: dict[str, Bucket]) -> None:
    """Join what the metadata and the snapshotters know."""
    stores: dict[str, dict[str, StoredSnapshot]] = {}
    for namespace, bucket in namespaces.items():
        for snapshotter, records in bucket.buckets("snapshots"):
            if snapshotter not in stores:
                stores[snapshotter] = _stored(found.root, snapshotter)
            for key, record in records.buckets():
                _snapshot(found, namespace, snapshotter, key, record, stores[snapshotter].get(record.text("name")))


def _snapshot(
    found: Upstream, namespace: str, snapshotter: str, key: str, record: Bucket, stored: StoredSnapshot | None
) -> None:
    if snapshotter not in DIRECTORIES:
        found.left_out.append(
            f"snapshot {namespace}/{snapshotter}/{key}: snapshots of {snapshotter} cannot be taken over; unpack again"
        )
        return
    if stored is None:
        found.left_out.append(
            f"snapshot {namespace}/{snapshotter}/{key}: {snapshotter}'s own database does not know it"
        )
        return
    labels = record.texts("labels")
    info = SnapshotInfo(key, record.text("parent"), stored.info.kind, labels, *_times(record))
    found.snapshots.append(StoredSnapshot(namespace, snapshotter, info, stored.files, stored.usage))


def _stored(root: Path, snapshotter: str) -> dict[str, StoredSnapshot]:
    """What a snapshotter's own database says, by its names; nothing where there is none, or it is another kind."""
    path = root / f"{SNAPSHOTTER}{snapshotter}" / "metadata.db"
    if snapshotter not in DIRECTORIES or not path.exists():
        return {}
    stored = {}
    with BoltFile(path) as file:
        for name, record in file.root.buckets(SCHEMA, "snapshots"):
            try:
                stored[name] = _stored_snapshot(path.parent, snapshotter, name, record)
            except InvalidArgument as error:
                raise DataLoss(f"{path}: damaged: snapshot {name}: {error}") from error
    return stored


def _stored_snapshot(root: Path, snapshotter: str, name: str, record: Bucket) -> StoredSnapshot:
    kind = record.value("kind")
    if len(kind) != 1 or not 1 <= kind[0] <= 3:
        raise InvalidArgument(f"it is of kind {kind[:8]!r}")
    files = root / "snapshots" / str(uvarint(record.value("id"))) / DIRECTORIES[snapshotter]
    usage = None
    if record.value("inodes"):
        usage = Usage(varint(record.value("inodes")), varint(record.value("size")))
    return StoredSnapshot("", snapshotter, SnapshotInfo(name, record.text("parent"), Kind(kind[0])), files, usage)


def _times(record: Bucket) -> tuple[int, int]:
    """Created and updated, nanoseconds since the epoch."""
    created = go_time(record.value("createdat"))
    return created, go_time(record.value("updatedat")) or created


def go_time(data: bytes) -> int:
    """Nanoseconds since the epoch of Go's binary time; 0 for none and for Go's zero time. InvalidArgument."""
    if not data:
        return 0
    if len(data) not in (15, 16) or data[0] not in (1, 2):
        raise InvalidArgument(f"a time of {len(data)} bytes")
    seconds, nanoseconds = map(int, struct.unpack(">qi", data[1:13]))
    return min(max(0, (seconds - _YEAR_ONE) * 1_000_000_000 + nanoseconds), (1 << 63) - 1)


def uvarint(data: bytes) -> int:
    """An unsigned varint; InvalidArgument."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value
    raise InvalidArgument(f"{data[:16]!r} is not a number")


def varint(data: bytes) -> int:
    """A signed (zigzag) varint; InvalidArgument, also for numbers below zero, which no field of these has."""
    value = uvarint(data)
    if value & 1:
        raise InvalidArgument(f"{data[:16]!r} is a number below zero")
    return value >> 1


def _any(data: bytes) -> AnyMessage | None:
    if not data:
        return None
    try:
        message = AnyPb.FromString(data)
    except Exception as error:  # what protobuf raises depends on its implementation
        raise InvalidArgument(f"a message that cannot be read: {error}") from error
    return AnyMessage(message.type_url, message.value) if message.type_url or message.value else None
