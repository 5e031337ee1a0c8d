"""containerd.services.snapshots.v1.Snapshots: every call names its snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.api.context import bound, paths
from portside.convert.basics import mounts_to_pb
from portside.convert.records import snapshot_info_from_pb, snapshot_info_to_pb
from portside.core.services import Backend
from portside.core.snapshots import Snapshotter
from portside.errors import InvalidArgument
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.snapshots.v1 import snapshots_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = pb.DESCRIPTOR.services_by_name["Snapshots"]

_PAGE = 100
"""How many snapshots one message of a list carries, as containerd has it."""


class SnapshotsService:
    """Snapshots of all snapshotters."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def _snapshotter(self, name: str, call: Call) -> Snapshotter:
        if not name:
            raise InvalidArgument("the request names no snapshotter")
        return bound(self._backend, call).snapshotter(name)

    async def prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> pb.PrepareSnapshotResponse:
        """A writable snapshot."""
        snapshotter = self._snapshotter(request.snapshotter, call)
        mounts = await snapshotter.prepare(request.key, request.parent, dict(request.labels))
        return pb.PrepareSnapshotResponse(mounts=mounts_to_pb(mounts))

    async def view(self, request: pb.ViewSnapshotRequest, call: Call) -> pb.ViewSnapshotResponse:
        """A read-only snapshot."""
        snapshotter = self._snapshotter(request.snapshotter, call)
        mounts = await snapshotter.view(request.key, request.parent, dict(request.labels))
        return pb.ViewSnapshotResponse(mounts=mounts_to_pb(mounts))

    async def mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse:
        """How to see one."""
        mounts = await self._snapshotter(request.snapshotter, call).mounts(request.key)
        return pb.MountsResponse(mounts=mounts_to_pb(mounts))

    async def commit(self, request: pb.CommitSnapshotRequest, call: Call) -> empty_pb2.Empty:
        """Make an active one a possible parent."""
        snapshotter = self._snapshotter(request.snapshotter, call)
        await snapshotter.commit(request.name, request.key, dict(request.labels), request.parent)
        return empty_pb2.Empty()

    async def remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> empty_pb2.Empty:
        """Remove one that nothing stands on."""
        await self._snapshotter(request.snapshotter, call).remove(request.key)
        return empty_pb2.Empty()

    async def stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        """Its record."""
        info = await self._snapshotter(request.snapshotter, call).stat(request.key)
        return pb.StatSnapshotResponse(info=snapshot_info_to_pb(info))

    async def update(self, request: pb.UpdateSnapshotRequest, call: Call) -> pb.UpdateSnapshotResponse:
        """Change labels."""
        snapshotter = self._snapshotter(request.snapshotter, call)
        info = await snapshotter.update(snapshot_info_from_pb(request.info), paths(request.update_mask))
        return pb.UpdateSnapshotResponse(info=snapshot_info_to_pb(info))

    async def list(self, request: pb.ListSnapshotsRequest, call: Call) -> AsyncIterator[pb.ListSnapshotsResponse]:
        """All that match, a page at a time."""
        page: list[pb.Info] = []
        async for info in self._snapshotter(request.snapshotter, call).walk(tuple(request.filters)):
            page.append(snapshot_info_to_pb(info))
            if len(page) == _PAGE:
                yield pb.ListSnapshotsResponse(info=page)
                page = []
        if page:
            yield pb.ListSnapshotsResponse(info=page)

    async def usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse:
        """What it takes on disk."""
        usage = await self._snapshotter(request.snapshotter, call).usage(request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def cleanup(self, request: pb.CleanupRequest, call: Call) -> empty_pb2.Empty:
        """Free what removed snapshots still hold."""
        await self._snapshotter(request.snapshotter, call).cleanup()
        return empty_pb2.Empty()
