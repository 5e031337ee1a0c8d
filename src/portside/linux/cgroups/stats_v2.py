"""The figures of a version 2 group, with the fields of ``io.containerd.cgroups.v2.Metrics``.

A controller that is off for the group, and a file that this kernel lacks, leaves its fields out.
"""

from __future__ import annotations

import os

from portside.linux.cgroups.values import flat, hugepage_sizes, nested, number, rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CPU = (
    "usage_usec",
    "user_usec",
    "system_usec",
    "nr_periods",
    "nr_throttled",
    "throttled_usec",
    "nr_bursts",
    "burst_usec",
)
_MEMORY = (
    "anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback",
    "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable",
    "slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault", "workingset_activate",
    "workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree",
    "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
_EVENTS = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
_IO = ("rbytes", "wbytes", "rios", "wios")


def stats(directory: str) -> dict[str, Any]:
    """Read them all; an empty dict if the group has gone."""
    try:
        files = set(os.listdir(directory))
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = {}
    if "pids.current" in files:
        found["pids"] = {"current": number(f"{directory}/pids.current"), "limit": number(f"{directory}/pids.max")}
    found["cpu"] = _known(flat(f"{directory}/cpu.stat"), _CPU) | _pressure(directory, "cpu")
    if "memory.current" in files:
        found["memory"] = _memory(directory)
        found["memory_events"] = _known(flat(f"{directory}/memory.events"), _EVENTS)
    if "rdma.current" in files:
        found["rdma"] = rdma(directory)
    if "io.stat" in files:
        found["io"] = {"usage": _io(directory)} | _pressure(directory, "io")
    if sizes := hugepage_sizes(directory, ".max"):
        found["hugetlb"] = [_hugetlb(directory, size) for size in sizes]
    return found


def _known(values: dict[str, int], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _memory(directory: str) -> dict[str, Any]:
    figures = flat(f"{directory}/memory.stat")
    memory = _known(figures, _MEMORY)
    # Newer kernels count anonymous memory and files apart; the message has one field for both.
    for name in ("workingset_refault", "workingset_activate"):
        if name not in memory:
            memory[name] = figures.get(f"{name}_anon", 0) + figures.get(f"{name}_file", 0)
    for field, file in (
        ("usage", "memory.current"),
        ("usage_limit", "memory.max"),
        ("max_usage", "memory.peak"),
        ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"),
        ("swap_max_usage", "memory.swap.peak"),
    ):
        memory[field] = number(f"{directory}/{file}")
    return memory | _pressure(directory, "memory")


def _pressure(directory: str, controller: str) -> dict[str, Any]:
    """``{"psi": …}``, or nothing where the kernel does not count pressure."""
    found: dict[str, Any] = {
        kind: {key: int(value) if key == "total" else float(value) for key, value in values.items()}
        for kind, values in nested(f"{directory}/{controller}.pressure").items()
    }
    return {"psi": found} if found else {}


def _io(directory: str) -> list[dict[str, int]]:
    usage = []
    for device, values in nested(f"{directory}/io.stat").items():
        major, colon, minor = device.partition(":")
        if colon and major.isdigit() and minor.isdigit():
            entry = {"major": int(major), "minor": int(minor)}
            usage.append(entry | {name: int(values[name]) for name in _IO if name in values})
    return usage


def _hugetlb(directory: str, size: str) -> dict[str, Any]:
    return {
        "current": number(f"{directory}/hugetlb.{size}.current"),
        "max": number(f"{directory}/hugetlb.{size}.max"),
        "pagesize": size,
        "failcnt": flat(f"{directory}/hugetlb.{size}.events").get("max", 0),
    }
