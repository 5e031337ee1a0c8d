"""Figures and events, decoded."""

from __future__ import annotations

import pytest

from portside.client.events import decode as decode_event
from portside.client.stats import Stats, decode
from portside.core.anymessage import METRICS_V1, METRICS_V2, AnyMessage
from portside.core.events import Envelope
from portside.core.tasks import Metric
from portside.wire.pb.containerd.events import task_pb2
from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2, cgroup2_pb2


@pytest.mark.parametrize("prefix", ["", "type.googleapis.com/"])
def test_cgroup_1(prefix: str) -> None:
    metrics = cgroup1_pb2.Metrics()
    metrics.cpu.usage.total, metrics.cpu.usage.user, metrics.cpu.usage.kernel = 9, 5, 4
    metrics.memory.usage.usage, metrics.memory.usage.limit = 1000, (1 << 63) - 4096
    metrics.memory.total_inactive_file = 300
    metrics.pids.current = 3
    for op, value in (("Read", 10), ("Write", 20), ("Total", 30), ("read", 1)):
        metrics.blkio.io_service_bytes_recursive.add(op=op, value=value)
    found = decode(Metric("c", 7, AnyMessage(prefix + METRICS_V1, metrics.SerializeToString())))
    assert found == Stats(
        "c", 7, cpu_ns=9, cpu_user_ns=5, cpu_system_ns=4, memory=700, memory_total=1000, pids=3,
        read_bytes=11, written_bytes=20,
    )  # fmt: skip


def test_cgroup_2() -> None:
    metrics = cgroup2_pb2.Metrics()
    metrics.cpu.usage_usec, metrics.cpu.user_usec = 9, 5
    metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.inactive_file = 1000, 4096, 2000
    metrics.pids.current, metrics.pids.limit = 3, (1 << 64) - 1
    metrics.io.usage.add(rbytes=1, wbytes=2)
    metrics.io.usage.add(rbytes=3, wbytes=4)
    found = decode(Metric("c", 7, AnyMessage(METRICS_V2, metrics.SerializeToString())))
    assert found == Stats(
        "c", 7, cpu_ns=9000, cpu_user_ns=5000, memory=1000, memory_total=1000, memory_limit=4096, pids=3,
        read_bytes=4, written_bytes=6,
    )  # fmt: skip


def test_unknown_metrics_and_percent() -> None:
    assert decode(Metric("c", 7, AnyMessage("something.else", b""))) is None
    before, after = Stats("c", 1_000, cpu_ns=100), Stats("c", 2_000, cpu_ns=600)
    assert after.cpu_percent(before) == 50.0
    assert before.cpu_percent(after) == 0.0
    assert after.cpu_percent(after) == 0.0


def test_events() -> None:
    event = task_pb2.TaskExit(container_id="c", id="c", pid=5, exit_status=137)
    envelope = Envelope(
        1, "default", "/tasks/exit", AnyMessage("containerd.events.TaskExit", event.SerializeToString())
    )
    assert decode_event(envelope) == {"container_id": "c", "id": "c", "pid": 5, "exit_status": 137}
    assert decode_event(Envelope(1, "default", "/x", AnyMessage("nobody.knows.This", b"\xff"))) == {}
    assert decode_event(Envelope(1, "default", "/x", None)) == {}
