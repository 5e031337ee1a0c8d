"""The tables of the metadata database, and how a record becomes a row and a row a record.

One row per record. A record is found by its *scope* (what its name is unique in) and its *key* (the name there);
both together are the primary key. Maps are stored as JSON objects, times as nanoseconds since the epoch.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.content import ContentInfo
from portside.core.images import Image
from portside.core.leases import Lease, Resource
from portside.core.mount import Mount
from portside.core.mounts import Activation, ActiveMount
from portside.core.sandboxes import Sandbox
from portside.core.snapshots import Kind, SnapshotInfo, Usage
from portside.metadata.records import Activated, Ingest, Scope, Snapshot
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest

R = TypeVar("R")
Row = tuple[Any, ...]

VERSION = 2
"""Of the schema (``PRAGMA user_version``); an older one is migrated (``ADDED``), a newer one is refused."""
APPLICATION_ID = 0x70647364
"""``PRAGMA application_id``, so that file(1) and we can tell whose database it is."""


@dataclass(frozen=True, eq=False, slots=True)
class Table(Generic[R]):
    """One kind of record; ``scope`` and ``key`` name columns, ``columns`` are the others with their SQL types."""

    name: str
    scope: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    encode: Callable[[R], Row]
    """The values of ``columns``."""
    decode: Callable[[Scope, str, Row], R]
    """A record from its scope, its key and the values of ``columns``."""

    @property
    def create(self) -> str:
        """The statement that makes it."""
        names = ", ".join([f"{name} TEXT NOT NULL" for name in self.scope + self.key] + list(self.columns))
        return f"CREATE TABLE {self.name} ({names}, PRIMARY KEY ({', '.join(self.scope + self.key)}))"

    @property
    def names(self) -> tuple[str, ...]:
        """All columns in the order of ``row``."""
        return self.scope + self.key + tuple(column.partition(" ")[0] for column in self.columns)

    @property
    def insert(self) -> str:
        """The statement that writes a row, new or not."""
        return f"INSERT OR REPLACE INTO {self.name} VALUES ({', '.join('?' * len(self.names))})"

    @property
    def delete(self) -> str:
        """The statement that removes a row by scope and key."""
        return f"DELETE FROM {self.name} WHERE {' AND '.join(f'{name} = ?' for name in self.scope + self.key)}"

    def identity(self, scope: Scope, key: str) -> Row:
        """The values of the primary key."""
        return (*scope, *key.split("\0")) if len(self.key) > 1 else (*scope, key)

    def row(self, scope: Scope, key: str, record: R) -> Row:
        """All values of a record."""
        return self.identity(scope, key) + self.encode(record)

    def record(self, row: Row) -> tuple[Scope, str, R]:
        """What a row says; ValueError, KeyError or a PortsideError if it cannot be."""
        split, end = len(self.scope), len(self.scope) + len(self.key)
        scope, key = tuple(row[:split]), "\0".join(row[split:end])
        return scope, key, self.decode(scope, key, tuple(row[end:]))


def resource_key(resource: Resource) -> str:
    """The key of a lease's resource."""
    return f"{resource.type}\0{resource.id}"


def _map(values: Mapping[str, str]) -> str:
    return json.dumps(dict(values), ensure_ascii=False, separators=(",", ":")) if values else "{}"


def _any(message: AnyMessage | None) -> tuple[str | None, bytes | None]:
    return (message.type_url, message.value) if message is not None else (None, None)


def _any_from(type_url: str | None, value: bytes | None) -> AnyMessage | None:
    return AnyMessage(type_url, value or b"") if type_url is not None else None


def _extensions(extensions: Mapping[str, AnyMessage]) -> str:
    if not extensions:
        return "{}"
    return json.dumps({key: [value.type_url, b64encode(value.value).decode()] for key, value in extensions.items()})


def _extensions_from(text: str) -> dict[str, AnyMessage]:
    return {name: AnyMessage(url, b64decode(value)) for name, (url, value) in json.loads(text).items()}


def _container(container: Container) -> Row:
    return (
        container.runtime,
        *_any(container.runtime_options),
        *_any(container.spec),
        container.image,
        container.snapshotter,
        container.snapshot_key,
        container.sandbox_id,
        _map(container.labels),
        _extensions(container.extensions),
        container.created_ns,
        container.updated_ns,
    )


