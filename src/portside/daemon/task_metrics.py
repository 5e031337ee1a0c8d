"""What containers use, under containerd's names (core/metrics/cgroups: v1 and v2), asked of their shims at each scrape.

The figures of a container are a message whose fields these tables name; what the kernel does not have is left out.
Each is labelled ``container_id``, ``namespace`` and ``runtime``. Some units are odd (page faults in bytes): they are
containerd's, and dashboards know them so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from portside.core.anymessage import METRICS_V1, METRICS_V2
from portside.core.services import Backend
from portside.core.tasks import Metric
from portside.daemon.exposition import Exposition, label_text
from portside.errors import NotFound

log = logging.getLogger(__name__)

WITHIN = 9.0
"""Seconds for all containers together; those of one namespace may take eight (``engine/tasks.py``)."""
Row = tuple[str, str, Any]
"""Name, help, and how to get the value from the message."""


def _rows(part: str, text: str) -> tuple[str, tuple[Row, ...]]:
    """Rows of ``name field help``, all of one part of the message."""
    rows: list[Row] = []
    for line in text.strip().splitlines():
        name, field, help = line.split(None, 2)
        rows.append((f"container_{name}", help, attrgetter(field)))
    return part, tuple(rows)


def _memory_v1() -> Iterator[str]:
    plain = (
        "cache rss rss_huge mapped_file dirty writeback pgpgin:pg_pg_in pgpgout:pg_pg_out pgfault:pg_fault "
        "pgmajfault:pg_maj_fault inactive_anon active_anon inactive_file active_file unevictable"
    )
    for prefix in ("", "total_"):
        for word in plain.split():
            name, _, field = word.partition(":")
            used = " used" if name in ("cache", "rss", "rss_huge", "mapped_file") else ""
            yield f"memory_{prefix}{name}_bytes memory.{prefix}{field or name} The {prefix}{name} amount{used}"
    yield from (
        "memory_hierarchical_memory_limit_bytes memory.hierarchical_memory_limit The hierarchical_memory_limit amount",
        "memory_hierarchical_memsw_limit_bytes memory.hierarchical_swap_limit The hierarchical_memsw_limit amount",
    )
    for entry in ("usage", "swap", "kernel", "kernel_tcp"):
        name = entry.replace("_", "")
        what = "memory" if entry == "usage" else name
        yield f"memory_{name}_failcnt_total memory.{entry}.failcnt The {name} failcnt"
        yield f"memory_{name}_limit_bytes memory.{entry}.limit The {what} limit"
        yield f"memory_{name}_max_bytes memory.{entry}.max The {what} maximum usage"
        yield f"memory_{name}_usage_bytes memory.{entry}.usage The {what} usage"


def _memory_v2() -> Iterator[str]:
    yield from (
        "memory_usage_bytes memory.usage Current memory usage (cgroup v2)",
        "memory_usage_limit_bytes memory.usage_limit Current memory usage limit (cgroup v2)",
        "memory_swap_usage_bytes memory.swap_usage Current swap usage (cgroup v2)",
        "memory_swap_limit_bytes memory.swap_limit Current swap usage limit (cgroup v2)",
    )
    plain = (
        "file_mapped file_dirty file_writeback pgactivate pgdeactivate pgfault pgmajfault pglazyfree pgrefill "
        "pglazyfreed pgscan pgsteal inactive_anon active_anon inactive_file active_file unevictable anon file "
        "kernel_stack slab sock shmem anon_thp slab_reclaimable slab_unreclaimable workingset_refault "
        "workingset_activate workingset_nodereclaim thp_fault_alloc thp_collapse_alloc"
    )
    for name in plain.split():
        yield f"memory_{name}_bytes memory.{name} The {name} amount"


V1 = (
    _rows("cpu", """
        cpu_total_nanoseconds cpu.usage.total The total cpu time
        cpu_kernel_nanoseconds cpu.usage.kernel The total kernel cpu time
        cpu_user_nanoseconds cpu.usage.user The total user cpu time
        cpu_throttle_periods_total cpu.throttling.periods The total cpu throttle periods
        cpu_throttled_periods_total cpu.throttling.throttled_periods The total cpu throttled periods
        cpu_throttled_time_nanoseconds cpu.throttling.throttled_time The total cpu throttled time
    """),
    _rows("memory", "\n".join(_memory_v1())),
    _rows("pids", """
        pids_limit pids.limit The limit to the number of pids allowed
        pids_current pids.current The current number of pids
    """),
)  # fmt: skip
V2 = (
    _rows("cpu", """
        cpu_usage_usec_microseconds cpu.usage_usec Total cpu usage (cgroup v2)
        cpu_user_usec_microseconds cpu.user_usec Current cpu usage in user space (cgroup v2)
        cpu_system_usec_microseconds cpu.system_usec Current cpu usage in kernel space (cgroup v2)
        cpu_nr_periods_total cpu.nr_periods Current cpu number of periods (only if controller is enabled)
        cpu_nr_throttled_total cpu.nr_throttled Total number of times tasks have been throttled (only if \
controller is enabled)
        cpu_throttled_usec_microseconds cpu.throttled_usec Total time duration for which tasks have been throttled. \
