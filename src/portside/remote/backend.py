"""``RemoteBackend``: all services of a daemon, ours or upstream containerd, behind the interfaces of core/."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from portside.core.introspection import PluginStatus
from portside.core.labels import DEFAULT_RUNTIME, check_identifier
from portside.core.plugin import DEFAULTS, SNAPSHOTTER
from portside.core.tasks import RUNC
from portside.errors import NotFound
from portside.oci.descriptor import Descriptor
from portside.remote.containers import RemoteContainers
from portside.remote.content import RemoteContent
from portside.remote.diff import RemoteDiff
from portside.remote.events import RemoteEvents
from portside.remote.images import RemoteImages
from portside.remote.introspection import RemoteIntrospection
from portside.remote.leases import RemoteLeases
from portside.remote.mounts import RemoteMounts
from portside.remote.namespaces import RemoteNamespaces
from portside.remote.sandboxes import RemoteSandboxController, RemoteSandboxes
from portside.remote.snapshots import RemoteSnapshotter
from portside.remote.streaming import RemoteStreaming
from portside.remote.tasks import RemoteTasks
from portside.remote.transfer import RemoteTransfer
from portside.wire.grpc.client import Channel

KEEPALIVE = 310.0
"""Seconds of silence after which a server is asked whether it is there. Go's ends connections that ask more often than
every five minutes."""
PREFERRED_SNAPSHOTTERS = ("overlayfs", "native")


class RemoteBackend:
    """Use ``await RemoteBackend.connect(address)``, which also asks what snapshotters there are; then ``close``.

    An address is a socket's path, ``unix://path`` or ``host:port``. The connection is made again when it is lost:
    the calls in progress fail with Unavailable, later ones work. So do calls to a server that has stopped answering.
    """

    def __init__(self, address: str) -> None:
        self.channel = Channel(address, keepalive=KEEPALIVE)
        self._namespaces = RemoteNamespaces(self.channel)
        self._introspection = RemoteIntrospection(self.channel)
        self._snapshotters: dict[str, str] = {}
        self._foreign: set[str] = set()
        self.defaults: Mapping[str, str] = {}
        """What its configuration has for ``snapshotter`` and ``runtime``, where it is one of ours."""

    @classmethod
    async def connect(cls, address: str) -> RemoteBackend:
        """Unavailable if nobody serves there."""
        backend = cls(address)
        try:
            plugins = await backend.introspection.plugins([f"type=={SNAPSHOTTER}", f"type=={DEFAULTS}"])
        except BaseException:
            await backend.close()
            raise
        snapshotters = [plugin for plugin in plugins if plugin.type == SNAPSHOTTER]
        backend.defaults = dict(next((plugin.exports for plugin in plugins if plugin.type == DEFAULTS), {}))
        backend._snapshotters = {plugin.id: plugin.exports.get("root", "") for plugin in snapshotters if _works(plugin)}
        backend._foreign = {plugin.id for plugin in snapshotters if "address" in plugin.exports}
        return backend

    @property
    def namespaces(self) -> RemoteNamespaces:
        """All namespaces."""
        return self._namespaces

    @property
    def introspection(self) -> RemoteIntrospection:
        """About the server."""
        return self._introspection

    def bind(self, namespace: str, lease: str = "") -> RemoteServices:
        """The services of a namespace."""
        return RemoteServices(self, check_identifier(namespace, "namespace"), lease)

    def snapshotters(self) -> Mapping[str, str]:
        """Those that worked when we connected, with their roots."""
        return self._snapshotters

    def is_foreign(self, snapshotter: str) -> bool:
        """Whether it is a proxy plugin of the server, as far as was known when we connected."""
        return snapshotter in self._foreign

    @property
    def default_snapshotter(self) -> str:
        """As it is configured, or overlayfs where the server has it."""
        if configured := self.defaults.get("snapshotter"):
            return configured
        known = [name for name in PREFERRED_SNAPSHOTTERS if name in self._snapshotters]
        return next(iter([*known, *self._snapshotters]), PREFERRED_SNAPSHOTTERS[0])

    async def close(self) -> None:
        """Drop the connection."""
        await self.channel.close()

    async def __aenter__(self) -> RemoteBackend:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class RemoteServices:
    """The services of one namespace; each object is made when first asked for."""

    def __init__(self, backend: RemoteBackend, namespace: str, lease: str) -> None:
        self._backend = backend
        self._namespace = namespace
        self._lease = lease

    @property
    def namespace(self) -> str:
        """Its name."""
        return self._namespace

    @property
    def lease(self) -> str:
        """The lease's id, or empty."""
        return self._lease

    def with_lease(self, lease: str) -> RemoteServices:
        """The same under a lease."""
        return RemoteServices(self._backend, self._namespace, lease)

    @property
    def content(self) -> RemoteContent:
        """Blobs."""
        return RemoteContent(self._backend.channel, self._namespace, self._lease)

    @property
    def images(self) -> RemoteImages:
        """Names of images."""
        return RemoteImages(self._backend.channel, self._namespace, self._lease)

    @property
    def containers(self) -> RemoteContainers:
        """Records of containers."""
        return RemoteContainers(self._backend.channel, self._namespace, self._lease)

    @property
    def leases(self) -> RemoteLeases:
        """Leases."""
        return RemoteLeases(self._backend.channel, self._namespace, self._lease)

    @property
    def events(self) -> RemoteEvents:
        """Events."""
        return RemoteEvents(self._backend.channel, self._namespace, self._lease)

    @property
    def tasks(self) -> RemoteTasks:
        """What runs."""
        return RemoteTasks(self._backend.channel, self._namespace, self._lease)

    @property
    def diff(self) -> RemoteDiff:
        """Layers to snapshots and back."""
        return RemoteDiff(self._backend.channel, self._namespace, self._lease)

    @property
    def mounts(self) -> RemoteMounts:
        """Activated mounts."""
        return RemoteMounts(self._backend.channel, self._namespace, self._lease)

    @property
    def sandboxes(self) -> RemoteSandboxes:
        """Records of sandboxes."""
        return RemoteSandboxes(self._backend.channel, self._namespace, self._lease)

    def sandbox_controller(self, name: str) -> RemoteSandboxController:
        """By name. One that the server does not have is told by its first call."""
        return RemoteSandboxController(self._backend.channel, self._namespace, self._lease, name)

    @property
    def streaming(self) -> RemoteStreaming:
        """Streams that calls refer to."""
        return RemoteStreaming(self._backend.channel, self._namespace, self._lease)

    @property
    def transfer(self) -> RemoteTransfer:
        """Transfers that the server does."""
        return RemoteTransfer(self._backend.channel, self)

    @property
    def default_snapshotter(self) -> str:
        """Of the server."""
        return self._backend.default_snapshotter

    async def default_runtime(self) -> str:
        """The namespace's label for it, the server's, or the one that every client asks for."""
        try:
            labels = await self._backend.namespaces.labels(self._namespace)
        except NotFound:
            return self._backend.defaults.get("runtime") or RUNC
        return labels.get(DEFAULT_RUNTIME) or self._backend.defaults.get("runtime") or RUNC

    def snapshotter(self, name: str = "") -> RemoteSnapshotter:
        """By name. One that the server does not have is told by its first call."""
        return RemoteSnapshotter(self._backend.channel, self._namespace, self._lease, name or self.default_snapshotter)

    def is_foreign(self, snapshotter: str = "") -> bool:
        """Whether it is a proxy plugin of the server."""
        return self._backend.is_foreign(snapshotter or self.default_snapshotter)

    async def verify_image(self, name: str, target: Descriptor) -> None:
        """Nobody is asked: a server's verifiers are for what the server pulls."""


def _works(plugin: PluginStatus) -> bool:
    return not plugin.error and not plugin.skipped