def _container_from(scope: Scope, key: str, row: Row) -> Container:
    return Container(
        id=key,
        runtime=row[0],
        runtime_options=_any_from(row[1], row[2]),
        spec=_any_from(row[3], row[4]),
        image=row[5],
        snapshotter=row[6],
        snapshot_key=row[7],
        sandbox_id=row[8],
        labels=json.loads(row[9]),
        extensions=_extensions_from(row[10]),
        created_ns=row[11],
        updated_ns=row[12],
    )


def _image(image: Image) -> Row:
    return (json.dumps(image.target.to_json()), _map(image.labels), image.created_ns, image.updated_ns)


def _image_from(scope: Scope, key: str, row: Row) -> Image:
    return Image(key, Descriptor.from_json(json.loads(row[0])), json.loads(row[1]), row[2], row[3])


def _ingest(ingest: Ingest) -> Row:
    return (ingest.key, ingest.expected, ingest.shared_size, ingest.expires_ns, ingest.started_ns)


def _ingest_from(scope: Scope, key: str, row: Row) -> Ingest:
    return Ingest(key, row[0], Digest.parse(row[1]) if row[1] else None, row[2], row[3], row[4])


def _content(info: ContentInfo) -> Row:
    return (info.size, _map(info.labels), info.created_ns, info.updated_ns)


def _content_from(scope: Scope, key: str, row: Row) -> ContentInfo:
    return ContentInfo(Digest.parse(key), row[0], json.loads(row[1]), row[2], row[3])


def _snapshot(snapshot: Snapshot) -> Row:
    info, usage = snapshot.info, snapshot.usage
    return (
        snapshot.number,
        info.parent,
        int(info.kind),
        usage.inodes if usage else None,
        usage.size if usage else None,
        _map(info.labels),
        info.created_ns,
        info.updated_ns,
    )


def _snapshot_from(scope: Scope, key: str, row: Row) -> Snapshot:
    info = SnapshotInfo(key, row[1], Kind(row[2]), json.loads(row[5]), row[6], row[7])
    return Snapshot(info, row[0], Usage(row[3], row[4]) if row[3] is not None else None)


def _sandbox(sandbox: Sandbox) -> Row:
    return (
        sandbox.runtime,
        *_any(sandbox.runtime_options),
        *_any(sandbox.spec),
        sandbox.sandboxer,
        _map(sandbox.labels),
        _extensions(sandbox.extensions),
        sandbox.created_ns,
        sandbox.updated_ns,
    )


def _sandbox_from(scope: Scope, key: str, row: Row) -> Sandbox:
    return Sandbox(
        key,
        runtime=row[0],
        runtime_options=_any_from(row[1], row[2]),
        spec=_any_from(row[3], row[4]),
        sandboxer=row[5],
        labels=json.loads(row[6]),
        extensions=_extensions_from(row[7]),
        created_ns=row[8],
        updated_ns=row[9],
    )


def _mount(mount: Mount) -> list[Any]:
    return [mount.type, mount.source, mount.target, list(mount.options)]


def _mount_from(values: list[Any]) -> Mount:
    return Mount(values[0], values[1], values[2], tuple(values[3]))


def _activated(activated: Activated) -> Row:
    info = activated.info
    active = [[_mount(m.mount), m.mount_point, m.mounted_ns, dict(m.data)] for m in info.active]
    system = [_mount(mount) for mount in info.system]
    return (
        activated.number,
        activated.lease,
        json.dumps(active),
        json.dumps(system),
        _map(info.labels),
        activated.created_ns,
        activated.updated_ns,
    )


def _activated_from(scope: Scope, key: str, row: Row) -> Activated:
    active = tuple(ActiveMount(_mount_from(mount), *rest) for mount, *rest in json.loads(row[2]))
    system = tuple(_mount_from(values) for values in json.loads(row[3]))
    return Activated(Activation(key, active, system, json.loads(row[4])), row[0], row[1], row[5], row[6])


_TIMES = ("created INTEGER NOT NULL", "updated INTEGER NOT NULL")

NAMESPACES: Table[Mapping[str, str]] = Table(
    "namespaces", (), ("name",), ("labels TEXT NOT NULL",),
    lambda labels: (_map(labels),), lambda scope, key, row: json.loads(row[0]),
)  # fmt: skip
"""A namespace's labels."""

