"""containerd.services.snapshots.v1.Snapshots as a ``Snapshotter``: one object for each snapshotter of the server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from portside.convert.basics import mounts_from_pb
from portside.convert.records import snapshot_info_from_pb, snapshot_info_to_pb
from portside.core.mount import Mount
from portside.core.snapshots import SnapshotInfo, Usage
from portside.errors import Unimplemented
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.snapshots.v1 import snapshots_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.snapshots.v1.Snapshots"


class RemoteSnapshotter:
    """The snapshotter ``name``, as one namespace sees it."""

    def __init__(self, channel: Channel, namespace: str, lease: str, name: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)
        self._name = name

    async def stat(self, key: str) -> SnapshotInfo:
        """A snapshot's record."""
        request = pb.StatSnapshotRequest(snapshotter=self._name, key=key)
        return snapshot_info_from_pb((await self._caller.call("Stat", request, pb.StatSnapshotResponse)).info)

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """Change labels."""
        mask = field_mask_pb2.FieldMask(paths=fieldpaths)
        request = pb.UpdateSnapshotRequest(snapshotter=self._name, info=snapshot_info_to_pb(info), update_mask=mask)
        return snapshot_info_from_pb((await self._caller.call("Update", request, pb.UpdateSnapshotResponse)).info)

    async def usage(self, key: str) -> Usage:
        """What it takes on disk."""
        request = pb.UsageRequest(snapshotter=self._name, key=key)
        response = await self._caller.call("Usage", request, pb.UsageResponse, timeout=None)
        return Usage(response.inodes, response.size)

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """How to see it."""
        request = pb.MountsRequest(snapshotter=self._name, key=key)
        return mounts_from_pb((await self._caller.call("Mounts", request, pb.MountsResponse)).mounts)

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A writable snapshot."""
        request = pb.PrepareSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return mounts_from_pb(
            (await self._caller.call("Prepare", request, pb.PrepareSnapshotResponse, timeout=None)).mounts
        )

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """A read-only snapshot."""
        request = pb.ViewSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return mounts_from_pb((await self._caller.call("View", request, pb.ViewSnapshotResponse, timeout=None)).mounts)

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """Make an active snapshot a possible parent; servers before containerd 2.2 do not see ``parent``."""
        request = pb.CommitSnapshotRequest(snapshotter=self._name, name=name, key=key, labels=labels, parent=parent)
        await self._caller.call("Commit", request, empty_pb2.Empty, timeout=None)

    async def remove(self, key: str) -> None:
        """Remove one that nothing stands on."""
        request = pb.RemoveSnapshotRequest(snapshotter=self._name, key=key)
        await self._caller.call("Remove", request, empty_pb2.Empty, timeout=None)

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """All that match."""
        request = pb.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        async for page in self._caller.answers("List", request, pb.ListSnapshotsResponse):
            for info in page.info:
                yield snapshot_info_from_pb(info)

    async def cleanup(self) -> None:
        """Free what removed snapshots still hold."""
        request = pb.CleanupRequest(snapshotter=self._name)
        with contextlib.suppress(Unimplemented):  # by a snapshotter that holds nothing back
            await self._caller.call("Cleanup", request, empty_pb2.Empty, timeout=None)
