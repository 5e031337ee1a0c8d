"""Labels that have a meaning, and the rules for labels and identifiers (containerd: pkg/labels, pkg/identifiers)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from portside.errors import InvalidArgument

GC_ROOT = "containerd.io/gc.root"
GC_EXPIRE = "containerd.io/gc.expire"
GC_FLAT = "containerd.io/gc.flat"
GC_REF = "containerd.io/gc.ref."
GC_BREF = "containerd.io/gc.bref."
GC_COND_SNAPSHOT = "containerd.io/gc.cond.snapshot"
GC_COND_USED_AT = "containerd.io/gc.cond.value-usedat"
GC_REF_CONTENT = "containerd.io/gc.ref.content"
GC_REF_SNAPSHOT = "containerd.io/gc.ref.snapshot."
UNCOMPRESSED = "containerd.io/uncompressed"
DISTRIBUTION_SOURCE = "containerd.io/distribution.source."
SNAPSHOT_REF = "containerd.io/snapshot.ref"
DEFAULT_SNAPSHOTTER = "containerd.io/defaults/snapshotter"
DEFAULT_RUNTIME = "containerd.io/defaults/runtime"
SHAREABLE = "containerd.io/namespace.shareable"
RESTART_STATUS = "containerd.io/restart.status"
"""What a container is to be, ``running`` or ``stopped``, which somebody sees to; absent: nobody does."""
RESTART_POLICY = "containerd.io/restart.policy"
RESTART_COUNT = "containerd.io/restart.count"
RESTART_LOG = "containerd.io/restart.loguri"
RESTART_STOPPED = "containerd.io/restart.explicitly-stopped"

MAX_LABEL = 4096
"""Key and value together, in bytes."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*", re.ASCII)
_MAX_IDENTIFIER = 76


def check_labels(labels: Mapping[str, str]) -> None:
    """InvalidArgument for a label with an empty key or longer than ``MAX_LABEL``."""
    for key, value in labels.items():
        if not key or len(key.encode()) + len(value.encode()) > MAX_LABEL:
            raise InvalidArgument(
                f"label {key[:64]!r}: want a key, and at most {MAX_LABEL} bytes of key and value together"
            )


def check_identifier(text: str, what: str) -> str:
    """``text`` itself, if it may name a container, lease or namespace; else InvalidArgument."""
    if not text or len(text) > _MAX_IDENTIFIER or not _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(
            f"{what} {text[:100]!r}: want up to {_MAX_IDENTIFIER} letters and digits, with single . _ - between"
        )
    return text


def merge_labels(old: Mapping[str, str], new: Mapping[str, str], fieldpaths: tuple[str, ...]) -> dict[str, str]:
    """Labels after an update: ``labels`` (or no path) replaces all, ``labels.<key>`` one; an empty value removes."""
    if not fieldpaths or "labels" in fieldpaths:
        return {key: value for key, value in new.items() if value}
    merged = dict(old)
    for path in fieldpaths:
        key = path.removeprefix("labels.")
        if key == path:
            continue
        if new.get(key):
            merged[key] = new[key]
        else:
            merged.pop(key, None)
    return merged
