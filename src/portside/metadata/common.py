"""What the stores of this package share: filtering, leases' holds, label rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from portside.core.filters import Adaptor, compile_filters
from portside.core.labels import check_labels, merge_labels
from portside.core.leases import Resource
from portside.errors import InvalidArgument, NotFound
from portside.metadata.database import Transaction
from portside.metadata.schema import LEASES, RESOURCES, resource_key

T = TypeVar("T")


def matching(records: Iterable[T], filters: Sequence[str], fields: Callable[[T], Adaptor]) -> list[T]:
    """The records that match any of ``filters``; all without one."""
    accepts = compile_filters(filters)
    return [record for record in records if accepts is None or accepts(fields(record))]


def new_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Checked, without those that have no value, as containerd stores them."""
    check_labels(labels or {})
    return {key: value for key, value in (labels or {}).items() if value}


def updated_labels(
    old: Mapping[str, str], new: Mapping[str, str], fieldpaths: Sequence[str], what: str
) -> dict[str, str]:
    """Labels after an update that may change nothing else; InvalidArgument for a path that names something else."""
    for path in fieldpaths:
        if path != "labels" and not path.startswith("labels."):
            raise InvalidArgument(f"update {what}: the field {path!r} cannot be changed")
    merged = merge_labels(old, new, tuple(fieldpaths))
    check_labels(merged)
    return merged


def hold(tx: Transaction, namespace: str, lease: str, resource: Resource) -> None:
    """Let ``lease`` (none if empty) hold ``resource``; NotFound if there is no such lease."""
    if not lease:
        return
    if tx.get(LEASES, (namespace,), lease) is None:
        raise NotFound(f"lease {lease!r} in namespace {namespace!r}: not found")
    tx.put(RESOURCES, (namespace, lease), resource_key(resource), resource)


def let_go(tx: Transaction, namespace: str, lease: str, resource: Resource) -> None:
    """Undo ``hold``; missing is fine."""
    if lease:
        tx.delete(RESOURCES, (namespace, lease), resource_key(resource))
