"""Activated mounts (containerd.types.ActivationInfo)."""

from __future__ import annotations

from portside.convert.basics import mount_to_pb, mounts_from_pb, mounts_to_pb, timestamp_from_pb, timestamp_to_pb
from portside.core.mounts import Activation, ActiveMount
from portside.wire.pb.containerd.types import mount_pb2


def activation_to_pb(activation: Activation) -> mount_pb2.ActivationInfo:
    """Field by field."""
    active = [
        mount_pb2.ActiveMount(
            mount=mount_to_pb(made.mount),
            mounted_at=timestamp_to_pb(made.mounted_ns),
            mount_point=made.mount_point,
            data=made.data,
        )
        for made in activation.active
    ]
    return mount_pb2.ActivationInfo(
        name=activation.name, active=active, system=mounts_to_pb(activation.system), labels=activation.labels
    )


def activation_from_pb(message: mount_pb2.ActivationInfo) -> Activation:
    """Field by field."""
    active = tuple(
        ActiveMount(
            mounts_from_pb([made.mount])[0], made.mount_point, timestamp_from_pb(made.mounted_at), dict(made.data)
        )
        for made in message.active
    )
    return Activation(message.name, active, mounts_from_pb(message.system), dict(message.labels))
