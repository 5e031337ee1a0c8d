"""Stats: what containers use, from the metrics of their cgroups (version 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portside.core.anymessage import METRICS_V1, METRICS_V2
from portside.core.services import Services
from portside.core.tasks import Metric

_UNLIMITED = 1 << 62
"""cgroup v1 says "no limit" with a number near 2**63, v2 with ``max``, which arrives as 2**64-1."""


@dataclass(frozen=True, slots=True)
class Stats:
    """One look at one container. Times are nanoseconds, sizes bytes; a limit of 0 is none."""

    id: str
    time_ns: int
    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    throttled_ns: int = 0
    memory: int = 0
    """In use, without what the page cache could give back at once, as ``docker stats`` shows it."""
    memory_total: int = 0
    memory_limit: int = 0
    pids: int = 0
    pids_limit: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def cpu_percent(self, before: Stats) -> float:
        """Of one CPU, between ``before`` and this."""
        span = self.time_ns - before.time_ns
        return max(0.0, (self.cpu_ns - before.cpu_ns) * 100.0 / span) if span > 0 else 0.0


async def stats(services: Services, ids: Sequence[str] = ()) -> list[Stats]:
    """Of the containers with these ids that run, all without ids; one that does not answer in time is left out."""
    metrics = await services.tasks.metrics([f"id=={id}" for id in ids])
    return [found for metric in metrics if (found := decode(metric)) is not None]


def decode(metric: Metric) -> Stats | None:
    """None for metrics of a kind that we do not know."""
    kind = metric.data.type_name
    if kind == METRICS_V2:
        return _decode_v2(metric)
    if kind == METRICS_V1:
        return _decode_v1(metric)
    return None


def _limit(value: int) -> int:
    return 0 if value >= _UNLIMITED else value


def _decode_v1(metric: Metric) -> Stats:
    from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2

    found = cgroup1_pb2.Metrics.FromString(metric.data.value)
    usage = found.memory.usage.usage
    inactive = found.memory.total_inactive_file
    read = written = 0
    for entry in found.blkio.io_service_bytes_recursive:
        if entry.op.lower() == "read":
            read += entry.value
        elif entry.op.lower() == "write":
            written += entry.value
    return Stats(
        metric.id, metric.timestamp_ns,
        cpu_ns=found.cpu.usage.total, cpu_user_ns=found.cpu.usage.user, cpu_system_ns=found.cpu.usage.kernel,
        throttled_ns=found.cpu.throttling.throttled_time,
        memory=usage - inactive if inactive < usage else usage, memory_total=usage,
        memory_limit=_limit(found.memory.usage.limit),
        pids=found.pids.current, pids_limit=_limit(found.pids.limit), read_bytes=read, written_bytes=written,
    )  # fmt: skip


def _decode_v2(metric: Metric) -> Stats:
    from portside.wire.pb.io.containerd.cgroups import cgroup2_pb2

    found = cgroup2_pb2.Metrics.FromString(metric.data.value)
    usage = found.memory.usage
    inactive = found.memory.inactive_file
    return Stats(
        metric.id, metric.timestamp_ns,
        cpu_ns=found.cpu.usage_usec * 1000, cpu_user_ns=found.cpu.user_usec * 1000,
        cpu_system_ns=found.cpu.system_usec * 1000, throttled_ns=found.cpu.throttled_usec * 1000,
        memory=usage - inactive if inactive < usage else usage, memory_total=usage,
        memory_limit=_limit(found.memory.usage_limit),
        pids=found.pids.current, pids_limit=_limit(found.pids.limit),
        read_bytes=sum(entry.rbytes for entry in found.io.usage),
        written_bytes=sum(entry.wbytes for entry in found.io.usage),
    )  # fmt: skip
