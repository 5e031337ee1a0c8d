"""From a spec to operations, and options to flags: no root needed."""

from __future__ import annotations

from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.linux import mount as m
from portside.runtime.mounts import BindMount, FilesystemMount
from portside.runtime.options import parse, propagation_flag
from portside.runtime.plan import initial_propagation, root_plan
from portside.runtime.spec import Spec
from tests.support import bundles


def plan(**changes: Any) -> list[str]:
    document = bundles.spec("x", cgroup="/x")
    document["linux"].update({key: value for key, value in changes.items() if key != "mounts"})
    document["mounts"] += changes.get("mounts", [])
    return root_plan(Spec(document), "/bundle").describe()


def test_the_whole_plan() -> None:
    assert plan() == [
        "mount proc at /proc",
        "mount tmpfs at /dev",
        "mount devpts at /dev/pts",
        "mount tmpfs at /dev/shm",
        "make the default devices",
        "make links in /dev",
        "make 1 paths read-only",
        "mask 2 paths",
    ]


def test_devices_come_after_mounts_and_covers_last() -> None:
    lines = plan(devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])
    assert lines.index("make device /dev/fuse") == lines.index("make the default devices") + 1
    assert lines[-2:] == ["make 1 paths read-only", "mask 2 paths"]


def test_a_bound_dev_gets_no_devices() -> None:
    lines = plan(mounts=[{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}])
    assert not [line for line in lines if "device" in line or "links" in line]


def test_duplicates_collapse() -> None:
    assert plan(maskedPaths=["/a", "/b", "/a", "/b/../a"])[-1] == "mask 2 paths"


def test_sources_are_taken_from_the_bundle() -> None:
    document = bundles.spec("x", cgroup="/x")
    document["mounts"] = [{"destination": "a/../b", "source": "data", "options": ["bind"]}]
    (operation,) = root_plan(Spec(document), "/bundle").mounts
    assert isinstance(operation, BindMount)
    assert (operation.destination, operation.source) == ("/b", "/bundle/data")


def test_a_file_system_keeps_its_own_options() -> None:
    document = bundles.spec("x", cgroup="/x")
    operation = root_plan(Spec(document), "/b").mounts[2]
    assert isinstance(operation, FilesystemMount)
    assert operation.options.data == [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]
    assert operation.options.attr_set == m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC


@pytest.mark.parametrize(
    ("options", "attr_set", "attr_clear"),
    [
        ([], 0, 0),
        (["ro"], m.MOUNT_ATTR_RDONLY, 0),
        (["ro", "rw"], 0, m.MOUNT_ATTR_RDONLY),
        (["rw", "ro", "nosuid"], m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID, 0),
        (["noatime"], m.MOUNT_ATTR_NOATIME, m.MOUNT_ATTR__ATIME),
        (["noatime", "relatime"], 0, m.MOUNT_ATTR__ATIME),
        (["noatime", "strictatime"], m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME),
        (["dev", "exec", "suid"], 0, m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC | m.MOUNT_ATTR_NOSUID),
    ],
)
def test_attributes(options: list[str], attr_set: int, attr_clear: int) -> None:
    found = parse(options, "mounts[0]")
    # What clears the access time policy is the whole mask, whatever is set then.
    assert (found.attr_set, found.attr_clear | (m.MOUNT_ATTR__ATIME & attr_clear)) == (attr_set, attr_clear)
    assert found.touched == bool(options)


def test_recursive_attributes() -> None:
    found = parse(["rbind", "rro", "rnoexec", "rsuid"], "x")
    assert found.recursive_set == m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOEXEC
    assert found.recursive_clear == m.MOUNT_ATTR_NOSUID
    assert found.bind and found.recursive and not found.touched


def test_everything_else() -> None:
    found = parse(["size=1m", "lazytime", "tmpcopyup", "rshared", "private", "ridmap", "defaults", "silent"], "x")
    assert found.data == [("size", "1m"), ("lazytime", "")]
    assert found.copy_up and found.idmap and found.idmap_recursive
    assert found.propagation == [(m.MS_SHARED, True), (m.MS_PRIVATE, False)]


@pytest.mark.parametrize("option", ["", "=x"])
def test_wrong_options(option: str) -> None:
    with pytest.raises(InvalidArgument, match=r"mounts\[3\]\.options"):
        parse([option], "mounts[3]")


def test_propagation_names() -> None:
    assert propagation_flag("rslave") == (m.MS_SLAVE, True)
    assert propagation_flag("runbindable") == (m.MS_UNBINDABLE, True)
    with pytest.raises(KeyError):
        propagation_flag("sideways")


def test_the_host_never_sees_our_mounts_unless_asked() -> None:
    assert initial_propagation("") == m.MS_SLAVE | m.MS_REC
    assert initial_propagation("rprivate") == m.MS_PRIVATE | m.MS_REC
    assert initial_propagation("unbindable") == m.MS_PRIVATE | m.MS_REC
