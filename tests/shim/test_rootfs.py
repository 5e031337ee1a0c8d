from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument, NotFound, PortsideError
from portside.linux import mount as linux
from portside.shim.rootfs import Plan, Rootfs, overlay_options

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def entry(kind: str, source: str, *options: str, target: str = "") -> dict[str, Any]:
    return {"type": kind, "source": source, "target": target, "options": list(options)}


def mounted(path: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(path) in line]


def overlay(tmp_path: Path, layers: int, name: str = "layer") -> dict[str, Any]:
    lowers = []
    for number in range(layers):
        lower = tmp_path / f"{name}-{number}"
        lower.mkdir(parents=True)
        (lower / f"file-{number}").write_text(str(number))
        lowers.append(str(lower))
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    return entry(
        "overlay", "overlay", "index=off", f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper",
        f"lowerdir={':'.join(lowers)}",
    )  # fmt: skip


def test_options_become_flags_attributes_and_the_file_systems_own() -> None:
    plan = Plan(entry("overlay", "overlay", "ro", "nosuid", "rw", "lowerdir=/a:/b", "userxattr"))
    assert plan.flags == linux.MS_RDONLY | linux.MS_NOSUID
    assert plan.attributes == linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID
    assert plan.pairs == [("lowerdir", "/a:/b"), ("userxattr", "")]
    assert Plan(entry("bind", "/x", "rbind", "ro")).flags == linux.MS_BIND | linux.MS_REC | linux.MS_RDONLY
    with pytest.raises(InvalidArgument):
        Plan(entry("bind", "/x\0y"))


def test_many_layers_go_one_by_one() -> None:
    layers = [f"/var/lib/portside/snapshots/{number}/fs" for number in range(20)]
    assert overlay_options([("lowerdir", ":".join(layers))]) == [("lowerdir+", layer) for layer in layers]
    assert overlay_options([("lowerdir", "/a:/b")]) == [("lowerdir", "/a:/b")]


@needs_root
@pytest.mark.parametrize("layers", [1, 3, 40])
def test_one_overlay_is_held_by_a_descriptor_and_seen_by_nobody(tmp_path: Path, layers: int) -> None:
    rootfs = Rootfs()
    rootfs.mount([overlay(tmp_path, layers)], str(tmp_path), visible=False)
    try:
        assert rootfs.fd >= 0 and not rootfs.path and not mounted(tmp_path)
        assert len(os.listdir(f"/proc/self/fd/{rootfs.fd}")) == layers
    finally:
        rootfs.unmount()
    assert rootfs.fd == -1


@needs_root
def test_a_bind_mount_is_cloned_and_read_only(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    rootfs = Rootfs()
    rootfs.mount([entry("bind", f"{tmp_path}/source", "rbind", "ro")], str(tmp_path), visible=False)
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("new", dir_fd=rootfs.fd)
        assert not mounted(tmp_path)
    finally:
        rootfs.unmount()


@needs_root
def test_several_mounts_are_made_in_the_bundle_and_taken_away(tmp_path: Path) -> None:
    (tmp_path / "base" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inner").touch()
    mounts = [entry("bind", f"{tmp_path}/base", "bind"), entry("bind", f"{tmp_path}/other", "bind", target="/sub")]
    rootfs = Rootfs()
    rootfs.mount(mounts, str(tmp_path), visible=False)
    assert rootfs.path == f"{tmp_path}/rootfs" and os.listdir(f"{rootfs.path}/sub") == ["inner"]
    rootfs.unmount()
    assert not mounted(tmp_path)
    with pytest.raises(NotFound):
        rootfs.mount(
            [mounts[0], entry("bind", f"{tmp_path}/missing", "bind", target="/sub")], str(tmp_path), visible=True
        )
    assert not mounted(tmp_path)


@needs_root
def test_options_longer_than_a_page_are_mounted_from_within(tmp_path: Path) -> None:
    mount = overlay(tmp_path, 40, "x" * 120 + "/layer")
    here = os.getcwd()
    rootfs = Rootfs()
    rootfs.mount([mount], str(tmp_path), visible=True)
    try:
        assert len(os.listdir(rootfs.path)) == 40 and os.getcwd() == here
    finally:
        rootfs.unmount()


@needs_root
@pytest.mark.parametrize(
    "mount",
    [entry("nosuchfs", "x"), entry("overlay", "overlay", "lowerdir=/nowhere"), entry("bind", "/nowhere", "bind")],
)
def test_what_cannot_be_mounted_says_so_and_leaves_nothing(tmp_path: Path, mount: dict[str, Any]) -> None:
    rootfs = Rootfs()
    with pytest.raises(PortsideError, match="root file system"):
        rootfs.mount([mount], str(tmp_path), visible=False)
    assert rootfs.fd == -1 and not mounted(tmp_path)


def test_a_target_outside_the_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="outside"):
        Rootfs().mount([entry("bind", "/", "bind", target="../../x")], str(tmp_path), visible=True)
