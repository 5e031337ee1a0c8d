"""containerd.services.mounts.v1.Mounts as a ``MountManager``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.convert.basics import mounts_to_pb
from portside.convert.mounts import activation_from_pb, activation_to_pb
from portside.core.mount import Mount
from portside.core.mounts import Activation
from portside.remote.caller import Caller
from portside.wire.grpc.client import Channel
from portside.wire.pb.containerd.services.mounts.v1 import mounts_pb2 as pb
from portside.wire.pb.google.protobuf import empty_pb2, field_mask_pb2

SERVICE = "containerd.services.mounts.v1.Mounts"


class RemoteMounts:
    """The activations of one namespace; servers before containerd 2.2 have none (Unimplemented)."""

    def __init__(self, channel: Channel, namespace: str, lease: str) -> None:
        self._caller = Caller(channel, SERVICE, namespace, lease)

    async def activate(
        self, name: str, mounts: Sequence[Mount], labels: Mapping[str, str] | None = None, temporary: bool = False
    ) -> Activation:
        """Make what must be made."""
        request = pb.ActivateRequest(name=name, mounts=mounts_to_pb(mounts), labels=labels, temporary=temporary)
        return activation_from_pb((await self._caller.call("Activate", request, pb.ActivateResponse)).info)

    async def deactivate(self, name: str) -> None:
        """Undo it."""
        await self._caller.call("Deactivate", pb.DeactivateRequest(name=name), empty_pb2.Empty)

    async def info(self, name: str) -> Activation:
        """One by name."""
        return activation_from_pb((await self._caller.call("Info", pb.InfoRequest(name=name), pb.InfoResponse)).info)

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        """Change labels."""
        mask = field_mask_pb2.FieldMask(paths=fieldpaths)
        request = pb.UpdateRequest(info=activation_to_pb(activation), update_mask=mask)
        return activation_from_pb((await self._caller.call("Update", request, pb.UpdateResponse)).info)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """Those that match."""
        answers = self._caller.answers("List", pb.ListRequest(filters=filters), pb.ListMessage)
        return [activation_from_pb(answer.info) async for answer in answers]
