from __future__ import annotations

from portside.daemon.config import DaemonConfig, DebugConfig, GrpcConfig, MetricsConfig
from portside.daemon.server_plugins import enabled, measures_tasks, statuses

ALL = DaemonConfig(
    grpc=GrpcConfig(address="/g", tcp_address=":1"),
    debug=DebugConfig(address="/d", level="debug"),
    metrics=MetricsConfig(address=":2"),
)
MONITOR = "io.containerd.monitor.task.v1.cgroups"


def without(*uris: str) -> DaemonConfig:
    return DaemonConfig(ALL.root, grpc=ALL.grpc, debug=ALL.debug, metrics=ALL.metrics, disabled_plugins=uris)


def test_what_is_disabled_has_no_address() -> None:
    assert enabled(ALL) == ALL
    off = enabled(without(*(f"io.containerd.server.v1.{id}" for id in ("grpc-tcp", "debug", "metrics"))))
    assert (off.grpc.address, off.grpc.tcp_address, off.metrics.address) == ("/g", "", "")
    assert (off.debug.address, off.debug.level) == ("", "debug")


def test_whether_containers_are_measured() -> None:
    assert measures_tasks(ALL)
    assert not measures_tasks(without(MONITOR))
    assert not measures_tasks(DaemonConfig(plugins={MONITOR: {"no_prometheus": True}}))
    assert measures_tasks(DaemonConfig(plugins={MONITOR: {"no_prometheus": False}}))


def test_what_is_shown() -> None:
    shown = {plugin.id: plugin for plugin in statuses(ALL, True, "")}
    assert not [plugin for plugin in shown.values() if plugin.error or plugin.skipped]
    nothing = {plugin.id: plugin for plugin in statuses(DaemonConfig(), False, "")}
    assert {id for id, plugin in nothing.items() if plugin.skipped} == {
        "grpc-tcp", "debug", "metrics", "grpc-prometheus", "otlp",
    }  # fmt: skip
    failed = {plugin.id: plugin for plugin in statuses(ALL, False, "no such module")}
    assert failed["otlp"].error == "no such module" and not failed["otlp"].skipped
    assert "debug" not in {plugin.id for plugin in statuses(without("io.containerd.server.v1.debug"), True, "")}
