"""Plugins as data: what a part of the engine is called, needs and exports, and the function that builds it.

Registering starts nothing and importing a module that registers starts nothing: ``engine/graph.py`` builds the
plugins in the order of their requirements and remembers what became of each (features as in containerd's registry).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from portside.oci.platform import Platform

CONTAINER_MONITOR = "io.containerd.monitor.container.v1"
CONTENT = "io.containerd.content.v1"
DEFAULTS = "io.portside.defaults.v1"
DIFFER = "io.containerd.differ.v1"
EVENT = "io.containerd.event.v1"
GC = "io.containerd.gc.v1"
GRPC = "io.containerd.grpc.v1"
IMAGE_VERIFIER = "io.containerd.image-verifier.v1"
LEASE = "io.containerd.lease.v1"
METADATA = "io.containerd.metadata.v1"
MOUNT_HANDLER = "io.containerd.mount-handler.v1"
MOUNT_MANAGER = "io.containerd.mount-manager.v1"
RUNTIME = "io.containerd.runtime.v2"
SANDBOX_CONTROLLER = "io.containerd.sandbox.controller.v1"
SANDBOX_STORE = "io.containerd.sandbox.store.v1"
SERVICE = "io.containerd.service.v1"
SHIM = "io.containerd.shim.v1"
SNAPSHOTTER = "io.containerd.snapshotter.v1"
STREAMING = "io.containerd.streaming.v1"
TRANSFER = "io.containerd.transfer.v1"
VERBS = "io.portside.verbs.v1"
WARNING = "io.containerd.warning.v1"


Settings: TypeAlias = type[Any]
"""A dataclass."""

CONTAINERD_NAMES = {f"{METADATA}.bolt": f"{METADATA}.sqlite", f"{MOUNT_MANAGER}.bolt": f"{MOUNT_MANAGER}.sqlite"}
"""Plugins of ours that do the work of one of containerd's that has another name."""


def canonical(uri: str) -> str:
    """The URI here of the plugin that containerd calls ``uri``."""
    return CONTAINERD_NAMES.get(uri, uri)


class SkipPlugin(Exception):
    """Raised by a builder where the plugin cannot work on this machine; the rest goes on without it."""


@dataclass(frozen=True, slots=True)
class Init:
    """What a builder gets."""

    root: Path
    """The plugin's own directory below the root, named by its URI; made when asked for by ``make_root``."""
    state: Path
    """The same below the state directory."""
    config: Mapping[str, Any]
    """The plugin's table in the configuration, as it stands there."""
    get: Callable[[str], Any]
    """The one plugin of a type, or of a URI, among those required; FailedPrecondition if it did not come up."""
    all: Callable[[str], Mapping[str, Any]]
    """All plugins of a type that came up, by id."""
    settings: Any = None
    """``config`` as an instance of the plugin's ``config`` class; None if it has none."""

    def make_root(self) -> Path:
        """The root, existing and 0700 whatever the umask."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        return self.root


@dataclass(frozen=True, slots=True)
class Plugin:
    """One row of the registry: data, so that making one starts nothing."""

    type: str
    id: str
    build: Callable[[Init], Any]
    """Makes the part; SkipPlugin where it cannot work here. Must not block for long: the engine waits for it."""
    requires: Sequence[str] = ()
    """Types (all of the type come first, one must have come up) or URIs; without them this plugin is not built."""
    exports: Callable[[Init], Mapping[str, str]] = field(default=lambda init: {})
    capabilities: Sequence[str] = ()
    platforms: Sequence[Platform] = ()
    """What it is for; empty: this machine's."""
    after: Sequence[str] = ()
    """Types or URIs that come first where they are there."""
    config: Settings | None = None
    """A dataclass of the keys of its table (``core/tables.py``), all with defaults; None: it takes any key."""

    @property
    def uri(self) -> str:
        """``type.id``, as in ``disabled_plugins`` and in the names of directories."""
        return f"{self.type}.{self.id}"
