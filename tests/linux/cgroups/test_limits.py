"""Both versions' plans, side by side: what is asked, what is written."""

import pytest

from portside.errors import InvalidArgument
from portside.linux.cgroups import limits_v1, limits_v2
from portside.linux.cgroups.limits_v2 import weight_of_shares

M = 1 << 20


def lines(plan):
    return [f"{write.file}={write.value}" for write in plan]


@pytest.mark.parametrize(
    ("resources", "v1", "v2"),
    [
        ({}, [], []),
        ({"pids": {"limit": 7}}, ["pids.max=7"], ["pids.max=7"]),
        ({"pids": {"limit": 0}}, ["pids.max=1"], ["pids.max=1"]),
        ({"pids": {"limit": -1}}, ["pids.max=max"], ["pids.max=max"]),
        ({"pids": {}}, [], []),
        ({"memory": None, "cpu": None}, [], []),
        ({"memory": {"limit": 64 * M}}, ["memory.limit_in_bytes=67108864"], ["memory.max=67108864"]),
        (
            {"memory": {"limit": 64 * M, "swap": 96 * M}},
            ["memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=100663296"],
            ["memory.max=67108864", "memory.swap.max=33554432"],
        ),
        (
            {"memory": {"limit": 64 * M, "swap": 64 * M}},
            ["memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=67108864"],
            ["memory.max=67108864", "memory.swap.max=0"],
        ),
        (
            {"memory": {"limit": 64 * M, "swap": -1}},
            ["memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=-1"],
            ["memory.max=67108864", "memory.swap.max=max"],
        ),
        (
            {"memory": {"limit": -1}},
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            ["memory.max=max", "memory.swap.max=max"],
        ),
        (
            {"memory": {"reservation": 32 * M, "swappiness": 10, "kernelTCP": M, "disableOOMKiller": True}},
            [
                "memory.soft_limit_in_bytes=33554432",
                "memory.kmem.tcp.limit_in_bytes=1048576",
                "memory.oom_control=1",
                "memory.swappiness=10",
            ],
            ["memory.low=33554432"],
        ),
        ({"memory": {"limit": 0, "swap": 0, "reservation": 0, "disableOOMKiller": False}}, [], []),
        (
            {"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 1000}},
            ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=1000"],
            ["cpu.weight=100", "cpu.max=50000 100000", "cpu.max.burst=1000"],
        ),
        ({"cpu": {"quota": 50000}}, ["cpu.cfs_quota_us=50000"], ["cpu.max=50000 100000"]),
        ({"cpu": {"quota": -1}}, ["cpu.cfs_quota_us=-1"], ["cpu.max=max 100000"]),
        ({"cpu": {"period": 20000}}, ["cpu.cfs_period_us=20000"], ["cpu.max=max 20000"]),
        ({"cpu": {"idle": 1, "shares": 512}}, ["cpu.shares=512", "cpu.idle=1"], ["cpu.idle=1"]),
        (
            {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 900000}},
            ["cpu.rt_period_us=1000000", "cpu.rt_runtime_us=900000"],
            [],
        ),
        (
            {"cpu": {"cpus": "0-1", "mems": "0"}},
            ["cpuset.cpus=0-1", "cpuset.mems=0"],
            ["cpuset.cpus=0-1", "cpuset.mems=0"],
        ),
        (
            {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 300}]}},
            [
                "blkio.bfq.weight=500",
                "blkio.weight=500",
                "blkio.bfq.weight_device=8:0 300",
                "blkio.weight_device=8:0 300",
            ],
            ["io.bfq.weight=500", "io.weight=default 4950", "io.bfq.weight=8:0 300"],
        ),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
                }
            },
            ["blkio.throttle.read_bps_device=8:0 1000", "blkio.throttle.write_iops_device=8:16 0"],
            ["io.max=8:0 rbps=1000", "io.max=8:16 wiops=max"],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * M}]},
            ["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304"],
            ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"],
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1}}},
            ["rdma.max=mlx5_1 hca_handle=3 hca_object=10000", "rdma.max=mlx4_0 hca_object=1"],
            ["rdma.max=mlx5_1 hca_handle=3 hca_object=10000", "rdma.max=mlx4_0 hca_object=1"],
        ),
        (
            {"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]}},
            ["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 500"],
            [],
        ),
    ],
)
def test_plans(resources, v1, v2):
    assert lines(limits_v1.plan(resources)) == v1
    assert lines(limits_v2.plan(resources)) == v2


def test_unified_is_written_line_by_line():
    asked = {"unified": {"memory.high": "1048576", "io.max": "8:0 rbps=1\n8:16 wbps=2"}}
    assert lines(limits_v2.plan(asked)) == ["memory.high=1048576", "io.max=8:0 rbps=1", "io.max=8:16 wbps=2"]


def test_unified_on_version_1_is_an_error():
    with pytest.raises(InvalidArgument, match="unified"):
        limits_v1.plan({"unified": {"memory.high": "1"}})


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": []},
        {"memory": {"limit": "64M"}},
        {"memory": {"limit": True}},
        {"memory": {"limit": 1 << 65}},
        {"pids": {"limit": 1.5}},
        {"cpu": {"cpus": "0\n1"}},
        {"cpu": {"cpus": 0.5}},
        {"blockIO": {"weightDevice": [{"weight": 10}]}},
        {"blockIO": {"throttleReadBpsDevice": {"major": 1}}},
        {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]},
    ],
)
@pytest.mark.parametrize("plan", [limits_v1.plan, limits_v2.plan])
def test_nonsense_is_named(plan, resources):
    with pytest.raises(InvalidArgument, match=r"linux\.resources"):
        plan(resources)


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"swap": 64 * M}},
        {"memory": {"limit": 64 * M, "swap": 32 * M}},
        {"unified": {"../x": "1"}},
        {"unified": {"memory.high": 1}},
        {"unified": {"nodot": "1"}},
    ],
)
def test_nonsense_in_version_2(resources):
    with pytest.raises(InvalidArgument):
        limits_v2.plan(resources)


def test_swappiness_has_a_range():
    with pytest.raises(InvalidArgument, match="101"):
        limits_v1.plan({"memory": {"swappiness": 101}})


def test_weight_goes_through_its_fixed_points_and_never_falls():
    assert [weight_of_shares(shares) for shares in (1, 2, 1024, 262144, 1 << 40)] == [1, 1, 100, 10000, 10000]
    weights = [weight_of_shares(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)
    assert weights[0] >= 1
    assert weights[-1] <= 10000
