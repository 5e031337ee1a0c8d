"""Figures out of directories with the files that a kernel shows; every name is checked against the messages."""

import os

import pytest
from google.protobuf import json_format

from portside.linux.cgroups import stats_v1, stats_v2
from portside.linux.cgroups.values import MAX_UINT64
from portside.wire.pb.io.containerd.cgroups import cgroup1_pb2, cgroup2_pb2

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@pytest.fixture
def make(tmp_path):
    def write(files, below=""):
        directory = tmp_path / below
        directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
        return str(directory)

    return write


V2 = {
    "pids.current": "3\n",
    "pids.max": "max\n",
    "cpu.stat": "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 5\nnr_throttled 1\nthrottled_usec 7\n"
    "nr_bursts 2\nburst_usec 9\nunheard_of 1\n",
    "cpu.pressure": "some avg10=0.50 avg60=1.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0 total=5\n",
    "memory.current": "4096\n",
    "memory.max": "8192\n",
    "memory.peak": "5000\n",
    "memory.swap.current": "0\n",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 10\nfile 20\npgfault 30\nworkingset_refault_anon 1\nworkingset_refault_file 2\nzswap 9\n",
    "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:1 rbytes=7\n8:16 \n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=max hca_object=10\n",
    "hugetlb.2MB.current": "0\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 6\n",
    "hugetlb.2MB.rsvd.max": "max\n",
}


def test_version_2(make):
    found = stats_v2.stats(make(V2))
    json_format.ParseDict(found, cgroup2_pb2.Metrics())
    assert found["pids"] == {"current": 3, "limit": MAX_UINT64}
    assert found["cpu"]["throttled_usec"] == 7
    assert found["cpu"]["burst_usec"] == 9
    assert found["cpu"]["psi"]["some"] == {"avg10": 0.5, "avg60": 1.25, "avg300": 0.0, "total": 1234}
    assert found["memory"]["usage"] == 4096
    assert found["memory"]["usage_limit"] == 8192
    assert found["memory"]["max_usage"] == 5000
    assert found["memory"]["swap_limit"] == MAX_UINT64
    assert found["memory"]["workingset_refault"] == 3
    assert found["memory_events"] == {"low": 0, "high": 1, "max": 2, "oom": 3, "oom_kill": 4, "oom_group_kill": 5}
    assert found["io"]["usage"][:2] == [
        {"major": 8, "minor": 0, "rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4},
        {"major": 254, "minor": 1, "rbytes": 7},
    ]
    assert found["rdma"]["limit"] == [{"device": "mlx4_0", "hca_handles": (1 << 32) - 1, "hca_objects": 10}]
    assert found["hugetlb"] == [{"current": 0, "max": MAX_UINT64, "pagesize": "2MB", "failcnt": 6}]


def test_version_2_with_nothing_on(make):
    assert stats_v2.stats(make({"cgroup.procs": ""})) == {"cpu": {}}
    assert stats_v2.stats("/nonexistent") == {}


V1 = {
    "cpuacct": {
        "cpuacct.usage": "12345\n",
        "cpuacct.stat": "user 5\nsystem 3\n",
        "cpuacct.usage_percpu": "100 200 \n",
    },
    "cpu": {"cpu.stat": "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"},
    "pids": {"pids.current": "2\n", "pids.max": "max\n"},
    "memory": {
        "memory.stat": "cache 1\nrss 2\npgpgin 3\npgmajfault 4\nhierarchical_memory_limit 5\n"
        "hierarchical_memsw_limit 6\ntotal_cache 7\ntotal_pgfault 8\ntotal_whatever 9\nrecent_scanned_anon 1\n",
        "memory.usage_in_bytes": "10\n",
        "memory.max_usage_in_bytes": "11\n",
        "memory.limit_in_bytes": "12\n",
        "memory.failcnt": "13\n",
        "memory.memsw.usage_in_bytes": "14\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
    },
    "blkio": {
        "blkio.bfq.io_serviced_recursive": "Total 0\n",
        "blkio.throttle.io_serviced": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
        "blkio.sectors_recursive": "8:0 64\n",
    },
    "hugetlb": {
        "hugetlb.2MB.limit_in_bytes": "9\n",
        "hugetlb.2MB.usage_in_bytes": "1\n",
        "hugetlb.2MB.max_usage_in_bytes": "2\n",
        "hugetlb.2MB.failcnt": "3\n",
        "hugetlb.2MB.rsvd.limit_in_bytes": "9\n",
    },
}


def test_version_1(make):
    found = stats_v1.stats({name: make(files, name) for name, files in V1.items()})
    json_format.ParseDict(found, cgroup1_pb2.Metrics())
    assert found["cpu"] == {
        "usage": {"total": 12345, "kernel": 3 * TICK, "user": 5 * TICK, "per_cpu": [100, 200]},
        "throttling": {"periods": 1, "throttled_periods": 2, "throttled_time": 3},
    }
    assert found["pids"] == {"current": 2, "limit": 0}
    memory = found["memory"]
    assert {key: value for key, value in memory.items() if not isinstance(value, dict)} == {
        "cache": 1,
        "rss": 2,
        "pg_pg_in": 3,
        "pg_maj_fault": 4,
        "hierarchical_memory_limit": 5,
        "hierarchical_swap_limit": 6,
        "total_cache": 7,
        "total_pg_fault": 8,
    }
    assert memory["usage"] == {"limit": 12, "usage": 10, "max": 11, "failcnt": 13}
    assert memory["swap"]["usage"] == 14
    assert "kernel" not in memory
    assert found["memory_oom_control"] == {"oom_kill_disable": 0, "under_oom": 1, "oom_kill": 2}
    serviced = found["blkio"]["io_serviced_recursive"]
    assert [(entry["op"], entry["value"]) for entry in serviced] == [("Read", 1), ("Write", 2), ("Total", 3)]
    assert found["blkio"]["sectors_recursive"][0]["value"] == 64
    assert found["hugetlb"] == [{"usage": 1, "max": 2, "failcnt": 3, "pagesize": "2MB"}]


def test_version_1_with_one_controller(make):
    assert stats_v1.stats({"pids": make(V1["pids"], "pids")}) == {"pids": {"current": 2, "limit": 0}, "cpu": {}}
