"""The tables of our plugins in the configuration, where a plugin's own module has no class for them.

Keys and defaults are containerd's where it has the plugin too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoOptions:
    """A plugin without any."""


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """``io.containerd.snapshotter.v1.overlayfs``."""

    mount_options: Sequence[str] = ()
    """Added to those of every mount."""


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """``io.containerd.service.v1.diff-service``."""

    default: Sequence[str] = ("walking",)
    """Which differs are asked, one after the other, until one can do it."""


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """``io.containerd.transfer.v1.local``; see ``engine/transfer/config.py``, which reads it."""

    max_concurrent_downloads: int = 3
    max_concurrent_uploaded_layers: int = 3
    config_path: str = ""
