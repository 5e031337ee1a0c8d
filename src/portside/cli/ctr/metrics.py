"""``ctr tasks metrics``: the figures of a task's control group, of version 1 or 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.ctr.text import MIDDLE, json_text, print_table
from portside.cli.options import UsageError
from portside.client.messages import document
from portside.core.anymessage import METRICS_V1, METRICS_V2
from portside.core.tasks import Metric
from portside.errors import FailedPrecondition, NotFound


@command("CONTAINER", Flag("--format", value="FORMAT", default="table", help="table or json"))
async def metrics(session: Session, values: Values, words: Sequence[str]) -> None:
    """One look at them."""
    if values["format"] not in ("table", "json"):
        raise UsageError("the format must be table or json")
    services = session.services
    await services.containers.get(words[0])
    await services.tasks.get(words[0])
    found = await services.tasks.metrics([f'id=="{words[0]}"'])
    if not found:
        raise NotFound(f"task {words[0]}: no metrics")
    message = _decoded(found[0])
    if values["format"] == "json":
        print(json_text(document(message), 2))
        return
    rows = _rows_v1(message) if found[0].data.type_name == METRICS_V1 else _rows_v2(message)
    head = ("ID\tTIMESTAMP\t", f"{found[0].id}\t{_moment(found[0].timestamp_ns)}\t", "", "METRIC\tVALUE\t")
    print_table((*head, *(f"{name}\t{value}\t" for name, value in rows)), MIDDLE)


def _moment(ns: int) -> str:
    """As Go prints the protobuf message."""
    seconds, nanos = divmod(ns, 1_000_000_000)
    return f"seconds:{seconds}  nanos:{nanos}"


def _decoded(metric: Metric) -> Any:
    kind = metric.data.type_name
    if kind == METRICS_V1:
        from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2

        return cgroup1_pb2.Metrics.FromString(metric.data.value)
    if kind == METRICS_V2:
        from portside.wire.pb.io.containerd.cgroups import cgroup2_pb2

        return cgroup2_pb2.Metrics.FromString(metric.data.value)
    raise FailedPrecondition(f"task {metric.id}: metrics of an unknown kind, {kind}")


def _rows_v1(found: Any) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if found.HasField("memory"):
        rows += [
            ("memory.usage_in_bytes", found.memory.usage.usage), ("memory.limit_in_bytes", found.memory.usage.limit),
            ("memory.stat.cache", found.memory.total_cache),
        ]  # fmt: skip
    if found.HasField("cpu"):
        each = " ".join(map(str, found.cpu.usage.per_cpu))
        rows += [("cpuacct.usage", found.cpu.usage.total), ("cpuacct.usage_percpu", f"[{each}]")]
    if found.HasField("pids"):
        rows += [("pids.current", found.pids.current), ("pids.limit", found.pids.limit)]
    return rows


_MEMORY = ("usage", "usage_limit", "swap_usage", "swap_limit")
_CPU = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec")


def _rows_v2(found: Any) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if found.HasField("pids"):
        rows += [("pids.current", found.pids.current), ("pids.limit", found.pids.limit)]
    if found.HasField("cpu"):
        rows += [(f"cpu.{name}", getattr(found.cpu, name)) for name in _CPU]
    if found.HasField("memory"):
        rows += [(f"memory.{name}", getattr(found.memory, name)) for name in _MEMORY]
    return rows
