"""Mounts as data: what a snapshot needs to be seen (containerd.types.Mount)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount(8); ``target`` is relative to the place where the list is mounted, empty for that place itself."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


def split_lowers(text: str) -> tuple[str, ...]:
    """The directories of a ``lowerdir=`` option, top first; a backslash keeps the colon after it (overlayfs.rst)."""
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ":":
            parts.append(current)
            current = ""
        else:
            current += character
    return tuple(part for part in (*parts, current) if part)
