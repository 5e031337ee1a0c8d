"""What this server is and has (containerd.services.introspection.v1.Introspection, …version.v1.Version)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A plugin as introspection shows it; ``error`` is empty where it works, ``skipped`` where it cannot here."""

    type: str
    id: str
    requires: Sequence[str] = ()
    platforms: Sequence[Platform] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    error: str = ""
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``uuid`` stays with the root; ``pidns`` is the inode of the pid namespace."""

    uuid: str
    pid: int
    pidns: int


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """Of the daemon asked."""

    version: str
    revision: str


class Introspection(Protocol):
    """Answers about the server as a whole."""

    async def version(self) -> VersionInfo:
        """Its version and revision."""
        ...

    async def server(self) -> ServerInfo:
        """Its identity."""
        ...

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginStatus]:
        """Its plugins, failed ones too."""
        ...
