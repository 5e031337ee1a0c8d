import pytest

from portside.errors import InvalidArgument
from portside.linux.cgroups.layout import check_path, layout, parse_membership, parse_mountinfo

HYBRID = r"""
23 1 0:21 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
50 23 0:32 / /mnt/second\040memory rw - cgroup cgroup rw,memory
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_hybrid():
    found = parse_mountinfo(HYBRID)
    assert found.mode == "hybrid"
    assert found.v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert found.v2 == "/sys/fs/cgroup/unified"
    assert found.hierarchies()["/sys/fs/cgroup/cpu,cpuacct"] == ["cpu", "cpuacct"]


def test_unified_legacy_and_none():
    assert parse_mountinfo(UNIFIED).mode == "unified"
    assert parse_mountinfo(HYBRID.replace("cgroup2", "tmpfs")).mode == "legacy"
    assert parse_mountinfo("23 1 0:21 / /proc rw - proc proc rw\n").mode == "none"


def test_mount_point_with_a_space():
    only = parse_mountinfo(HYBRID.splitlines()[-1])
    assert only.v1 == {"memory": "/mnt/second memory"}


def test_own_group_where_only_a_part_is_mounted():
    found = parse_mountinfo("30 23 0:26 /box/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert found.unified_path(parse_membership("0::/box/a/inner\n")) == "/inner"
    assert found.unified_path(parse_membership("0::/box/a\n")) == "/"
    assert found.unified_path(parse_membership("0::/box/abc\n")) == "/box/abc"


def test_membership():
    found = parse_membership("9:name=systemd:/init\n3:cpu,cpuacct:/a:b\n0::/user.slice\n")
    assert found == {"name=systemd": "/init", "cpu": "/a:b", "cpuacct": "/a:b", "": "/user.slice"}


def test_this_machine_has_some():
    assert layout().mode != "none"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("/default/web", "/default/web"), ("//a///b/", "/a/b"), ("/a/./b", "/a/b"), ("a/b", "a/b"), ("/a/..b", "/a/..b")],
)
def test_paths(given, kept):
    assert check_path(given) == kept


@pytest.mark.parametrize("path", ["", "/", ".", "/a/../b", "..", "/a/..", "/a\nb", "/a\0b"])
def test_bad_paths(path):
    with pytest.raises(InvalidArgument):
        check_path(path)


def test_a_climbing_path_is_named_as_runtimes_do():
    with pytest.raises(InvalidArgument, match="bad sub cgroup path"):
        check_path("/a/../../b")
