"""Mounts by descriptor; each test in a mount namespace of its own, in a child."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portside.linux import mount as m
from portside.linux import namespaces as ns
from tests.support.children import in_child

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")]


def apart(work: Callable[[], Any]) -> Any:
    def inside() -> Any:
        ns.unshare(ns.CLONE_NEWNS)
        m.mount("", "/", "", m.MS_REC | m.MS_PRIVATE)
        return work()

    return in_child(inside)


def mountinfo(path: Path) -> str:
    with open("/proc/self/mountinfo") as file:
        return next((line for line in file if f" {path} " in line), "")


def test_a_new_mount_is_attached_where_a_descriptor_is(tmp_path: Path) -> None:
    def work() -> list[Any]:
        fd = m.new_mount("tmpfs", [("size", "1m"), ("mode", "700")], m.MOUNT_ATTR_NOSUID, "mine")
        detached = mountinfo(tmp_path)
        place = os.open(tmp_path, os.O_PATH)
        m.attach_mount(fd, place)
        return [detached, mountinfo(tmp_path), m.filesystem_type(fd)]

    detached, attached, kind = apart(work)
    assert detached == ""
    assert "nosuid" in attached and "tmpfs mine" in attached and "size=1024k" in attached
    assert kind == m.TMPFS_MAGIC


def test_a_refused_option_is_explained() -> None:
    with pytest.raises(OSError, match=r"Invalid argument \(.*nonsense") as caught:
        m.new_mount("tmpfs", [("nonsense", "1")])
    assert caught.value.errno == 22


def test_copies_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from/file").write_text("x")

    def work() -> list[Any]:
        fd = m.clone_mount(-100, str(tmp_path / "from"))
        m.set_attributes(fd, m.MOUNT_ATTR_RDONLY)
        place = os.open(tmp_path / "to", os.O_PATH)
        m.attach_mount(fd, place)
        try:
            (tmp_path / "to/new").touch()
        except OSError as error:
            return [(tmp_path / "to/file").read_text(), error.errno]
        return []

    assert apart(work) == ["x", 30]


def test_mounting_and_unmounting_by_path(tmp_path: Path) -> None:
    def work() -> list[bool]:
        m.mount("tmpfs", str(tmp_path), "tmpfs", m.MS_NOEXEC, "size=1m")
        there = "noexec" in mountinfo(tmp_path)
        m.umount2(str(tmp_path), m.MNT_DETACH)
        return [there, bool(mountinfo(tmp_path))]

    assert apart(work) == [True, False]


def test_file_system_types() -> None:
    for path, kind in (("/proc", m.PROC_SUPER_MAGIC), ("/sys", m.SYSFS_MAGIC)):
        fd = os.open(path, os.O_PATH)
        assert m.filesystem_type(fd) == kind
        os.close(fd)
