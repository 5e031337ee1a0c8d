"""Reading values out of ``linux.resources``: a client's JSON is checked here before the kernel sees any of it."""

from __future__ import annotations

from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def section(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object below ``parent``; empty if absent or null."""
    found = parent.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgument(f"linux.resources: {key} must be an object")
    return found


def items(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects below ``parent``; empty if absent or null."""
    found = parent.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InvalidArgument(f"linux.resources: {key} must be a list of objects")
    return found


def integer(parent: Mapping[str, Any], key: str) -> int | None:
    """A whole number that fits 64 bits, or None if absent."""
    found = parent.get(key)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not -(1 << 63) <= found < 1 << 64:
        raise InvalidArgument(f"linux.resources: {key} {str(found)[:80]!r} is not a whole number")
    return found


def text(parent: Mapping[str, Any], key: str) -> str:
    """One line of text; InvalidArgument otherwise."""
    found = parent.get(key)
    if not isinstance(found, str) or not found or "\n" in found or "\0" in found:
        raise InvalidArgument(f"linux.resources: {key} {str(found)[:80]!r} is not a line of text")
    return found


def page_size(limit: Mapping[str, Any]) -> str:
    """``2MB`` of a ``hugepageLimits`` entry; it becomes part of a file's name."""
    size = text(limit, "pageSize")
    if not size.isalnum():
        raise InvalidArgument(f"linux.resources: pageSize {size[:80]!r} is not a size like 2MB")
    return size


def device_number(device: Mapping[str, Any]) -> str:
    """``major:minor`` of a block device entry."""
    major, minor = integer(device, "major"), integer(device, "minor")
    if major is None or minor is None:
        raise InvalidArgument("linux.resources.blockIO: a device needs major and minor")
    return f"{major}:{minor}"


def pids_limit(pids: Mapping[str, Any]) -> str:
    """The value for ``pids.max``: empty if none is asked, ``max`` if negative; 0 would let nothing start, so 1."""
    limit = integer(pids, "limit")
    if limit is None:
        return ""
    return "max" if limit < 0 else str(limit or 1)
