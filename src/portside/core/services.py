"""All services together: what a door serves and what the verbs in ``client/`` are written against.

Three implementations: ``engine/`` (here), ``remote/`` (over gRPC), and whatever a test makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from portside.core.containers import ContainerStore
from portside.core.content import ContentStore
from portside.core.diff import DiffService
from portside.core.events import EventService
from portside.core.images import ImageStore
from portside.core.introspection import Introspection
from portside.core.leases import LeaseManager
from portside.core.mounts import MountManager
from portside.core.namespaces import NamespaceStore
from portside.core.sandboxes import SandboxController, SandboxStore
from portside.core.snapshots import Snapshotter
from portside.core.streaming import StreamService
from portside.core.tasks import TaskService
from portside.core.transfer import TransferService
from portside.oci.descriptor import Descriptor


class Services(Protocol):
    """The services of one namespace, everything made through them held by one lease if there is one."""

    @property
    def namespace(self) -> str:
        """Its name."""
        ...

    @property
    def lease(self) -> str:
        """The lease's id, or empty."""
        ...

    def with_lease(self, lease: str) -> Services:
        """The same services with everything made through them held by ``lease``; cheap."""
        ...

    @property
    def content(self) -> ContentStore:
        """Blobs."""
        ...

    @property
    def images(self) -> ImageStore:
        """Names of images."""
        ...

    @property
    def containers(self) -> ContainerStore:
        """Records of containers."""
        ...

    @property
    def leases(self) -> LeaseManager:
        """Leases."""
        ...

    @property
    def events(self) -> EventService:
        """Events."""
        ...

    @property
    def tasks(self) -> TaskService:
        """What runs."""
        ...

    @property
    def diff(self) -> DiffService:
        """Layers to snapshots and back."""
        ...

    @property
    def mounts(self) -> MountManager:
        """Activated mounts."""
        ...

    @property
    def sandboxes(self) -> SandboxStore:
        """Records of sandboxes."""
        ...

    def sandbox_controller(self, name: str) -> SandboxController:
        """What makes sandboxes run, by name; NotFound if there is none of that name."""
        ...

    @property
    def streaming(self) -> StreamService:
        """Streams that calls refer to."""
        ...

    @property
    def transfer(self) -> TransferService:
        """Images and layers from one place to another."""
        ...

    @property
    def default_snapshotter(self) -> str:
        """The name that an empty one stands for, as records need it."""
        ...

    async def default_runtime(self) -> str:
        """The runtime of containers that name none, such as ``io.containerd.runc.v2``."""
        ...

    def snapshotter(self, name: str = "") -> Snapshotter:
        """By name; empty is the namespace's default. InvalidArgument if there is none of that name."""
        ...

    def is_foreign(self, snapshotter: str = "") -> bool:
        """Whether somebody else serves that snapshotter (a proxy plugin): it may have layers that are not here."""
        ...

    async def verify_image(self, name: str, target: Descriptor) -> None:
        """Ask whether the image may be pulled; PermissionDenied with the reason if not. Nobody to ask: it may."""
        ...


class Backend(Protocol):
    """A server's services, for every namespace. Whoever made it closes it."""

    @property
    def namespaces(self) -> NamespaceStore:
        """All namespaces."""
        ...

    @property
    def introspection(self) -> Introspection:
        """About the server."""
        ...

    def bind(self, namespace: str, lease: str = "") -> Services:
        """The services of ``namespace``. Cheap; InvalidArgument if the name is not allowed."""
        ...

    def snapshotters(self) -> Mapping[str, str]:
        """Known snapshotters and, for each, the path of its root on this machine (empty where not known)."""
        ...

    async def close(self) -> None:
        """Release connections or the root; containers go on."""
        ...
