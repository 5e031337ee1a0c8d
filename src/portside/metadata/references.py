"""What holds what: the graph that garbage collection walks, as data. Nothing here changes anything.

    kind        kept by itself                      holds
    lease       unless it has expired               its resources (with gc.flat those alone)
    image       unless it has expired               its target
    container   always                              its snapshot
    sandbox     always
    content     with gc.root, or a gc.expire ahead
    snapshot    with gc.root, or a gc.expire ahead  its parent
    mount       with gc.root, or a gc.expire ahead
    ingest      while open, or until it expires     the blob that it is expected to become

All but leases and ingests also hold what their labels name:

    gc.ref.content[.name], gc.ref.image[.name],
    gc.ref.mount[.name]                             a digest; an image's name; an activation's name
    gc.ref.snapshot.<snapshotter>[/name]            a key
    gc.cond.snapshot.<snapshotter>[/name]           ``usedat<24h|key``: the snapshot ``key``, while the time in its
                                                    label gc.cond.value-usedat is less than a day ago
                                                    (``usedat>1h|key``: more than an hour ago; commas mean or)

and a label gc.bref.… of the same forms (also gc.bref.container) lets its bearer be held by what it names. A kind of
record that another module adds joins by a row in ``KINDS``. Source: containerd docs/garbage-collection.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

from portside.core import labels as known
from portside.core.durations import parse_duration
from portside.core.leases import Resource
from portside.errors import InvalidArgument
from portside.metadata.records import Scope
from portside.metadata.schema import (
    CONTAINERS,
    CONTENT,
    IMAGES,
    INGESTS,
    LEASES,
    MOUNTS,
    SANDBOXES,
    SNAPSHOTS,
    Table,
)
from portside.metadata.state import State

log = logging.getLogger(__name__)

Node: TypeAlias = tuple[Table[Any], Scope, str]
"""A record by table, scope and key."""

_NO_LABELS: Mapping[str, str] = {}


class Kept(Enum):
    """When a record is kept though nothing holds it."""

    ALWAYS = "always"
    UNLESS_EXPIRED = "unless gc.expire has passed"
    BY_LABEL = "with gc.root, or until gc.expire"
    BY_COLUMNS = "by what is not in labels"


def _nothing(node: Node, record: Any) -> Iterator[Node]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record in the graph. All but ingests have ``labels``, or an ``info`` that has them."""

    table: Table[Any]
    kept: Kept
    label: str = ""
    """Its word in gc.ref.<label> and gc.bref.<label>; empty: labels cannot name it."""
    resource: str = ""
    """Its word in the type of a lease's resource; empty: leases cannot hold it."""
    holds: Callable[[Node, Any], Iterator[Node]] = _nothing
    """What it holds apart from what its labels name."""


def _of_image(node: Node, record: Any) -> Iterator[Node]:
    yield CONTENT, node[1], record.target.digest


def _of_container(node: Node, record: Any) -> Iterator[Node]:
    if record.snapshotter and record.snapshot_key:
        yield SNAPSHOTS, (node[1][0], record.snapshotter), record.snapshot_key


def _of_snapshot(node: Node, record: Any) -> Iterator[Node]:
    if record.info.parent:
        yield SNAPSHOTS, node[1], record.info.parent


def _of_ingest(node: Node, record: Any) -> Iterator[Node]:
    if record.expected:
        yield CONTENT, node[1], record.expected


KINDS = (
    Kind(LEASES, Kept.UNLESS_EXPIRED),
    Kind(MOUNTS, Kept.BY_LABEL, "mount", "mounts"),
    Kind(IMAGES, Kept.UNLESS_EXPIRED, "image", "images", _of_image),
    Kind(INGESTS, Kept.BY_COLUMNS, "", "ingests", _of_ingest),
    Kind(CONTENT, Kept.BY_LABEL, "content", "content"),
    Kind(SNAPSHOTS, Kept.BY_LABEL, "snapshot", "snapshots", _of_snapshot),
    Kind(CONTAINERS, Kept.ALWAYS, "container", "", _of_container),
    Kind(SANDBOXES, Kept.ALWAYS),
)
"""Every kind there is."""

KIND: Mapping[Table[Any], Kind] = {kind.table: kind for kind in KINDS}
_BY_LABEL = {kind.label: kind for kind in KINDS if kind.label}
_BY_RESOURCE = {kind.resource: kind for kind in KINDS if kind.resource}


