"""containerd.services.diff.v1.Diff."""

from __future__ import annotations

from portside.api.context import bound
from portside.convert.basics import descriptor_from_pb, descriptor_to_pb, mounts_from_pb, timestamp_from_pb
from portside.core.anymessage import AnyMessage
from portside.core.diff import DiffService as Differ
from portside.core.services import Backend
from portside.wire.grpc.service import Call
from portside.wire.pb.containerd.services.diff.v1 import diff_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Diff"]


class DiffService:
    """Layers to snapshots and back."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def _diff(self, call: Call) -> Differ:
        return bound(self._backend, call).diff

    async def apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        """Unpack a layer onto mounts."""
        applied = await self._diff(call).apply(
            descriptor_from_pb(request.diff),
            mounts_from_pb(request.mounts),
            payloads={key: AnyMessage(value.type_url, value.value) for key, value in request.payloads.items()},
            sync_fs=request.sync_fs,
        )
        return pb.ApplyResponse(applied=descriptor_to_pb(applied))

    async def diff(self, request: pb.DiffRequest, call: Call) -> pb.DiffResponse:
        """Write what changed between two snapshots as a layer."""
        epoch = timestamp_from_pb(request.source_date_epoch) if request.HasField("source_date_epoch") else None
        layer = await self._diff(call).compare(
            mounts_from_pb(request.left),
            mounts_from_pb(request.right),
            media_type=request.media_type,
            ref=request.ref,
            labels=dict(request.labels),
            source_date_epoch_ns=epoch,
        )
        return pb.DiffResponse(diff=descriptor_to_pb(layer))
