"""The figures of a version 1 group, with the fields of ``io.containerd.cgroups.v1.Metrics``.

A controller that is not mounted, and a file that this kernel lacks, leaves its fields out.
"""

from __future__ import annotations

import os

from portside.linux.cgroups.values import MAX_UINT64, flat, hugepage_sizes, number, rdma, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_MEMORY_FIELDS = {"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault"}
_MEMORY_NAMES = frozenset(
    {
        "cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "inactive_anon", "active_anon",
        "inactive_file", "active_file", "unevictable", *_MEMORY_FIELDS,
    }
)  # fmt: skip
_BLKIO = {
    "io_service_bytes_recursive": (
        "bfq.io_service_bytes_recursive", "io_service_bytes_recursive", "throttle.io_service_bytes",
    ),
    "io_serviced_recursive": ("bfq.io_serviced_recursive", "io_serviced_recursive", "throttle.io_serviced"),
    "io_queued_recursive": ("bfq.io_queued_recursive", "io_queued_recursive"),
    "io_service_time_recursive": ("bfq.io_service_time_recursive", "io_service_time_recursive"),
    "io_wait_time_recursive": ("bfq.io_wait_time_recursive", "io_wait_time_recursive"),
    "io_merged_recursive": ("bfq.io_merged_recursive", "io_merged_recursive"),
    "io_time_recursive": ("bfq.time_recursive", "time_recursive"),
    "sectors_recursive": ("bfq.sectors_recursive", "sectors_recursive"),
}  # fmt: skip


def stats(directories: Mapping[str, str]) -> dict[str, Any]:
    """Read them; ``directories`` gives the group's directory for each mounted controller."""
    found: dict[str, Any] = {}
    if directory := directories.get("hugetlb"):
        found["hugetlb"] = _hugetlb(directory)
    if directory := directories.get("pids"):
        limit = number(f"{directory}/pids.max")
        # Zero is containerd's word for no limit here.
        found["pids"] = {"current": number(f"{directory}/pids.current"), "limit": 0 if limit == MAX_UINT64 else limit}
    found["cpu"] = _cpu(directories)
    if directory := directories.get("memory"):
        found["memory"] = _memory(directory)
        control = flat(f"{directory}/memory.oom_control")
        found["memory_oom_control"] = {
            key: control.get(key, 0) for key in ("oom_kill_disable", "under_oom", "oom_kill")
        }
    if directory := directories.get("blkio"):
        found["blkio"] = _blkio(directory)
    if directory := directories.get("rdma"):
        found["rdma"] = rdma(directory)
    return found


def _cpu(directories: Mapping[str, str]) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if directory := directories.get("cpuacct"):
        ticks = flat(f"{directory}/cpuacct.stat")
        cpu["usage"] = {
            "total": number(f"{directory}/cpuacct.usage"),
            "kernel": ticks.get("system", 0) * _NANOSECONDS_PER_TICK,
            "user": ticks.get("user", 0) * _NANOSECONDS_PER_TICK,
            "per_cpu": [int(value) for value in text(f"{directory}/cpuacct.usage_percpu").split()],
        }
    if directory := directories.get("cpu"):
        throttle = flat(f"{directory}/cpu.stat")
        cpu["throttling"] = {
            "periods": throttle.get("nr_periods", 0),
            "throttled_periods": throttle.get("nr_throttled", 0),
            "throttled_time": throttle.get("throttled_time", 0),
        }
    return cpu


def _memory(directory: str) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    for name, value in flat(f"{directory}/memory.stat").items():
        total = name.startswith("total_")
        plain = name[6:] if total else name
        if plain in _MEMORY_NAMES:
            memory[("total_" if total else "") + _MEMORY_FIELDS.get(plain, plain)] = value
        elif plain == "hierarchical_memory_limit":
            memory[plain] = value
        elif plain == "hierarchical_memsw_limit":
            memory["hierarchical_swap_limit"] = value
    for field, prefix in (
        ("usage", "memory"),
        ("swap", "memory.memsw"),
        ("kernel", "memory.kmem"),
        ("kernel_tcp", "memory.kmem.tcp"),
    ):
        if field == "usage" or os.path.exists(f"{directory}/{prefix}.usage_in_bytes"):
            memory[field] = {
                "limit": number(f"{directory}/{prefix}.limit_in_bytes"),
                "usage": number(f"{directory}/{prefix}.usage_in_bytes"),
                "max": number(f"{directory}/{prefix}.max_usage_in_bytes"),
                "failcnt": number(f"{directory}/{prefix}.failcnt"),
            }
    return memory


def _blkio(directory: str) -> dict[str, Any]:
    """Of the names a scheduler may give a figure, the first that has values counts."""
    names = set(os.listdir(directory))
    blkio: dict[str, Any] = {}
    for field, files in _BLKIO.items():
        for file in files:
            if f"blkio.{file}" in names and (found := _blkio_entries(f"{directory}/blkio.{file}")):
                blkio[field] = found
                break
    return blkio


def _blkio_entries(path: str) -> list[dict[str, Any]]:
    found = []
    for line in text(path).splitlines():
        device, *rest = line.split()
        major, colon, minor = device.partition(":")
        if not colon or not rest:
            continue  # the sum over all devices
        operation = rest[0] if len(rest) > 1 else ""
        found.append({"op": operation, "major": int(major), "minor": int(minor), "value": int(rest[-1])})
        name = device_name(int(major), int(minor))
        if name:
            found[-1]["device"] = name
    return found


def device_name(major: int, minor: int) -> str:
    """``/dev/sda`` for a block device's number, empty if the kernel does not know it."""
    try:
        target = os.readlink(f"/sys/dev/block/{major}:{minor}")
    except OSError:
        return ""
    return "/dev/" + target.rpartition("/")[2].replace("!", "/")


def _hugetlb(directory: str) -> list[dict[str, Any]]:
    return [
        {
            "usage": number(f"{directory}/hugetlb.{size}.usage_in_bytes"),
            "max": number(f"{directory}/hugetlb.{size}.max_usage_in_bytes"),
            "failcnt": number(f"{directory}/hugetlb.{size}.failcnt"),
            "pagesize": size,
        }
        for size in hugepage_sizes(directory, ".limit_in_bytes")
    ]
