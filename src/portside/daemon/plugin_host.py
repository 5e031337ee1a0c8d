"""Parts of ours on a socket of their own, for a containerd to use as proxy plugins (its ``[proxy_plugins.<name>]``).

    snapshot   a snapshotter: all requests are for it, whatever they call it
    content    a content store, which takes the place of containerd's own (that is to be disabled there)
    diff       a differ, which reads and writes the content of the containerd that it serves
    sandbox    a sandbox controller, whose sandboxes are our shims

What is asked of the first two has names that are unique already, and collections ask without a namespace: here is one
namespace for all, and nothing goes that nobody has removed. A root is one plugin's alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from portside.api.containerd import content, diff, introspection, sandboxes, snapshots, version
from portside.api.context import NAMESPACE, bound
from portside.content.blobs import BlobStore
from portside.core.content import ContentStore
from portside.core.diff import DiffService
from portside.core.introspection import PluginStatus
from portside.core.plugin import CONTENT, DIFFER, SANDBOX_CONTROLLER, SNAPSHOTTER
from portside.core.sandboxes import SandboxController
from portside.core.snapshots import SnapshotDriver, Snapshotter
from portside.engine.diff import LocalDiff
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.introspection import LocalIntrospection
from portside.engine.ownership import RootLock
from portside.errors import FailedPrecondition, InvalidArgument, PortsideError, from_oserror
from portside.metadata.database import Database
from portside.metadata.store import Metadata
from portside.oci.platform import host_platform
from portside.remote.content import RemoteContent
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver, why_unsupported
from portside.wire.grpc.client import Channel
from portside.wire.grpc.health import Health
from portside.wire.grpc.reflection import reflection_methods
from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import Call, Method, methods_of
from portside.wire.pb.containerd.services.content.v1 import content_pb2
from portside.wire.pb.google.protobuf import empty_pb2

log = logging.getLogger(__name__)

THE_NAMESPACE = "plugin"
"""What there is of a plugin belongs to this one."""
SOCKET_MODE = 0o600
_TYPES = {"snapshot": SNAPSHOTTER, "content": CONTENT, "diff": DIFFER, "sandbox": SANDBOX_CONTROLLER}


class PluginHost:
    """One plugin on its socket. ``start`` makes it, ``stop`` ends it; what it keeps stays in its root."""

    def __init__(self, server: GrpcServer, health: Health) -> None:
        self._server, self._health = server, health
        self._lock: RootLock | None = None
        self._metadata: Metadata | None = None
        self._channel: Channel | None = None
        self._engine: LocalBackend | None = None
        self._reconciling: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, type: str, address: str, *, root: Path | None = None, snapshotter: str = "overlayfs", containerd: str = ""
    ) -> PluginHost:
        """Serve a plugin of ``type`` (``snapshot``, ``content``, ``diff``, ``sandbox``) on the socket ``address``.

        ``root`` is its own directory (all but ``diff``), ``snapshotter`` ``overlayfs`` or ``native``, ``containerd``
        the socket whose content a differ works on. InvalidArgument, RootLocked, or what the kernel says.
        """
        health = Health()
        host = cls(GrpcServer([]), health)
        try:
            methods, status = await host._build(type, root, snapshotter, containerd)
            methods = [*methods, *health.methods()]
            host._server = GrpcServer([*methods, *reflection_methods(methods)])
            await host._server.listen_unix(address, SOCKET_MODE)
        except OSError as error:
            await host.stop(0)
            raise from_oserror(error, f"serve {type} plugin with root {root}") from error
        except BaseException:
            await host.stop(0)
            raise
        log.info("serving %s.%s on %s", status.type, status.id, address)
        return host

    async def stop(self, grace_seconds: float) -> None:
        """Calls in progress get ``grace_seconds``."""
        self._health.shut_down()
        await self._server.drain(grace_seconds)
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.gather(self._reconciling, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        if self._engine is not None:
            await self._engine.close()
        if self._metadata is not None:
            await self._metadata.close()
            await self._metadata.db.close()
        if self._lock is not None:
            self._lock.close()

    async def _build(
        self, type: str, root: Path | None, snapshotter: str, containerd: str
    ) -> tuple[list[Method], PluginStatus]:
        if type not in _TYPES:
            raise InvalidArgument(f"plugin type {type!r}: want {', '.join(_TYPES)}")
        if type == "diff":
            if not containerd:
                raise InvalidArgument("a differ needs the socket of the containerd whose content it works on")
            return self._differ(containerd)
        if root is None:
            raise InvalidArgument(f"a plugin of type {type} needs a root directory")
        if type == "sandbox":
            return await self._sandboxes(root)
        self._lock = RootLock(root, "")
        driver = _driver(snapshotter, root) if type == "snapshot" else None
        drivers = {snapshotter: driver} if driver is not None else {}
        self._metadata = metadata = Metadata(Database.open(root / "meta.db"), BlobStore(root), drivers)
        self._reconciling = asyncio.create_task(_reconcile(metadata), name="look for leftovers")
        status = PluginStatus(_TYPES[type], snapshotter if driver else "content", platforms=(host_platform(),))
        general = _Introspection(metadata.uuid, status)
        if driver is not None:
            service = _Snapshots(general, metadata.snapshotter(THE_NAMESPACE, snapshotter))
            return [*methods_of(snapshots.SERVICE, service), *general.methods()], status
        return [*methods_of(content.SERVICE, _Content(general, metadata)), *general.methods()], status

    def _differ(self, containerd: str) -> tuple[list[Method], PluginStatus]:
        channel = self._channel = Channel(containerd)
        status = PluginStatus(DIFFER, "walking", platforms=(host_platform(),))
        general = _Introspection("", status)
        service = _Diff(general, lambda namespace, lease: LocalDiff(RemoteContent(channel, namespace, lease)))
        return [*methods_of(diff.SERVICE, service), *general.methods()], status

    async def _sandboxes(self, root: Path) -> tuple[list[Method], PluginStatus]:
        self._engine = engine = await LocalBackend.open(EngineConfig(root, root / "state"))
        status = PluginStatus(SANDBOX_CONTROLLER, "shim", platforms=(host_platform(),))
        general = _Introspection((await engine.introspection.server()).uuid, status)
        return [*methods_of(sandboxes.CONTROLLER, _Sandboxes(general, engine)), *general.methods()], status


def _driver(name: str, root: Path) -> SnapshotDriver:
    if name == "native":
        return NativeDriver(root)
    if name != "overlayfs":
        raise InvalidArgument(f"snapshotter {name!r}: want overlayfs or native")
    if reason := why_unsupported(root):
        raise FailedPrecondition(f"snapshotter overlayfs in {root}: {reason}")
    return OverlayDriver(root)


async def _reconcile(metadata: Metadata) -> None:
    try:
        await metadata.reconcile()
    except PortsideError as error:
        log.warning("leftovers of an earlier run: %s", error)


class _Introspection:
    """As much of a backend as says who is there."""

    def __init__(self, uuid: str, status: PluginStatus) -> None:
        self.introspection = LocalIntrospection(uuid, [status])

    def methods(self) -> list[Method]:
        """Introspection and version."""
        return [
            *methods_of(introspection.SERVICE, introspection.IntrospectionService(self)),  # type: ignore[arg-type]
            *methods_of(version.SERVICE, version.VersionService(self)),  # type: ignore[arg-type]
        ]


class _Snapshots(snapshots.SnapshotsService):
    """All requests are for one snapshotter."""

    def __init__(self, general: _Introspection, snapshotter: Snapshotter) -> None:
        super().__init__(general)  # type: ignore[arg-type]
        self._one = snapshotter

    def _snapshotter(self, name: str, call: Call) -> Snapshotter:
        return self._one


class _Content(content.ContentService):
    """All requests are for one namespace; bytes go as soon as nobody has them."""

    def __init__(self, general: _Introspection, metadata: Metadata) -> None:
        super().__init__(general)  # type: ignore[arg-type]
        self._metadata, self._one = metadata, metadata.content(THE_NAMESPACE)

    def _content(self, call: Call) -> ContentStore:
        return self._one

    async def delete(self, request: content_pb2.DeleteContentRequest, call: Call) -> empty_pb2.Empty:
        """Delete a blob."""
        answer = await super().delete(request, call)
        await self._metadata.free()
        return answer


class _Sandboxes(sandboxes.SandboxControllerService):
    """All requests are for one controller, in the namespace that they name."""

    def __init__(self, general: _Introspection, engine: LocalBackend) -> None:
        super().__init__(general)  # type: ignore[arg-type]
        self._engine = engine

    def _controller(self, name: str, call: Call) -> SandboxController:
        return bound(self._engine, call).sandbox_controller("shim")


class _Diff(diff.DiffService):
    """Works on the content of the namespace that a call names."""

    def __init__(self, general: _Introspection, differ: Callable[[str, str], DiffService]) -> None:
        super().__init__(general)  # type: ignore[arg-type]
        self._of = differ

    def _diff(self, call: Call) -> DiffService:
        namespace, lease = call.metadata.get(NAMESPACE), call.metadata.get("containerd-lease", "")
        if not isinstance(namespace, str) or not namespace:
            raise FailedPrecondition("namespace is required: set the request header containerd-namespace")
        return self._of(namespace, lease if isinstance(lease, str) else "")
