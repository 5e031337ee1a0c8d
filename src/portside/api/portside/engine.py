"""Our own service as a table of methods, and what it tells of the engine as a whole."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from portside.api.context import bound
from portside.api.portside.containers import ContainerVerbs
from portside.api.portside.images import ImageVerbs
from portside.client.places import Places
from portside.core.services import Backend
from portside.core.tasks import Status
from portside.engine.autoremove import AutoRemove
from portside.linux import apparmor
from portside.wire.grpc.service import Call, Method, methods_of
from portside.wire.pb.portside.services.engine.v1 import engine_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Engine"]


class _Engine(ContainerVerbs, ImageVerbs):
    """All methods of the service."""

    def __init__(self, backend: Backend, places: Places, auto_remove: AutoRemove, root: Path, state: Path) -> None:
        ContainerVerbs.__init__(self, backend, places, auto_remove)
        self._root, self._state = root, state

    async def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        """The daemon and the machine."""
        services = bound(self._backend, call)
        version = await self._backend.introspection.version()
        server = await self._backend.introspection.server()
        tasks = await services.tasks.list()
        return pb.InfoResponse(
            version=version.version,
            revision=version.revision,
            root=str(self._root),
            state=str(self._state),
            snapshotter=services.default_snapshotter,
            containers=len(await services.containers.list()),
            running=sum(1 for task in tasks if task.status is Status.RUNNING),
            images=len(await services.images.list()),
            kernel=os.uname().release,
            architecture=os.uname().machine,
            cpus=os.cpu_count() or 0,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            cgroup_version=_cgroup_version(),
            uuid=server.uuid,
            security=_security(),
            python=platform.python_version(),
        )


def portside_methods(
    backend: Backend, places: Places, auto_remove: AutoRemove, root: Path, state: Path
) -> list[Method]:
    """For ``GrpcServer``."""
    return methods_of(SERVICE, _Engine(backend, places, auto_remove, root, state))


def _cgroup_version() -> str:
    return "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1"


def _security() -> list[str]:
    found = ["seccomp"]
    if apparmor.enabled():
        found.append("apparmor")
    return found
