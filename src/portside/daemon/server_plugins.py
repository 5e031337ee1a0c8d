"""What the daemon listens on and tells of itself, as the plugins that containerd has for it: switched off, shown.

Their tables are in ``DaemonConfig`` (``daemon/config.py``), since version 4 of the file made plugins of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portside.core.introspection import PluginStatus
from portside.daemon.config import DaemonConfig, DebugConfig, MetricsConfig
from portside.oci.platform import host_platform

SERVER = "io.containerd.server.v1"
TASK_MONITOR = "io.containerd.monitor.task.v1"
TRACING = "io.containerd.tracing.processor.v1"
METRICS = "io.containerd.metrics.v1"


def enabled(config: DaemonConfig) -> DaemonConfig:
    """``config`` without the addresses of what ``disabled_plugins`` names."""
    off = frozenset(config.disabled_plugins)
    if f"{SERVER}.grpc-tcp" in off:
        config = replace(config, grpc=replace(config.grpc, tcp_address=""))
    if f"{SERVER}.metrics" in off:
        config = replace(config, metrics=MetricsConfig())
    if f"{SERVER}.debug" in off:
        config = replace(config, debug=replace(DebugConfig(), level=config.debug.level, format=config.debug.format))
    return config


def measures_tasks(config: DaemonConfig) -> bool:
    """Whether containers are to be among the metrics (``no_prometheus`` of the task monitor)."""
    uri = f"{TASK_MONITOR}.cgroups"
    return uri not in config.disabled_plugins and not config.plugins.get(uri, {}).get("no_prometheus", False)


def statuses(config: DaemonConfig, traces: bool, why_not: str) -> Iterator[PluginStatus]:
    """For introspection; ``traces`` whether they are sent, ``why_not`` what keeps them from it."""
    nowhere = "no address is configured"
    rows = (
        (SERVER, "grpc", True, ""),
        (SERVER, "ttrpc", True, ""),
        (SERVER, "grpc-tcp", bool(config.grpc.tcp_address), nowhere),
        (SERVER, "debug", bool(config.debug.address), nowhere),
        (SERVER, "metrics", bool(config.metrics.address), nowhere),
        (METRICS, "grpc-prometheus", bool(config.metrics.address), "metrics are not served"),
        (TASK_MONITOR, "cgroups", True, ""),
        (TRACING, "otlp", traces, why_not or "the environment asks for no traces"),
    )
    platform = (host_platform(),)
    for type, id, works, reason in rows:
        if f"{type}.{id}" not in config.disabled_plugins:
            skipped = not works and not (type == TRACING and why_not)
            yield PluginStatus(type, id, platforms=platform, error="" if works else reason, skipped=skipped)
