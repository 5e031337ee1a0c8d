"""The stores of ``metadata/`` and the event exchange as a ``core.services.Backend``, without the rest of an engine."""

from portside.content.blobs import BlobStore
from portside.core.introspection import PluginStatus
from portside.core.plugin import SNAPSHOTTER
from portside.engine.events import Exchange
from portside.engine.introspection import LocalIntrospection
from portside.engine.mounts import MountKeeper
from portside.metadata.database import Database
from portside.metadata.store import Metadata
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver


class LocalServices:
    def __init__(self, backend, namespace, lease):
        metadata = backend.metadata
        self.namespace, self.lease = namespace, lease
        self.content = metadata.content(namespace, lease)
        self.images = metadata.images(namespace)
        self.containers = metadata.containers(namespace)
        self.leases = metadata.leases(namespace)
        self.events = backend.exchange.bind(namespace)
        self.sandboxes = metadata.sandboxes(namespace)
        self.mounts = backend.mounts.bind(namespace, lease)
        self._metadata = metadata

    def snapshotter(self, name=""):
        return self._metadata.snapshotter(self.namespace, name, self.lease)


class LocalBackend:
    """``root`` is a directory of its own; ``close`` ends all."""

    def __init__(self, root, drivers=None, blobs=None):
        self.root = root
        self.db = Database.open(root / "io.containerd.metadata.v1.sqlite" / "meta.db")
        self.blobs = blobs or BlobStore(root / "io.containerd.content.v1.content")
        self.exchange = Exchange()
        if drivers is None:
            drivers = {"native": NativeDriver(root / "native"), "overlayfs": OverlayDriver(root / "overlayfs")}
        self.drivers = drivers
        self.metadata = Metadata(self.db, self.blobs, drivers, self.exchange.emit)
        self.namespaces = self.metadata.namespaces
        self.targets, self.files = root / "targets", root / "files"
        self.files.mkdir(exist_ok=True)
        self.mounts = MountKeeper(self.metadata, str(self.targets), [str(self.files)])
        self.introspection = LocalIntrospection(
            self.metadata.uuid, [PluginStatus(SNAPSHOTTER, name) for name in drivers]
        )

    def bind(self, namespace, lease=""):
        return LocalServices(self, namespace, lease)

    async def close(self):
        await self.mounts.close()
        await self.metadata.close()
        await self.db.close()
