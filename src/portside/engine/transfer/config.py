"""Settings of the plugin ``io.containerd.transfer.v1.local``, and what all transfers of an engine share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portside.client.flights import Flights
from portside.errors import InvalidArgument

MAX_CONCURRENT = 64


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """As containerd's configuration has them; each pull or push has its own share."""

    max_concurrent_downloads: int = 3
    max_concurrent_uploaded_layers: int = 3
    config_path: str = ""
    """A directory with ``hosts.toml`` files for transfers that name none."""
    flights: Flights = field(default_factory=Flights)
    """Shared by all transfers: nothing is fetched or unpacked twice at the same time."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TransferConfig:
        """From the plugin's table; InvalidArgument names the key."""
        path = config.get("config_path", "")
        if not isinstance(path, str):
            raise InvalidArgument(f"transfer: config_path = {path!r} is not a path")
        return cls(_count(config, "max_concurrent_downloads"), _count(config, "max_concurrent_uploaded_layers"), path)


def _count(config: Mapping[str, Any], key: str) -> int:
    """0, as in containerd, sets no limit; ours is then ``MAX_CONCURRENT``."""
    value = config.get(key, 3)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(f"transfer: {key} = {value!r} is not a number of at least 0")
    return min(value or MAX_CONCURRENT, MAX_CONCURRENT)