CONTAINERS: Table[Container] = Table(
    "containers", ("namespace",), ("id",),
    (
        "runtime TEXT NOT NULL", "options_type TEXT", "options BLOB", "spec_type TEXT", "spec BLOB",
        "image TEXT NOT NULL", "snapshotter TEXT NOT NULL", "snapshot_key TEXT NOT NULL", "sandbox TEXT NOT NULL",
        "labels TEXT NOT NULL", "extensions TEXT NOT NULL", *_TIMES,
    ),
    _container, _container_from,
)  # fmt: skip

IMAGES: Table[Image] = Table(
    "images", ("namespace",), ("name",), ("target TEXT NOT NULL", "labels TEXT NOT NULL", *_TIMES), _image, _image_from
)

LEASES: Table[Lease] = Table(
    "leases", ("namespace",), ("id",), ("labels TEXT NOT NULL", "created INTEGER NOT NULL"),
    lambda lease: (_map(lease.labels), lease.created_ns),
    lambda scope, key, row: Lease(key, json.loads(row[0]), row[1]),
)  # fmt: skip

RESOURCES: Table[Resource] = Table(
    "resources", ("namespace", "lease"), ("type", "id"), (),
    lambda resource: (), lambda scope, key, row: Resource(*key.split("\0", 1)),
)  # fmt: skip
"""What leases hold."""

CONTENT: Table[ContentInfo] = Table(
    "content", ("namespace",), ("digest",), ("size INTEGER NOT NULL", "labels TEXT NOT NULL", *_TIMES),
    _content, _content_from,
)  # fmt: skip

INGESTS: Table[Ingest] = Table(
    "ingests", ("namespace",), ("ref",),
    (
        "key TEXT NOT NULL", "expected TEXT", "shared_size INTEGER NOT NULL",
        "expires INTEGER NOT NULL", "started INTEGER NOT NULL",
    ),
    _ingest, _ingest_from,
)  # fmt: skip

SNAPSHOTS: Table[Snapshot] = Table(
    "snapshots", ("namespace", "snapshotter"), ("key",),
    (
        "number INTEGER NOT NULL", "parent TEXT NOT NULL", "kind INTEGER NOT NULL", "inodes INTEGER", "size INTEGER",
        "labels TEXT NOT NULL", *_TIMES,
    ),
    _snapshot, _snapshot_from,
)  # fmt: skip

SANDBOXES: Table[Sandbox] = Table(
    "sandboxes", ("namespace",), ("id",),
    (
        "runtime TEXT NOT NULL", "options_type TEXT", "options BLOB", "spec_type TEXT", "spec BLOB",
        "sandboxer TEXT NOT NULL", "labels TEXT NOT NULL", "extensions TEXT NOT NULL", *_TIMES,
    ),
    _sandbox, _sandbox_from,
)  # fmt: skip

MOUNTS: Table[Activated] = Table(
    "mounts", ("namespace",), ("name",),
    (
        "number INTEGER NOT NULL", "lease TEXT NOT NULL", "active TEXT NOT NULL", "system TEXT NOT NULL",
        "labels TEXT NOT NULL", *_TIMES,
    ),
    _activated, _activated_from,
)  # fmt: skip
"""Activated mounts."""

COUNTERS: Table[int] = Table(
    "counters", (), ("name",), ("value INTEGER NOT NULL",), lambda value: (value,), lambda scope, key, row: int(row[0])
)
"""Numbers given out so far: ``snapshot/<snapshotter>``, ``ingest`` and ``mount``."""

IDENTITY: Table[str] = Table(
    "identity", (), ("name",), ("value TEXT NOT NULL",), lambda value: (value,), lambda scope, key, row: str(row[0])
)
"""What this root is: ``uuid``."""

TABLES: tuple[Table[Any], ...] = (
    NAMESPACES, CONTAINERS, IMAGES, LEASES, RESOURCES, CONTENT, INGESTS, SNAPSHOTS, SANDBOXES, MOUNTS, COUNTERS,
    IDENTITY,
)  # fmt: skip

ADDED: Mapping[int, tuple[Table[Any], ...]] = {2: (SANDBOXES, MOUNTS)}
"""The tables that each version of the schema has more than the one before."""
