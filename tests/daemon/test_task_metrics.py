"""Figures of containers from messages of both kinds of cgroups; real ones are in tests/integration/test_metrics.py."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families as parse

from portside.core.anymessage import METRICS_V1, METRICS_V2, AnyMessage
from portside.core.tasks import Metric
from portside.daemon.exposition import Exposition, label_text
from portside.daemon.task_metrics import write_task
from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2, cgroup2_pb2

LABELS = label_text({"container_id": "c", "namespace": 'n"s'})


def written(kind: str, value: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    out = Exposition()
    write_task(out, Metric("c", 1, AnyMessage(kind, value)), LABELS)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse(b"".join(out.pieces()).decode()):
        assert family.type == "gauge"
        for sample in family.samples:
            assert (sample.labels.pop("container_id"), sample.labels.pop("namespace")) == ("c", 'n"s')
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_version_2() -> None:
    message = cgroup2_pb2.Metrics()
    message.pids.limit, message.pids.current = (1 << 64) - 1, 3
    message.cpu.usage_usec, message.cpu.nr_throttled = 17, 2
    message.memory.usage, message.memory.usage_limit, message.memory.anon_thp = 4096, 8192, 5
    message.memory_events.oom = 4
    message.io.usage.add(major=8, minor=1, rbytes=10, wbytes=20, rios=1, wios=2)
    found = written(METRICS_V2, message.SerializeToString())
    assert found["container_pids_limit"] == [({}, (1 << 64) - 1)]
    assert found["container_pids_current"] == [({}, 3)]
    assert found["container_cpu_usage_usec_microseconds"] == [({}, 17)]
    assert found["container_cpu_nr_throttled_total"] == [({}, 2)]
    assert found["container_memory_usage_bytes"] == [({}, 4096)]
    assert found["container_memory_usage_limit_bytes"] == [({}, 8192)]
    assert found["container_memory_anon_thp_bytes"] == [({}, 5)]
    assert found["container_memory_oom_total"] == [({}, 4)]
    assert found["container_io_wbytes_bytes"] == [({"major": "8", "minor": "1"}, 20)]
    assert found["container_io_rios_total"] == [({"major": "8", "minor": "1"}, 1)]
    assert len(found) == 6 + 35 + 1 + 2 + 4


def test_version_1() -> None:
    message = cgroup1_pb2.Metrics()
    message.cpu.usage.total = 5
    message.cpu.usage.per_cpu.extend([2, 3])
    message.memory.kernel_tcp.failcnt, message.memory.total_pg_maj_fault = 7, 8
    message.memory_oom_control.oom_kill = 1
    message.hugetlb.add(usage=1, max=2, failcnt=3, pagesize="2MB")
    message.blkio.io_service_bytes_recursive.add(op="Read", device="/dev/sda", major=8, minor=0, value=9)
    found = written(METRICS_V1, message.SerializeToString())
    assert found["container_cpu_total_nanoseconds"] == [({}, 5)]
    assert found["container_per_cpu_nanoseconds"] == [({"cpu": "0"}, 2), ({"cpu": "1"}, 3)]
    assert found["container_memory_kerneltcp_failcnt_total"] == [({}, 7)]
    assert found["container_memory_total_pgmajfault_bytes"] == [({}, 8)]
    assert found["container_memory_oom_total"] == [({}, 1)]
    assert found["container_hugetlb_failcnt_total"] == [({"page": "2MB"}, 3)]
    assert found["container_blkio_io_service_bytes_recursive_bytes"] == [
        ({"op": "Read", "device": "/dev/sda", "major": "8", "minor": "0"}, 9)
    ]
    assert not [name for name in found if name.startswith("container_pids")]  # the kernel has no such controller


def test_what_nobody_knows() -> None:
    assert written("some.other.Metrics", b"\x00") == {}
