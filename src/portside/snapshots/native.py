"""Snapshots as full copies: for kernels and file systems without anything better (containerd's ``native``).

A view of a committed snapshot is that snapshot's directory, read-only; everything else is a bind of its own copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from portside.core.mount import Mount
from portside.core.snapshots import Kind
from portside.snapshots.copying import copy_tree
from portside.snapshots.directories import DirectoryDriver


class NativeDriver(DirectoryDriver):
    """``root`` belongs to this driver alone and is made if missing. Creating takes as long as copying the parent."""

    name = "native"

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> tuple[Mount, ...]:
        """A bind mount in every case."""
        if kind == Kind.VIEW:
            source = self.files(parents[0] if parents else number)
            return (Mount("bind", str(source), options=("ro", "rbind")),)
        return (Mount("bind", str(self.files(number)), options=("rw", "rbind")),)

    def _fill(self, place: Path, kind: Kind, parents: Sequence[int]) -> None:
        files = place / "fs"
        files.mkdir()
        files.chmod(0o755)
        if parents and kind == Kind.ACTIVE:
            copy_tree(os.fsencode(self.files(parents[0])), os.fsencode(files))
