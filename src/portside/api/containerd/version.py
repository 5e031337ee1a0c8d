"""containerd.services.version.v1.Version."""

from __future__ import annotations

from portside.core.services import Backend
from portside.wire.grpc.service import Call, inline
from portside.wire.pb.containerd.services.version.v1 import version_pb2
from portside.wire.pb.google.protobuf import empty_pb2

SERVICE = version_pb2.DESCRIPTOR.services_by_name["Version"]


class VersionService:
    """What this server is."""

    def __init__(self, backend: Backend) -> None:
        self._introspection = backend.introspection

    @inline
    async def version(self, request: empty_pb2.Empty, call: Call) -> version_pb2.VersionResponse:
        """Version and revision."""
        info = await self._introspection.version()
        return version_pb2.VersionResponse(version=info.version, revision=info.revision)
