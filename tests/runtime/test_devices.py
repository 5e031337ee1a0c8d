"""What stands in /dev."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.runtime.failure import RuntimeFailure
from tests.runtime.box import Box

_DEFAULTS = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}


def device(path: str, kind: str = "c", major: int = 1, minor: int = 3, **more: int) -> Any:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"] = [{"path": path, "type": kind, "major": major, "minor": minor, **more}]
        spec["linux"]["resources"]["devices"].append(
            {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        )

    return change


def test_the_default_set(box: Box) -> None:
    names = " ".join(_DEFAULTS)
    text = box.sh(
        f"cd /dev; stat -c '%n %t:%T %a %u:%g' {names}; for f in fd stdin stdout stderr ptmx; do readlink $f; done"
    ).text
    for name, number in _DEFAULTS.items():
        assert f"{name} {number} 666 0:0" in text
    assert text.splitlines()[-5:] == [
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
    ]


def test_they_work_and_others_do_not(box: Box) -> None:
    script = """
        echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c
        mknod /tmp/kmsg c 1 11 && ! cat /tmp/kmsg
        exec 3<>/dev/ptmx && ls /dev/pts
    """
    result = box.sh(script)
    assert result.code == 0, result.text
    assert result.lines[:2] == ["2", "3"]
    assert "Operation not permitted" in result.text
    assert result.lines[-2:] == ["0", "ptmx"]


def test_those_of_the_spec(box: Box) -> None:
    result = box.sh(
        "stat -c '%t:%T %a %u:%g' /dev/sub/mine", device("/dev/sub/mine", minor=5, fileMode=0o640, uid=5, gid=6)
    )
    assert result.text == "1:5 640 5:6\n"
    assert box.sh("stat -c %F /dev/pipe", device("/dev/pipe", "p")).text == "fifo\n"
    assert (
        box.sh("stat -c %F /dev/disk", device("/dev/disk", "b", 7, 0, fileMode=0o60600)).text == "block special file\n"
    )


def test_one_of_the_spec_replaces_a_default(box: Box) -> None:
    assert box.sh("stat -c '%t:%T %a' /dev/null", device("/dev/null", fileMode=0o600)).text == "1:3 600\n"


@pytest.mark.parametrize(
    ("entry", "field"),
    [({"type": "c"}, "path"), ({"path": "/dev/x"}, "type"), ({"path": "/dev/x", "type": "z"}, "type"),
     ({"path": "/dev/x", "type": "c", "major": -1}, "major"), ({"path": "/dev/x", "type": "c", "minor": "3"}, "minor")],
)  # fmt: skip
def test_wrong_entries(box: Box, entry: dict[str, Any], field: str) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"] = [entry]

    with pytest.raises(InvalidArgument, match=rf"linux\.devices\[0\]\.{field}"):
        box.sh("true", change)


def test_a_bound_dev_is_left_as_it_is(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "dev"
    shared.mkdir()
    os.mknod(shared / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"][1:] = [{"destination": "/dev", "type": "bind", "source": str(shared), "options": ["rbind"]}]

    assert box.sh("ls /dev", change).lines == ["null"]
    assert os.listdir(shared) == ["null"]


def test_masked_and_read_only_paths(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
        spec["linux"]["maskedPaths"] = [
            "/proc/timer_list",
            "/proc/keys",
            "/sys/firmware",
            "/proc/acpi",
            "/no/such",
            "/proc/keys",
        ]
        spec["linux"]["readonlyPaths"] = ["/proc/sys", "/proc/no", "/proc/bus"]

    script = """
        stat -c %t:%T /proc/timer_list /proc/keys; ls -A /sys/firmware /proc/acpi; touch /sys/firmware/x
        echo 1 > /proc/sys/kernel/shm_rmid_forced; cat /proc/keys; grep -c /proc/keys /proc/self/mountinfo
    """
    result = box.sh(script, change)
    assert result.lines[:2] == ["1:3", "1:3"]
    assert result.text.count("Read-only file system") == 2
    assert result.lines[-1] == "1"


def test_masking_works_for_plain_files_and_in_read_only_roots(box: Box) -> None:
    (box.root / "secret").write_text("secret")
    (box.root / "hidden").mkdir()
    (box.root / "hidden/file").touch()

    def change(spec: dict[str, Any]) -> None:
        spec["root"]["readonly"] = True
        spec["linux"]["maskedPaths"] = ["/secret", "/hidden"]
        spec["linux"]["readonlyPaths"] = ["/bin"]

    result = box.sh("cat /secret; ls -A /hidden; touch /bin/x", change)
    assert "secret" not in result.text.replace("/secret", "") and "file" not in result.lines


def test_a_mask_needs_a_null_device(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] = spec["mounts"][:1]

    (box.root / "dev/null").write_text("not a device")
    with pytest.raises(RuntimeFailure, match=r"/dev/null: is not the null device"):
        box.sh("true", change)
