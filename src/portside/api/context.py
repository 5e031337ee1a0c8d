"""What every door reads from a call first: namespace and lease, and a field mask."""

from __future__ import annotations

from portside.core.services import Backend, Services
from portside.errors import FailedPrecondition
from portside.wire.grpc.service import Call
from portside.wire.pb.google.protobuf import field_mask_pb2

NAMESPACE = "containerd-namespace"
LEASE = "containerd-lease"


def bound(backend: Backend, call: Call) -> Services:
    """The services of the namespace that the call names; FailedPrecondition without one, as containerd has it."""
    namespace = call.metadata.get(NAMESPACE)
    if not isinstance(namespace, str) or not namespace:
        raise FailedPrecondition("namespace is required: set the request header containerd-namespace")
    lease = call.metadata.get(LEASE, "")
    return backend.bind(namespace, lease if isinstance(lease, str) else "")


def paths(mask: field_mask_pb2.FieldMask) -> tuple[str, ...]:
    """A field mask's paths."""
    return tuple(mask.paths)