def labels_of(record: Any) -> Mapping[str, str]:
    """A record's labels; none for an ingest."""
    return getattr(getattr(record, "info", record), "labels", _NO_LABELS)


def held_by_record(node: Node, record: Any) -> Iterator[Node]:
    """What a record holds itself, and by the labels gc.ref.…; not its conditions, and not a lease's resources."""
    yield from KIND[node[0]].holds(node, record)
    for label, value in labels_of(record).items():
        if label.startswith(known.GC_REF) and (target := _named(label[len(known.GC_REF) :], value, node[1][0])):
            yield target


def holders_of_record(node: Node, record: Any) -> Iterator[Node]:
    """What a record says that it is held by, with the labels gc.bref.…."""
    for label, value in labels_of(record).items():
        if label.startswith(known.GC_BREF) and (target := _named(label[len(known.GC_BREF) :], value, node[1][0])):
            yield target


def held_on_condition(node: Node, record: Any, state: State, now_ns: int) -> Iterator[tuple[Node, int]]:
    """The snapshots that a record holds because a condition is met, each with when it will not be any more (0: ever).

    A condition that cannot be read is passed over.
    """
    for label, value in labels_of(record).items():
        if not label.startswith(known.GC_COND_SNAPSHOT):
            continue
        conditions, bar, key = value.partition("|")
        target = _named("snapshot." + label[len(known.GC_COND_SNAPSHOT) :].lstrip("./"), key, node[1][0])
        snapshot = state.get(*target) if bar and target else None
        used_ns = time_ns(labels_of(snapshot).get(known.GC_COND_USED_AT, "")) if snapshot is not None else None
        if target is None or used_ns is None:
            continue
        for condition in conditions.split(","):
            sign, age_ns = _condition(condition)
            if sign == "<" and now_ns - used_ns < age_ns:
                yield target, used_ns + age_ns
            elif sign == ">" and now_ns - used_ns > age_ns:
                yield target, 0


def _condition(text: str) -> tuple[str, int]:
    """``usedat<1h`` as its sign and nanoseconds; no sign for what is none."""
    for sign in "<>":
        name, found, age = text.partition(sign)
        if found and name == "usedat":
            try:
                return sign, int(parse_duration(age) * 1e9)
            except InvalidArgument:
                break
    return "", 0


def resource_node(namespace: str, resource: Resource) -> Node | None:
    """The record that a lease's resource is; None for a type that is not one of ours."""
    word, _, snapshotter = resource.type.partition("/")
    kind = _BY_RESOURCE.get(word)
    if kind is None:
        return None
    return kind.table, (namespace, snapshotter) if kind.table is SNAPSHOTS else (namespace,), resource.id


def _named(label: str, value: str, namespace: str) -> Node | None:
    """What a label names, given what follows ``gc.ref.``; a name after a dot or slash only tells labels apart."""
    word = label.split(".", 1)[0].split("/", 1)[0]
    kind = _BY_LABEL.get(word)
    if kind is None:
        return None
    if kind.table is not SNAPSHOTS:
        return kind.table, (namespace,), value
    snapshotter = label[len(word) :].split("/", 1)[0].removeprefix(".")
    return (SNAPSHOTS, (namespace, snapshotter), value) if snapshotter else None


def expiry(labels: Mapping[str, str]) -> int | None:
    """``gc.expire`` in nanoseconds; None without one. What is no RFC 3339 time is taken as never, and logged."""
    text = labels.get(known.GC_EXPIRE)
    if text is None:
        return None
    end = time_ns(text)
    if end is None:
        _warn_of_time(text[:60])
    return end


@lru_cache(256)
def _warn_of_time(text: str) -> None:
    log.warning("label %s=%r is not a time; taken as never", known.GC_EXPIRE, text)


def time_ns(text: str) -> int | None:
    """An RFC 3339 time in nanoseconds since the epoch, to the millisecond; None for what is none."""
    try:
        moment = datetime.fromisoformat(_to_microseconds(text))
        return int(moment.timestamp() * 1000) * 1_000_000 if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _to_microseconds(text: str) -> str:
    """Go writes up to nine decimals, Python reads six."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[: min(digits, 6)].ljust(6, '0')}{rest[digits:]}" if dot else text
