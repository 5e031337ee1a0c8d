"""Mounts, seen from inside."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.linux import mount as m
from portside.runtime.failure import RuntimeFailure
from tests.runtime.box import Box, Change


def adding(destination: str, fstype: str = "", source: str = "", *options: str, **more: Any) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].append(
            {"destination": destination, "type": fstype, "source": source, "options": list(options), **more}
        )

    return change


def options_of(text: str, point: str) -> set[str]:
    """The options of the last mount at ``point`` in what mount(8) printed."""
    lines = [line for line in text.splitlines() if f" on {point} type " in line]
    assert lines, f"nothing is mounted at {point}:\n{text}"
    return set(lines[-1].rpartition("(")[2].rstrip(")").split(","))


def test_the_usual_ones(box: Box) -> None:
    text = box.sh("mount").text
    assert {"nosuid", "noexec", "nodev"} <= options_of(text, "/proc")
    assert {"mode=755", "nosuid"} <= options_of(text, "/dev")
    assert {"gid=5", "mode=620", "ptmxmode=666"} <= options_of(text, "/dev/pts")


@pytest.mark.parametrize(
    "options", [("size=1m", "mode=1770"), ("ro",), ("noexec", "nodev"), ("noatime",), ("strictatime",)]
)
def test_tmpfs(box: Box, options: tuple[str, ...]) -> None:
    found = options_of(box.sh("mount", adding("/tmp", "tmpfs", "tmpfs", *options)).text, "/tmp")
    expected = {"size=1024k" if each == "size=1m" else each for each in options} - {"strictatime"}
    assert expected <= found
    assert ("relatime" in found) == (not {"noatime", "strictatime"} & set(options))


def test_tmpfs_takes_the_mode_of_what_it_covers(box: Box) -> None:
    (box.root / "covered").mkdir()
    (box.root / "covered").chmod(0o2750 | stat.S_ISVTX)
    assert box.sh("stat -c %a /covered", adding("/covered", "tmpfs", "tmpfs")).text == "3750\n"
    text = box.sh("mount", adding("/fresh", "tmpfs", "tmpfs")).text
    assert not any(option.startswith("mode=") for option in options_of(text, "/fresh"))


def test_tmpcopyup(box: Box) -> None:
    source = box.root / "data"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_text("content")
    (source / "deep/file").chmod(0o641)
    (source / "link").symlink_to("deep/file")
    os.mkfifo(source / "fifo")
    os.chown(source / "deep", 1000, 1001)
    look = "cat /data/link; stat -c ' %a' /data/deep/file; stat -c %u:%g /data/deep; stat -c %F /data/fifo; mount"
    result = box.sh(look + "; touch /data/new", adding("/data", "tmpfs", "tmpfs", "tmpcopyup"))
    assert result.lines[:3] == ["content 641", "1000:1001", "fifo"]
    assert not (source / "new").exists()


def test_bind_of_directory_and_file(box: Box, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/file").write_text("content\n")

    def change(spec: dict[str, Any]) -> None:
        adding("/new/place", "bind", str(tmp_path / "from"), "rbind", "rw")(spec)
        adding("/etc/one", "bind", str(tmp_path / "from/file"), "bind", "ro")(spec)

    result = box.sh("cat /new/place/file /etc/one; touch /new/place/made; touch /etc/one", change)
    assert result.lines[:2] == ["content", "content"]
    assert "Read-only" in result.text
    assert (tmp_path / "from/made").exists()
    assert (box.root / "etc/one").stat().st_size == 0


def test_a_bind_without_options_keeps_flags_and_any_option_clears_the_others(box: Box, tmp_path: Path) -> None:
    fd = m.new_mount("tmpfs", [], m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV)
    source = tmp_path / "source"
    source.mkdir()
    place = os.open(source, os.O_PATH)
    m.attach_mount(fd, place)
    try:

        def change(spec: dict[str, Any]) -> None:
            adding("/kept", "bind", str(source), "bind")(spec)
            adding("/cleared", "bind", str(source), "bind", "noexec")(spec)

        text = box.sh("mount", change).text
        assert {"nosuid", "nodev"} <= options_of(text, "/kept")
        assert options_of(text, "/cleared") & {"nosuid", "nodev", "noexec"} == {"noexec"}
    finally:
        os.close(place)
        os.close(fd)
        m.umount2(str(source), m.MNT_DETACH)


def test_recursive_options_reach_mounts_below(box: Box, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    fd = m.new_mount("tmpfs", [])
    place = os.open(tmp_path / "below", os.O_PATH)
    m.attach_mount(fd, place)
    try:
        script = "touch /a/x /a/below/x; mount"
        plain = box.sh(script, adding("/a", "bind", str(tmp_path), "rbind", "ro"))
        assert "ro" not in options_of(plain.text, "/a/below")
        recursive = box.sh(script, adding("/a", "bind", str(tmp_path), "rbind", "rro"))
        assert "ro" in options_of(recursive.text, "/a/below")
        single = box.sh("ls /a/below; mount", adding("/a", "bind", str(tmp_path), "bind"))
        assert " on /a/below " not in single.text
    finally:
        os.close(place)
        os.close(fd)
        m.umount2(str(tmp_path / "below"), m.MNT_DETACH)


@pytest.mark.parametrize(
    ("option", "field"), [("rshared", "shared:"), ("rslave", ""), ("rprivate", ""), ("unbindable", "unbindable")]
)
def test_propagation(box: Box, tmp_path: Path, option: str, field: str) -> None:
    text = box.sh("grep ' /v ' /proc/self/mountinfo", adding("/v", "bind", str(tmp_path), "rbind", option)).text
    tags = text.split(" - ")[0]
    assert field in tags
    if not field:
        assert "shared:" not in tags


def test_sources_below_the_root_see_earlier_mounts(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        adding("/tmp", "tmpfs", "tmpfs", "mode=1777")(spec)
        adding("/again", "bind", str(box.root / "tmp"), "bind")(spec)

    assert "tmpfs" in box.sh("touch /tmp/x; ls /again; grep ' /again ' /proc/self/mountinfo", change).text


def test_links_in_destinations_stay_inside(box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (box.root / "escape").symlink_to(f"/../../..{outside}")
    (box.root / "dangling").symlink_to("/not/there/yet")
    (box.root / "up").symlink_to("../../../../tmp")

    def change(spec: dict[str, Any]) -> None:
        adding("/escape/in", "tmpfs", "tmpfs", "size=1m")(spec)
        adding("/dangling", "tmpfs", "tmpfs", "size=2m")(spec)
        adding("/up/here", "bind", "/etc/hostname", "bind", "ro")(spec)

    text = box.sh("mount", change).text
    assert f" on {outside}/in " in text and " on /not/there/yet " in text and " on /tmp/here " in text
    assert not list(outside.iterdir())


def test_a_source_that_is_not_there(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match=r"mount /no/such at /x: .*no such file or directory"):
        box.sh("true", adding("/x", "bind", "/no/such", "rbind"))


def test_the_kernel_says_which_option_it_does_not_know(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match=r"mount tmpfs at /x: .*invalid argument"):
        box.sh("true", adding("/x", "tmpfs", "tmpfs", "nonsense=1"))


def test_an_unknown_file_system(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match=r"mount nofs at /x: .*no such device"):
        box.sh("true", adding("/x", "nofs", "nofs"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (adding("", "tmpfs"), "destination"),
        (adding("/", "tmpfs"), "destination"),
        (adding("/x", "bind", ""), "source"),
        (adding("/x", ""), "type"),
        (adding("/x", "bind", "/etc", "bind", "size=1"), "options"),
        (adding("/x", "proc", "proc", "tmpcopyup"), "options"),
        (adding("/x", "tmpfs", "a\0b"), "source"),
    ],
)
def test_entries_that_make_no_sense(box: Box, change: Change, field: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"mounts\[\d\]\.{field}"):
        box.sh("true", change)


def test_root_read_only(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["root"]["readonly"] = True

    result = box.sh("touch /x; touch /dev/shm/y && echo still", change)
    assert "Read-only" in result.text and "still" in result.text


@pytest.mark.parametrize(("value", "tag"), [("rshared", "shared:"), ("rslave", ""), ("rprivate", ""), ("", "")])
def test_rootfs_propagation(box: Box, value: str, tag: str) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["rootfsPropagation"] = value

    fields = box.sh("grep ' / / ' /proc/self/mountinfo || grep ' / rw' /proc/self/mountinfo", change).text.split(" - ")[
        0
    ]
    assert tag in fields
    if not tag:
        assert "shared:" not in fields


def test_cgroup_read_only(box: Box) -> None:
    look = "ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/x; mkdir /sys/fs/cgroup/pids/x; mount | grep cgroup"
    change = adding("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    result = box.sh(look, change)
    assert result.text.count("Read-only") >= 1
    assert "ro" in options_of(result.text, "/sys/fs/cgroup")


def test_proc_elsewhere_and_with_options(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"][0]["options"].append("hidepid=2")
        adding("/other", "proc", "proc", "nosuid")(spec)

    result = box.sh("mount; cat /other/1/comm; stat -c %t:%T /proc/keys", change)
    assert "nosuid" in options_of(result.text, "/other")
    assert result.lines[-2:] == ["sh", "1:3"]


def test_sysfs_and_mqueue(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        adding("/sys", "sysfs", "sysfs", "ro", "nosuid")(spec)
        adding("/dev/mqueue", "mqueue", "mqueue", "nosuid")(spec)

    text = box.sh("mount; ls /sys/class/net", change).text
    assert {"ro", "nosuid"} <= options_of(text, "/sys")
    assert "nosuid" in options_of(text, "/dev/mqueue")
    assert "lo" in text.splitlines()


def test_id_mapped_bind(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "owned"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 7000, "size": 10}]
    change = adding("/m", "bind", str(source), "rbind", uidMappings=maps, gidMappings=maps)
    try:
        assert box.sh("stat -c %u:%g /m/file", change).text == "7000:7000\n"
    except RuntimeFailure as failure:
        if failure.errno not in (22, 95):
            raise
        pytest.skip("this file system has no id-mapped mounts")
