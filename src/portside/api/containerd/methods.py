"""The table of all of containerd's services that we serve, over one backend."""

from __future__ import annotations

from portside.api.containerd import (
    containers,
    content,
    diff,
    events,
    images,
    introspection,
    leases,
    mounts,
    namespaces,
    sandboxes,
    snapshots,
    streaming,
    tasks,
    transfer,
    version,
)
from portside.core.services import Backend
from portside.wire.grpc.service import Method, methods_of

SERVICES = (
    "containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases", "mounts",
    "namespaces", "sandbox-controllers", "sandboxes", "snapshots", "streaming", "tasks",
    "transfer", "version",
)  # fmt: skip
"""The ids under which containerd shows these as plugins."""


def containerd_methods(backend: Backend) -> list[Method]:
    """For ``GrpcServer``."""
    return [
        *methods_of(containers.SERVICE, containers.ContainersService(backend)),
        *methods_of(content.SERVICE, content.ContentService(backend)),
        *methods_of(diff.SERVICE, diff.DiffService(backend)),
        *methods_of(events.SERVICE, events.EventsService(backend)),
        *methods_of(images.SERVICE, images.ImagesService(backend)),
        *methods_of(introspection.SERVICE, introspection.IntrospectionService(backend)),
        *methods_of(leases.SERVICE, leases.LeasesService(backend)),
        *methods_of(mounts.SERVICE, mounts.MountsService(backend)),
        *methods_of(namespaces.SERVICE, namespaces.NamespacesService(backend)),
        *methods_of(sandboxes.STORE, sandboxes.SandboxStoreService(backend)),
        *methods_of(sandboxes.CONTROLLER, sandboxes.SandboxControllerService(backend)),
        *methods_of(snapshots.SERVICE, snapshots.SnapshotsService(backend)),
        *methods_of(streaming.SERVICE, streaming.StreamingService(backend)),
        *methods_of(tasks.SERVICE, tasks.TasksService(backend)),
        *methods_of(transfer.SERVICE, transfer.TransferService(backend)),
        *methods_of(version.SERVICE, version.VersionService(backend)),
    ]
