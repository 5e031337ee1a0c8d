"""Sandboxes' records and what controllers tell of them."""

from __future__ import annotations

from portside.convert.basics import any_from_pb, any_to_pb, timestamp_from_pb, timestamp_to_pb
from portside.core.anymessage import AnyMessage
from portside.core.sandboxes import Sandbox, SandboxInstance, SandboxStatus
from portside.wire.pb.containerd.services.sandbox.v1 import sandbox_pb2 as pb
from portside.wire.pb.containerd.types import sandbox_pb2


def sandbox_to_pb(sandbox: Sandbox) -> sandbox_pb2.Sandbox:
    """Field by field."""
    return sandbox_pb2.Sandbox(
        sandbox_id=sandbox.id,
        runtime=sandbox_pb2.Sandbox.Runtime(name=sandbox.runtime, options=any_to_pb(sandbox.runtime_options)),
        spec=any_to_pb(sandbox.spec),
        labels=sandbox.labels,
        created_at=timestamp_to_pb(sandbox.created_ns),
        updated_at=timestamp_to_pb(sandbox.updated_ns),
        extensions={key: any_to_pb(value) for key, value in sandbox.extensions.items()},  # type: ignore[misc]
        sandboxer=sandbox.sandboxer,
    )


def sandbox_from_pb(message: sandbox_pb2.Sandbox) -> Sandbox:
    """Field by field."""
    return Sandbox(
        id=message.sandbox_id,
        runtime=message.runtime.name,
        runtime_options=any_from_pb(message.runtime.options),
        spec=any_from_pb(message.spec),
        labels=dict(message.labels),
        extensions={key: AnyMessage(value.type_url, value.value) for key, value in message.extensions.items()},
        sandboxer=message.sandboxer,
        created_ns=timestamp_from_pb(message.created_at),
        updated_ns=timestamp_from_pb(message.updated_at),
    )


def instance_to_pb(instance: SandboxInstance) -> pb.ControllerStartResponse:
    """Field by field."""
    return pb.ControllerStartResponse(
        sandbox_id=instance.id,
        pid=instance.pid,
        created_at=timestamp_to_pb(instance.created_ns),
        labels=instance.labels,
        address=instance.address,
        version=instance.version,
        spec=any_to_pb(instance.spec),
    )


def instance_from_pb(message: pb.ControllerStartResponse) -> SandboxInstance:
    """Field by field."""
    return SandboxInstance(
        message.sandbox_id,
        message.pid,
        timestamp_from_pb(message.created_at),
        dict(message.labels),
        message.address,
        message.version,
        any_from_pb(message.spec),
    )


def status_to_pb(status: SandboxStatus) -> pb.ControllerStatusResponse:
    """Field by field; a time that is not known yet stays unset."""
    return pb.ControllerStatusResponse(
        sandbox_id=status.id,
        pid=status.pid,
        state=status.state,
        info=status.info,
        created_at=timestamp_to_pb(status.created_ns) if status.created_ns else None,
        exited_at=timestamp_to_pb(status.exited_ns) if status.exited_ns else None,
        extra=any_to_pb(status.extra),
        address=status.address,
        version=status.version,
    )


def status_from_pb(message: pb.ControllerStatusResponse) -> SandboxStatus:
    """Field by field."""
    return SandboxStatus(
        message.sandbox_id,
        message.pid,
        message.state,
        dict(message.info),
        timestamp_from_pb(message.created_at),
        timestamp_from_pb(message.exited_at),
        any_from_pb(message.extra),
        message.address,
        message.version,
    )
