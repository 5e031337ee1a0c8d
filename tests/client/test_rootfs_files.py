"""Files of a snapshot without mounting it; where the kernel lets us, the same as through a real overlay."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from portside.client.rootfs_files import layer_directories, read_rootfs_file
from portside.core.mount import Mount
from portside.errors import FailedPrecondition, InvalidArgument, NotFound

LIMIT = 1 << 20


def layer(base: Path, name: str, files: dict[str, str | None]) -> str:
    """A directory with files; a value starting with -> is a link, None a whiteout, a name ending in ! opaque."""
    root = base / name
    root.mkdir()
    for path, content in files.items():
        target = root / path.rstrip("!/")
        if path.endswith("!"):
            target.mkdir(parents=True, exist_ok=True)
            os.setxattr(target, "trusted.overlay.opaque", b"y")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mknod(target, 0o600 | 0o020000, os.makedev(0, 0))
        elif content.startswith("->"):
            target.symlink_to(content[2:])
        else:
            target.write_text(content)
    return str(root)


def test_topmost_layer_wins(tmp_path: Path) -> None:
    layers = [
        layer(tmp_path, "b", {"etc/passwd": "new"}),
        layer(tmp_path, "a", {"etc/passwd": "old", "etc/group": "g"}),
    ]
    assert read_rootfs_file(layers, "/etc/passwd", LIMIT) == b"new"
    assert read_rootfs_file(layers, "/etc/group", LIMIT) == b"g"
    with pytest.raises(NotFound):
        read_rootfs_file(layers, "/etc/shadow", LIMIT)


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    layers = [
        layer(
            tmp_path, "b", {"etc/passwd": "->/usr/etc/passwd", "escape": f"->../../..{tmp_path}/secret", "l": "->usr"}
        ),
        layer(tmp_path, "a", {"usr/etc/passwd": "->../../data", "data": "found"}),
    ]
    assert read_rootfs_file(layers, "/etc/passwd", LIMIT) == b"found"
    assert read_rootfs_file(layers, "/l/etc/passwd", LIMIT) == b"found"
    with pytest.raises(NotFound):
        read_rootfs_file(layers, "/escape", LIMIT)


def test_circles_and_odd_files_are_refused(tmp_path: Path) -> None:
    root = Path(layer(tmp_path, "a", {"x": "->y", "y": "->x", "zero": "->/dev/zero", "p/f": "->/proc/self/environ"}))
    os.mkfifo(root / "fifo")
    with open(root / "sparse", "wb") as file:
        file.truncate(8 << 30)
    (root / "dir").mkdir()
    for path in ("/x", "/fifo", "/sparse", "/dir"):
        with pytest.raises(InvalidArgument):
            read_rootfs_file([str(root)], path, LIMIT)
    for path in ("/zero", "/p/f"):
        with pytest.raises(NotFound):
            read_rootfs_file([str(root)], path, LIMIT)


def test_a_device_in_the_image_is_not_read(tmp_path: Path) -> None:
    root = Path(layer(tmp_path, "a", {"f": "x"}))
    try:
        os.mknod(root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs CAP_MKNOD")
    with pytest.raises(InvalidArgument):
        read_rootfs_file([str(root)], "/zero", LIMIT)


@pytest.mark.root
def test_as_the_kernel_sees_it(tmp_path: Path) -> None:
    """Whiteouts, opaque directories, files over directories and the other way round: the same through an overlay."""
    if os.geteuid():
        pytest.skip("needs root")
    bottom = layer(
        tmp_path, "bottom",
        {"gone": "1", "etc/a": "1", "etc/b": "1", "opaque/a": "1", "file": "1", "dir/a": "1", "back/a": "1"},
    )  # fmt: skip
    middle = layer(
        tmp_path, "middle",
        {"gone": None, "etc/a": None, "opaque!": "", "opaque/b": "2", "file/a": "2", "dir": "2", "back": None},
    )  # fmt: skip
    top = layer(tmp_path, "top", {"etc/c": "->b", "back/b": "3"})
    (tmp_path / "work").mkdir()
    (tmp_path / "merged").mkdir()
    (tmp_path / "upper").mkdir()
    options = f"lowerdir={top}:{middle}:{bottom},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    done = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "merged")], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"overlay on this file system: {done.stderr.decode()}")
    try:
        mounts = [Mount("overlay", "overlay", options=tuple(options.split(",")))]
        for path in (
            "gone",
            "etc/a",
            "etc/b",
            "etc/c",
            "opaque/a",
            "opaque/b",
            "file/a",
            "file",
            "dir",
            "back/a",
            "back/b",
        ):
            real = tmp_path / "merged" / path
            expected = real.read_bytes() if real.is_file() else None
            try:
                assert read_rootfs_file(layer_directories(mounts), f"/{path}", LIMIT) == expected, path
            except (NotFound, InvalidArgument):
                assert expected is None, path
    finally:
        subprocess.run(["umount", str(tmp_path / "merged")], check=True)


def test_directories_of_mounts() -> None:
    overlay = Mount("overlay", "overlay", options=("index=off", "workdir=/w", "upperdir=/u", r"lowerdir=/a:/b\:c"))
    assert layer_directories([overlay]) == ["/u", "/a", "/b:c"]
    assert layer_directories([Mount("bind", "/x", options=("ro", "rbind"))]) == ["/x"]
    for mounts in ([], [overlay, overlay], [Mount("ext4", "/dev/x")]):
        with pytest.raises(FailedPrecondition):
            layer_directories(mounts)


def test_a_place_that_is_not_here() -> None:
    with pytest.raises(FailedPrecondition):
        read_rootfs_file(["/no/such/layer"], "/etc/passwd", LIMIT)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    root = layer(tmp_path, "a", {"etc/passwd": "x"})
    before = len(os.listdir("/proc/self/fd"))
    read_rootfs_file([root], "/etc/passwd", LIMIT)
    with pytest.raises(NotFound):
        read_rootfs_file([root, root], "/etc/nothing", LIMIT)
    assert len(os.listdir("/proc/self/fd")) == before
