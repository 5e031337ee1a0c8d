"""The services of one namespace, here: a thin view on the engine's parts (core/services.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from portside.core.content import ContentStore
from portside.core.diff import DiffService
from portside.core.labels import DEFAULT_RUNTIME, DEFAULT_SNAPSHOTTER
from portside.core.leases import LeaseManager
from portside.core.sandboxes import ControllerOf, SandboxController
from portside.core.settings import Defaults
from portside.core.tasks import RUNC, TaskService
from portside.engine.events import Events, Exchange
from portside.engine.mounts import LocalMounts, MountKeeper
from portside.engine.outside import Outside
from portside.engine.streaming import LocalStreaming
from portside.engine.transfer.service import LocalTransfer, Transfers
from portside.errors import NotFound, Unimplemented
from portside.metadata.containers import Containers
from portside.metadata.images import Images
from portside.metadata.sandboxes import Sandboxes
from portside.metadata.schema import NAMESPACES
from portside.metadata.snapshots import Snapshots
from portside.metadata.store import Metadata
from portside.oci.descriptor import Descriptor

PREFERRED = ("overlayfs", "native")
"""Which snapshotter a namespace without a label for it uses: the first of these that came up."""


class LocalServices:
    """Made by ``LocalBackend.bind``; cheap, so one is made for each call."""

    __slots__ = (
        "_controllers", "_defaults", "_exchange", "_metadata", "_mounts", "_outside", "_tasks", "_transfers", "lease",
        "namespace",
    )  # fmt: skip

    def __init__(
        self, namespace: str, lease: str, metadata: Metadata, exchange: Exchange, tasks: Callable[[str], TaskService],
        outside: Outside | None = None, mounts: MountKeeper | None = None,
        controllers: Mapping[str, ControllerOf] | None = None,
        *, transfers: Transfers | None = None, defaults: Defaults | None = None,
    ) -> None:  # fmt: skip
        self.namespace, self.lease = namespace, lease
        self._metadata, self._exchange, self._tasks = metadata, exchange, tasks
        self._transfers = transfers or Transfers()
        self._defaults = defaults or Defaults()
        self._outside = outside or Outside()
        self._mounts, self._controllers = mounts, controllers or {}

    def with_lease(self, lease: str) -> LocalServices:
        """The same, everything made held by ``lease``."""
        return LocalServices(
            self.namespace, lease, self._metadata, self._exchange, self._tasks, self._outside, self._mounts,
            self._controllers,
            transfers=self._transfers, defaults=self._defaults,
        )  # fmt: skip

    @property
    def content(self) -> ContentStore:
        """Blobs."""
        return self._metadata.content(self.namespace, self.lease)

    @property
    def images(self) -> Images:
        """Names of images."""
        return self._metadata.images(self.namespace)

    @property
    def containers(self) -> Containers:
        """Records of containers."""
        return self._metadata.containers(self.namespace)

    @property
    def leases(self) -> LeaseManager:
        """Leases."""
        return self._metadata.leases(self.namespace)

    @property
    def events(self) -> Events:
        """Events."""
        return self._exchange.bind(self.namespace)

    @property
    def tasks(self) -> TaskService:
        """What runs."""
        return self._tasks(self.namespace)

    @property
    def diff(self) -> DiffService:
        """Layers to snapshots and back."""
        return self._outside.diff(self.namespace, self.content)

    @property
    def mounts(self) -> LocalMounts:
        """Activated mounts; Unimplemented where the plugin is disabled."""
        if self._mounts is None:
            raise Unimplemented("mounts: the mount manager of this engine is disabled")
        return self._mounts.bind(self.namespace, self.lease)

    @property
    def sandboxes(self) -> Sandboxes:
        """Records of sandboxes."""
        return self._metadata.sandboxes(self.namespace)

    def sandbox_controller(self, name: str) -> SandboxController:
        """By name; NotFound."""
        if name not in self._controllers:
            raise NotFound(f"sandbox controller {name[:100]!r}: there is none of this name")
        return self._controllers[name](self.namespace)

    @property
    def streaming(self) -> LocalStreaming:
        """Streams that calls refer to."""
        return self._transfers.streaming(self._metadata, self.namespace, self.lease)

    @property
    def transfer(self) -> LocalTransfer:
        """Images and layers from one place to another."""
        return self._transfers.transfer(self)

    @property
    def default_snapshotter(self) -> str:
        """The namespace's label for it, the configuration's, or the best that works here."""
        known = self._metadata.snapshotters
        best = next((name for name in PREFERRED if name in known), PREFERRED[0])
        return self._namespace_labels.get(DEFAULT_SNAPSHOTTER) or self._defaults.snapshotter or best

    async def default_runtime(self) -> str:
        """The namespace's label for it, the configuration's, or the one that every client asks for."""
        return self._namespace_labels.get(DEFAULT_RUNTIME) or self._defaults.runtime or RUNC

    @property
    def _namespace_labels(self) -> Mapping[str, str]:
        return self._metadata.db.state.get(NAMESPACES, (), self.namespace) or {}

    def snapshotter(self, name: str = "") -> Snapshots:
        """By name; empty is the default."""
        return self._metadata.snapshotter(self.namespace, name or self.default_snapshotter, self.lease)

    def is_foreign(self, snapshotter: str = "") -> bool:
        """Whether it is a proxy plugin."""
        return self._metadata.is_foreign(snapshotter or self.default_snapshotter)

    async def verify_image(self, name: str, target: Descriptor) -> None:
        """Ask the engine's verifiers."""
        await self._outside.verify(name, target)
