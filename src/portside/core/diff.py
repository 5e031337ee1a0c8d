"""Layers and snapshots, one into the other (containerd.services.diff.v1.Diff)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.oci.descriptor import Descriptor


class DiffService(Protocol):
    """Reads and writes the content store of the namespace it belongs to."""

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """Unpack ``layer`` onto ``mounts``; the descriptor of the uncompressed tar (its digest is the diffID)."""
        ...

    async def compare(
        self, lower: Sequence[Mount], upper: Sequence[Mount],
        *, media_type: str = "", ref: str = "", labels: Mapping[str, str] | None = None,
        source_date_epoch_ns: int | None = None,
    ) -> Descriptor:  # fmt: skip
        """Write what ``upper`` changes over ``lower`` as a layer into the content store."""
        ...
