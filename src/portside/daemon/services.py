"""Which of the services are served: all but those whose plugins (``io.containerd.grpc.v1.images`` …) are disabled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from portside.core.introspection import PluginStatus
from portside.core.plugin import GRPC
from portside.daemon.server_plugins import METRICS, SERVER, TASK_MONITOR, TRACING
from portside.oci.platform import host_platform
from portside.wire.grpc.service import Method

_PATHS = {
    "healthcheck": "/grpc.health.v1.",
    "sandboxes": "/containerd.services.sandbox.v1.Store/",
    "sandbox-controllers": "/containerd.services.sandbox.v1.Controller/",
}
"""Where the id of a plugin is not the name of its package."""


def shown(ids: Iterable[str], disabled: Collection[str]) -> list[PluginStatus]:
    """The services ``ids`` that are served, as introspection shows them."""
    return [PluginStatus(GRPC, id, platforms=(host_platform(),)) for id in ids if f"{GRPC}.{id}" not in disabled]


def served(methods: Iterable[Method], disabled: Collection[str]) -> list[Method]:
    """``methods`` without those of disabled services, which are then Unimplemented, as at containerd."""
    off = tuple(
        _PATHS.get(id, f"/containerd.services.{id}.v1.")
        for id in (uri.removeprefix(f"{GRPC}.") for uri in disabled if uri.startswith(f"{GRPC}."))
    )
    return [method for method in methods if not method.path.startswith(off)] if off else list(methods)


def for_engine(required: Sequence[str]) -> list[str]:
    """Of the ``required`` plugins those that the engine has; the doors have the others."""
    doors = (GRPC, SERVER, METRICS, TASK_MONITOR, TRACING)
    return [uri for uri in required if uri.rpartition(".")[0] not in doors]
