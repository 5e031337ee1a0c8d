"""Names of containers and of their control groups. Pure."""

from __future__ import annotations

from portside.errors import InvalidArgument

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_MAX_ID = 1024


def check_id(id: str) -> None:
    """``InvalidArgument`` unless ``id`` can name a directory and a control group."""
    if not id or len(id) > _MAX_ID or id in (".", "..") or not _ID_CHARACTERS.issuperset(id):
        raise InvalidArgument(f"container id {id[:80]!r}: letters, digits, '_', '+', '-' and '.' only")


def cgroup_path(path: str, id: str, systemd: bool) -> str:
    """The control group for ``linux.cgroupsPath``; with ``systemd`` that is written "slice:prefix:name"."""
    if not systemd:
        return path or f"/portside/{id}"
    parts = path.split(":") if path else ["system.slice", "portside", id]
    if len(parts) != 3 or not parts[2]:
        raise InvalidArgument("linux.cgroupsPath: with systemd it must be slice:prefix:name")
    slice_name, prefix, name = parts
    slice_name = slice_name or "system.slice"
    if not slice_name.endswith(".slice") or "/" in path or "--" in slice_name:
        raise InvalidArgument(f"linux.cgroupsPath: {slice_name[:80]!r} is not a slice")
    steps = slice_name[: -len(".slice")].split("-")
    above = "".join("/" + "-".join(steps[: index + 1]) + ".slice" for index in range(len(steps)))
    return f"{above}/{prefix}-{name}.scope" if prefix else f"{above}/{name}.scope"
