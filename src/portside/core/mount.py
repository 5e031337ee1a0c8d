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
