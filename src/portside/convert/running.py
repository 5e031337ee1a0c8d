"""What runs and what is told about it: processes, metrics, events, plugins."""

from __future__ import annotations

from portside.convert.basics import (
    any_from_pb,
    any_to_pb,
    platform_from_pb,
    platform_to_pb,
    timestamp_from_pb,
    timestamp_to_pb,
)
from portside.core.anymessage import AnyMessage
from portside.core.events import Envelope
from portside.core.introspection import Deprecation, PluginStatus
from portside.core.tasks import Metric, Process, ProcessInfo, Status, TaskIO
from portside.wire.pb.containerd.services.introspection.v1 import introspection_pb2
from portside.wire.pb.containerd.types import event_pb2, metrics_pb2
from portside.wire.pb.containerd.types.task import task_pb2
from portside.wire.pb.google.rpc import status_pb2
from portside.wire.status import code_of


def process_to_pb(process: Process) -> task_pb2.Process:
    """The id is the exec's, or the container's for its first process, as containerd has it."""
    return task_pb2.Process(
        container_id=process.container_id,
        id=process.exec_id or process.container_id,
        pid=process.pid,
        status=int(process.status),  # type: ignore[arg-type]
        stdin=process.io.stdin,
        stdout=process.io.stdout,
        stderr=process.io.stderr,
        terminal=process.io.terminal,
        exit_status=process.exit_status,
        exited_at=timestamp_to_pb(process.exited_ns) if process.exited_ns else None,
    )


def process_from_pb(message: task_pb2.Process) -> Process:
    """Upstream's list leaves ``container_id`` empty and gives the container's id as ``id``."""
    container_id = message.container_id or message.id
    return Process(
        container_id,
        "" if message.id == container_id else message.id,
        message.pid,
        Status(message.status) if message.status in Status._value2member_map_ else Status.UNKNOWN,
        TaskIO(message.stdin, message.stdout, message.stderr, message.terminal),
        message.exit_status,
        timestamp_from_pb(message.exited_at),
    )


def process_info_to_pb(info: ProcessInfo) -> task_pb2.ProcessInfo:
    """Field by field."""
    return task_pb2.ProcessInfo(pid=info.pid, info=any_to_pb(info.info))


def process_info_from_pb(message: task_pb2.ProcessInfo) -> ProcessInfo:
    """Field by field."""
    return ProcessInfo(message.pid, any_from_pb(message.info))


def metric_to_pb(metric: Metric) -> metrics_pb2.Metric:
    """Field by field."""
    return metrics_pb2.Metric(timestamp=timestamp_to_pb(metric.timestamp_ns), id=metric.id, data=any_to_pb(metric.data))


def metric_from_pb(message: metrics_pb2.Metric) -> Metric:
    """Field by field."""
    return Metric(
        message.id, timestamp_from_pb(message.timestamp), AnyMessage(message.data.type_url, message.data.value)
    )


def envelope_to_pb(envelope: Envelope) -> event_pb2.Envelope:
    """Field by field."""
    return event_pb2.Envelope(
        timestamp=timestamp_to_pb(envelope.timestamp_ns),
        namespace=envelope.namespace,
        topic=envelope.topic,
        event=any_to_pb(envelope.event),
    )


def envelope_from_pb(message: event_pb2.Envelope) -> Envelope:
    """Field by field."""
    return Envelope(timestamp_from_pb(message.timestamp), message.namespace, message.topic, any_from_pb(message.event))


def plugin_to_pb(plugin: PluginStatus) -> introspection_pb2.Plugin:
    """A skipped plugin is told from a failed one by the text of its status, as clients of containerd expect."""
    error = None
    if plugin.skipped:
        error = status_pb2.Status(code=code_of(Exception()), message=f"{plugin.error}: skip plugin")
    elif plugin.error:
        error = status_pb2.Status(code=code_of(Exception()), message=plugin.error)
    return introspection_pb2.Plugin(
        type=plugin.type,
        id=plugin.id,
        requires=plugin.requires,
        platforms=[platform_to_pb(platform) for platform in plugin.platforms],
        exports=plugin.exports,
        capabilities=plugin.capabilities,
        init_err=error,
    )


def plugin_from_pb(message: introspection_pb2.Plugin) -> PluginStatus:
    """The reverse, the text of a skip included."""
    text = message.init_err.message
    return PluginStatus(
        message.type,
        message.id,
        tuple(message.requires),
        tuple(platform_from_pb(platform) for platform in message.platforms),
        dict(message.exports),
        tuple(message.capabilities),
        text,
        "skip plugin" in text,
    )


def deprecation_to_pb(deprecation: Deprecation) -> introspection_pb2.DeprecationWarning:
    """Field by field."""
    return introspection_pb2.DeprecationWarning(
        id=deprecation.id,
        message=deprecation.message,
        last_occurrence=timestamp_to_pb(deprecation.last_occurrence_ns),
    )


def deprecation_from_pb(message: introspection_pb2.DeprecationWarning) -> Deprecation:
    """Field by field."""
    return Deprecation(message.id, message.message, timestamp_from_pb(message.last_occurrence))