(only if controller is enabled)
    """),
    _rows("memory", "\n".join(_memory_v2())),
    _rows("memory_events", """
        memory_oom_total memory_events.oom The number of times a container has received an oom event
    """),
    _rows("pids", """
        pids_limit pids.limit The limit to the number of pids allowed (cgroup v2)
        pids_current pids.current The current number of pids (cgroup v2)
    """),
)  # fmt: skip
_BLKIO = {
    "io_merged_recursive": "total",
    "io_queued_recursive": "total",
    "io_service_bytes_recursive": "bytes",
    "io_service_time_recursive": "total",
    "io_serviced_recursive": "total",
    "io_time_recursive": "total",
    "sectors_recursive": "total",
}
_IO = {
    "rbytes": ("bytes", "IO bytes read"),
    "wbytes": ("bytes", "IO bytes written"),
    "rios": ("total", "Number of read IOs"),
    "wios": ("total", "Number of write IOs"),
}
_HUGETLB = {
    "usage": ("bytes", "The hugetlb usage"),
    "failcnt": ("total", "The hugetlb failcnt"),
    "max": ("bytes", "The hugetlb maximum usage"),
}


async def collect_tasks(backend: Backend, out: Exposition) -> None:
    """Write the figures of every container that runs and answers in time, giving way to others after each."""
    try:
        async with asyncio.timeout(WITHIN):
            await _collect(backend, out)
    except TimeoutError:
        log.warning("metrics: not all containers answered within %g s", WITHIN)


async def _collect(backend: Backend, out: Exposition) -> None:
    for namespace in await backend.namespaces.list():
        services = backend.bind(namespace)
        for metric in await services.tasks.metrics():
            try:
                runtime = (await services.containers.get(metric.id)).runtime
            except NotFound:
                runtime = ""
            labels = {"container_id": metric.id, "namespace": namespace, "runtime": runtime}
            write_task(out, metric, label_text(labels))
            await asyncio.sleep(0)


def write_task(out: Exposition, metric: Metric, labels: str) -> None:
    """Write the figures of one container; nothing for a message of a kind that we do not know."""
    kind = metric.data.type_name
    if kind == METRICS_V1:
        from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2

        v1 = cgroup1_pb2.Metrics.FromString(metric.data.value)
        _write_rows(out, V1, v1, labels)
        _write_v1_lists(out, v1, labels)
    elif kind == METRICS_V2:
        from portside.wire.pb.io.containerd.cgroups import cgroup2_pb2

        v2 = cgroup2_pb2.Metrics.FromString(metric.data.value)
        _write_rows(out, V2, v2, labels)
        for entry in v2.io.usage:
            device = f"{labels},{label_text({'major': str(entry.major), 'minor': str(entry.minor)})}"
            for field, (unit, help) in _IO.items():
                out.gauge(f"container_io_{field}_{unit}", help, getattr(entry, field), device)


def _write_rows(out: Exposition, parts: Iterable[tuple[str, tuple[Row, ...]]], message: Any, labels: str) -> None:
    for part, rows in parts:
        if message.HasField(part):
            for name, help, value in rows:
                out.gauge(name, help, value(message), labels)


def _write_v1_lists(out: Exposition, message: Any, labels: str) -> None:
    for number, value in enumerate(message.cpu.usage.per_cpu):
        cpu = f'{labels},cpu="{number}"'
        out.gauge("container_per_cpu_nanoseconds", "The total cpu time per cpu", value, cpu)
    for page in message.hugetlb:
        size = f"{labels},{label_text({'page': page.pagesize})}"
        for field, (unit, help) in _HUGETLB.items():
            out.gauge(f"container_hugetlb_{field}_{unit}", help, getattr(page, field), size)
    for field, unit in _BLKIO.items():
        for entry in getattr(message.blkio, field):
            named = {"op": entry.op, "device": entry.device, "major": str(entry.major), "minor": str(entry.minor)}
            help = f"The blkio {field.replace('_', ' ')}"
            out.gauge(f"container_blkio_{field}_{unit}", help, entry.value, f"{labels},{label_text(named)}")
    if kills := message.memory_oom_control.oom_kill:
        help = "The number of times a container has received an oom event"
        out.gauge("container_memory_oom_total", help, kills, labels)
