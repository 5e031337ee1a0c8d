"""What this server is and has (containerd.services.introspection.v1.Introspection, …version.v1.Version)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from portside.core.anymessage import AnyMessage
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
class PluginInfo:
    """A plugin, and what it tells of itself when it was asked something."""

    plugin: PluginStatus
    extra: AnyMessage | None = None


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Something in use that will go: what (``io.containerd.deprecation/…``), for people, and when it was last met."""

    id: str
    message: str
    last_occurrence_ns: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``uuid`` stays with the root; ``pidns`` is the inode of the pid namespace."""

    uuid: str
    pid: int
    pidns: int
    deprecations: Sequence[Deprecation] = ()


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

    async def plugin_info(self, type: str, id: str, options: AnyMessage | None = None) -> PluginInfo:
        """One plugin; with ``options`` also what it tells of itself, the runtime of a RuntimeRequest for instance.

        NotFound; with options Unimplemented for a plugin that tells nothing, FailedPrecondition for one that failed.
        """
        ...
