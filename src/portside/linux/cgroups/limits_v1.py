"""The ``linux.resources`` of a runtime-spec as writes to control files of version 1.

Pure: nothing here looks at the machine. Device rules are in ``devices``.
Sources: runtime-spec config-linux.md, *Control groups*; kernel: admin-guide/cgroup-v1.
"""

from __future__ import annotations

from portside.errors import InvalidArgument
from portside.linux.cgroups.resources import device_number, integer, items, page_size, pids_limit, section, text
from portside.linux.cgroups.writes import EITHER, OPTIONAL, PAIRED, Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def plan(resources: Mapping[str, Any]) -> list[Write]:
    """All writes for ``resources``, in order; what is absent or zero is left as it is. InvalidArgument for nonsense."""
    if resources.get("unified"):
        raise InvalidArgument("linux.resources.unified: this machine has cgroup v1, which has no unified settings")
    return [
        *_cpuset(section(resources, "cpu")),
        *_cpu(section(resources, "cpu")),
        *_memory(section(resources, "memory")),
        *_pids(section(resources, "pids")),
        *_blkio(section(resources, "blockIO")),
        *_hugetlb(resources),
        *_network(section(resources, "network")),
        *_rdma(resources),
    ]


def _cpuset(cpu: Mapping[str, Any]) -> list[Write]:
    return [Write("cpuset", f"cpuset.{key}", text(cpu, key)) for key in ("cpus", "mems") if cpu.get(key)]


def _cpu(cpu: Mapping[str, Any]) -> list[Write]:
    writes = []
    if shares := integer(cpu, "shares"):
        writes.append(Write("cpu", "cpu.shares", shares))
    if realtime := integer(cpu, "realtimePeriod"):
        writes.append(Write("cpu", "cpu.rt_period_us", realtime))
    if realtime := integer(cpu, "realtimeRuntime"):
        writes.append(Write("cpu", "cpu.rt_runtime_us", realtime))
    period, quota, burst = integer(cpu, "period"), integer(cpu, "quota"), integer(cpu, "burst")
    if period:
        # A shorter period may raise quota/period above the parent's share; then the quota has to come down first.
        writes.append(Write("cpu", "cpu.cfs_period_us", period, PAIRED if quota else 0))
    if quota:
        writes.append(Write("cpu", "cpu.cfs_quota_us", max(quota, -1)))
    if burst is not None:
        writes.append(Write("cpu", "cpu.cfs_burst_us", burst, 0 if burst else OPTIONAL))
    if (idle := integer(cpu, "idle")) is not None:
        writes.append(Write("cpu", "cpu.idle", idle, 0 if idle else OPTIONAL))
    return writes


def _memory(memory: Mapping[str, Any]) -> list[Write]:
    limit, swap = integer(memory, "limit"), integer(memory, "swap")
    if limit == -1 and not swap:
        swap = -1  # No limit on memory means none on memory with swap, which may never be the smaller.
    writes = []
    if limit:
        writes.append(Write("memory", "memory.limit_in_bytes", limit, PAIRED if swap else 0))
    if swap:
        writes.append(Write("memory", "memory.memsw.limit_in_bytes", swap, OPTIONAL if swap == -1 else 0))
    if reservation := integer(memory, "reservation"):
        writes.append(Write("memory", "memory.soft_limit_in_bytes", reservation))
    if tcp := integer(memory, "kernelTCP"):
        writes.append(Write("memory", "memory.kmem.tcp.limit_in_bytes", tcp))
    if memory.get("disableOOMKiller"):
        writes.append(Write("memory", "memory.oom_control", 1))
    if (swappiness := integer(memory, "swappiness")) is not None:
        if not 0 <= swappiness <= 100:
            raise InvalidArgument(f"linux.resources.memory.swappiness: {swappiness} is not between 0 and 100")
        writes.append(Write("memory", "memory.swappiness", swappiness))
    return writes


def _pids(pids: Mapping[str, Any]) -> list[Write]:
    limit = pids_limit(pids)
    return [Write("pids", "pids.max", limit)] if limit else []


def _blkio(block: Mapping[str, Any]) -> list[Write]:
    writes = []
    for key, file in (("weight", "weight"), ("leafWeight", "leaf_weight")):
        if weight := integer(block, key):
            writes.append(Write("blkio", f"blkio.bfq.{file}", weight, EITHER))
            writes.append(Write("blkio", f"blkio.{file}", weight))
    for device in items(block, "weightDevice"):
        for key, file in (("weight", "weight_device"), ("leafWeight", "leaf_weight_device")):
            if weight := integer(device, key):
                value = f"{device_number(device)} {weight}"
                writes.append(Write("blkio", f"blkio.bfq.{file}", value, EITHER))
                writes.append(Write("blkio", f"blkio.{file}", value))
    for key, file in (
        ("throttleReadBpsDevice", "read_bps"),
        ("throttleWriteBpsDevice", "write_bps"),
        ("throttleReadIOPSDevice", "read_iops"),
        ("throttleWriteIOPSDevice", "write_iops"),
    ):
        for device in items(block, key):
            value = f"{device_number(device)} {integer(device, 'rate') or 0}"
            writes.append(Write("blkio", f"blkio.throttle.{file}_device", value))
    return writes


def _hugetlb(resources: Mapping[str, Any]) -> list[Write]:
    return [
        write
        for limit in items(resources, "hugepageLimits")
        for write in (
            Write("hugetlb", f"hugetlb.{page_size(limit)}.limit_in_bytes", integer(limit, "limit") or 0),
            Write("hugetlb", f"hugetlb.{page_size(limit)}.rsvd.limit_in_bytes", integer(limit, "limit") or 0, OPTIONAL),
        )
    ]


def _network(network: Mapping[str, Any]) -> list[Write]:
    writes = []
    if class_id := integer(network, "classID"):
        writes.append(Write("net_cls", "net_cls.classid", class_id))
    for entry in items(network, "priorities"):
        writes.append(Write("net_prio", "net_prio.ifpriomap", f"{text(entry, 'name')} {integer(entry, 'priority')}"))
    return writes


def _rdma(resources: Mapping[str, Any]) -> list[Write]:
    return [Write("rdma", "rdma.max", line) for line in rdma_lines(section(resources, "rdma"))]


def rdma_lines(rdma: Mapping[str, Any]) -> list[str]:
    """``<device> hca_handle=… hca_object=…`` for each device; the file is the same in both versions."""
    lines = []
    for name in rdma:
        limits = section(rdma, name)
        parts = [
            f"{key}={value}"
            for key, value in (
                ("hca_handle", integer(limits, "hcaHandles")),
                ("hca_object", integer(limits, "hcaObjects")),
            )
            if value is not None
        ]
        lines.append(" ".join([name, *parts]))
    return lines
