"""containerd.services.diff.v1.Diff as a ``DiffService``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.convert.basics import descriptor_from_pb, descriptor_to_pb, mounts_to_pb, timestamp_to_pb
from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount
from portside.oci.descriptor import Descriptor
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.diff.v1 import diff_pb2 as pb

SERVICE = "containerd.services.diff.v1.Diff"


class RemoteDiff:
    """Works on the content store of its namespace."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """Unpack a layer onto mounts."""
        request = pb.ApplyRequest(diff=descriptor_to_pb(layer), mounts=mounts_to_pb(mounts), sync_fs=sync_fs)
        for key, payload in (payloads or {}).items():
            request.payloads[key].type_url = payload.type_url
            request.payloads[key].value = payload.value
        return descriptor_from_pb((await self._caller.call("Apply", request, pb.ApplyResponse, timeout=None)).applied)

    async def compare(
        self, lower: Sequence[Mount], upper: Sequence[Mount],
        *, media_type: str = "", ref: str = "", labels: Mapping[str, str] | None = None,
        source_date_epoch_ns: int | None = None,
    ) -> Descriptor:  # fmt: skip
        """Write what changed as a layer."""
        epoch = None if source_date_epoch_ns is None else timestamp_to_pb(source_date_epoch_ns)
        request = pb.DiffRequest(
            left=mounts_to_pb(lower),
            right=mounts_to_pb(upper),
            media_type=media_type,
            ref=ref,
            labels=labels,
            source_date_epoch=epoch,
        )
        return descriptor_from_pb((await self._caller.call("Diff", request, pb.DiffResponse, timeout=None)).diff)
