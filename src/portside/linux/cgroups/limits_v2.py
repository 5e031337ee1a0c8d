"""The ``linux.resources`` of a runtime-spec as writes to control files of version 2 (kernel: admin-guide/cgroup-v2).

The specification speaks version 1; the conversions are the customary ones and are stated where they are made. Pure:
nothing here looks at the machine. Device rules are in ``devices``.
"""

from __future__ import annotations

import math

from portside.errors import InvalidArgument
from portside.linux.cgroups.limits_v1 import rdma_lines
from portside.linux.cgroups.resources import device_number, integer, items, page_size, pids_limit, section, text
from portside.linux.cgroups.writes import EITHER, OPTIONAL, Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def plan(resources: Mapping[str, Any]) -> list[Write]:
    """All writes for ``resources``, in order; what is absent is left as it is. InvalidArgument for nonsense."""
    return [
        *_cpuset(section(resources, "cpu")),
        *_cpu(section(resources, "cpu")),
        *_memory(section(resources, "memory")),
        *_pids(section(resources, "pids")),
        *_io(section(resources, "blockIO")),
        *_hugetlb(resources),
        *[Write("rdma", "rdma.max", line) for line in rdma_lines(section(resources, "rdma"))],
        *_unified(section(resources, "unified")),
    ]


def _cpuset(cpu: Mapping[str, Any]) -> list[Write]:
    return [Write("cpuset", f"cpuset.{key}", text(cpu, key)) for key in ("cpus", "mems") if cpu.get(key)]


def _cpu(cpu: Mapping[str, Any]) -> list[Write]:
    writes = []
    idle = integer(cpu, "idle")
    if idle is not None:
        writes.append(Write("cpu", "cpu.idle", idle, 0 if idle else OPTIONAL))
    # An idle group has no weight; the kernel refuses one.
    if (shares := integer(cpu, "shares")) and not idle:
        writes.append(Write("cpu", "cpu.weight", weight_of_shares(shares)))
    period, quota, burst = integer(cpu, "period"), integer(cpu, "quota"), integer(cpu, "burst")
    if period or quota:
        limit = quota if quota and quota > 0 else "max"
        writes.append(Write("cpu", "cpu.max", f"{limit} {period or 100_000}"))
    if burst is not None:
        writes.append(Write("cpu", "cpu.max.burst", burst, 0 if burst else OPTIONAL))
    return writes


def weight_of_shares(shares: int) -> int:
    """``cpu.weight`` (1 to 10000, usual 100) for ``cpu.shares`` (2 to 262144, usual 1024).

    The curve goes through both ends and through the usual values, so that a group with the usual share keeps its
    place beside groups that were never given one; a straight line, used by runtimes until 2025, gave it 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    bits = math.log2(shares)
    return math.ceil(10 ** ((bits * bits + 125 * bits) / 612 - 7 / 34) - 1e-9)


def _memory(memory: Mapping[str, Any]) -> list[Write]:
    limit, swap = integer(memory, "limit"), integer(memory, "swap")
    if limit == -1 and not swap:
        swap = -1
    writes = []
    if limit:
        writes.append(Write("memory", "memory.max", _bytes(limit)))
    if swap:
        alone = _swap_alone(swap, limit)
        writes.append(Write("memory", "memory.swap.max", alone, OPTIONAL if alone in ("max", "0") else 0))
    if reservation := integer(memory, "reservation"):
        writes.append(Write("memory", "memory.low", _bytes(reservation)))
    return writes


def _bytes(limit: int) -> str:
    return "max" if limit < 0 else str(limit)


def _swap_alone(swap: int, limit: int | None) -> str:
    """The specification counts memory and swap together, the kernel swap alone."""
    if swap < 0:
        return "max"
    if not limit or limit < 0:
        raise InvalidArgument("linux.resources.memory: a swap limit needs a memory limit beside it")
    if swap < limit:
        raise InvalidArgument(f"linux.resources.memory: swap {swap} counts memory too, so it may not be below {limit}")
    return str(swap - limit)


def _pids(pids: Mapping[str, Any]) -> list[Write]:
    limit = pids_limit(pids)
    return [Write("pids", "pids.max", limit)] if limit else []


def _io(block: Mapping[str, Any]) -> list[Write]:
    writes = []
    if weight := integer(block, "weight"):
        writes.append(Write("io", "io.bfq.weight", weight, EITHER))
        # 10 to 1000 there, 1 to 10000 here.
        writes.append(Write("io", "io.weight", f"default {1 + (weight - 10) * 9999 // 990}"))
    for device in items(block, "weightDevice"):
        if weight := integer(device, "weight"):
            writes.append(Write("io", "io.bfq.weight", f"{device_number(device)} {weight}"))
    for key, name in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in items(block, key):
            rate = integer(device, "rate")
            writes.append(Write("io", "io.max", f"{device_number(device)} {name}={rate or 'max'}"))
    return writes


def _hugetlb(resources: Mapping[str, Any]) -> list[Write]:
    return [
        write
        for limit in items(resources, "hugepageLimits")
        for write in (
            Write("hugetlb", f"hugetlb.{page_size(limit)}.max", integer(limit, "limit") or 0),
            Write("hugetlb", f"hugetlb.{page_size(limit)}.rsvd.max", integer(limit, "limit") or 0, OPTIONAL),
        )
    ]


def _unified(unified: Mapping[str, Any]) -> list[Write]:
    writes = []
    for file, value in unified.items():
        controller, dot, _rest = file.partition(".")
        if not dot or "/" in file or "\0" in file or not isinstance(value, str):
            raise InvalidArgument(f"linux.resources.unified: {file[:80]!r} is not a control file with a text value")
        # Several lines are several writes: io.max and its like take one device at a time.
        writes += [Write(controller, file, line) for line in value.splitlines() or [""]]
    return writes
