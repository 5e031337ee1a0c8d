"""A server with nothing but ``containerd.services.version.v1.Version``: what the gRPC core costs by itself.

Usage: python bench/grpc_version_server.py SOCKET [--uvloop]
"""

from __future__ import annotations

import asyncio
import gc
import sys

from portside.wire.grpc.server import GrpcServer
from portside.wire.grpc.service import inline, methods_of
from portside.wire.pb.containerd.services.version.v1 import version_pb2


class Version:
    @inline
    async def version(self, request: object, call: object) -> version_pb2.VersionResponse:
        return version_pb2.VersionResponse(version="1.6.20", revision="0")


async def main(path: str) -> None:
    server = GrpcServer(methods_of(version_pb2.DESCRIPTOR.services_by_name["Version"], Version()))
    await server.listen_unix(path)
    gc.freeze()
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(main(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
