"""Known attacks on runtimes, as far as one try shows them (the races run in script/soak's longer forms)."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from portside.errors import PortsideError
from portside.linux import process
from portside.runtime.failure import RuntimeFailure
from portside.runtime.process import Stdio
from tests.runtime.box import Box, finish
from tests.support import bundles

# Runtime: CVE-2016-3697, 2024-40635, 2026-46680


@pytest.mark.parametrize(
    "line", ["1000:x:0:0::/:/bin/sh", "2147483648:x:0:0::/:/bin/sh", "-1000:x:0:0::/:/bin/sh", "+0:x:0:0::/:/bin/sh"]
)
def test_numbers_are_never_names(box: Box, line: str) -> None:
    (box.root / "etc/passwd").write_text(line + "\n")
    assert box.sh("id -u", lambda spec: spec["process"].update(user={"uid": 1000, "gid": 1000})).text == "1000\n"
    name = line.split(":")[0]
    if name != "1000":
        with pytest.raises(RuntimeFailure):
            box.sh("id -u", lambda spec: spec["process"].update(user={"username": name}))


@pytest.mark.parametrize(
    "name",
    ["2147483648", "4294967296", "4294967295", "-1", "0x0", " 0", "+0", "\uff10", "1_0",
     "\u00b2", "0:\uff10", "0:-1", "0:9999999999"],
)  # fmt: skip
def test_strange_numbers_are_errors(box: Box, name: str) -> None:
    with pytest.raises(PortsideError):
        box.sh("id -u", lambda spec: spec["process"].update(user={"username": name}))


# CVE-2026-47262: user files that are no such thing


@pytest.mark.parametrize("kind", ["sparse", "fifo", "zero", "proc", "outside", "line", "loop", "directory"])
def test_hostile_user_files(box: Box, tmp_path: Path, kind: str) -> None:
    passwd = box.root / "etc/passwd"
    passwd.unlink()
    (tmp_path / "host").write_text("bob:x:0:0::/:/bin/sh\n")
    match kind:
        case "sparse":
            with passwd.open("w") as file:
                file.truncate(8 << 30)
        case "fifo":
            os.mkfifo(passwd)
        case "zero":
            passwd.symlink_to("/dev/zero")
        case "proc":
            passwd.symlink_to("/proc/self/fd/0")
        case "outside":
            passwd.symlink_to("../" * 20 + str(tmp_path / "host"))
        case "line":
            passwd.write_bytes(b"x" * (11 << 20))
        case "loop":
            passwd.symlink_to("passwd")
        case "directory":
            passwd.mkdir()
    with pytest.raises(RuntimeFailure):
        box.sh("true", lambda spec: spec["process"].update(user={"username": "bob"}))


def test_user_files_behind_absolute_links_are_the_containers(box: Box) -> None:
    (box.root / "nix").mkdir()
    (box.root / "etc").rename(box.root / "nix/etc")
    (box.root / "etc").symlink_to("/nix/etc")
    assert box.sh("id -u", lambda spec: spec["process"].update(user={"username": "bob"})).text == "1000\n"


# CVE-2019-16884, 2019-19921, 2023-27561, 2023-28642: /proc and /sys that are not what they seem


@pytest.mark.parametrize(("name", "fstype"), [("proc", "proc"), ("sys", "sysfs")])
def test_linked_proc_and_sys_are_refused(box: Box, name: str, fstype: str) -> None:
    (box.root / name).rmdir()
    (box.root / "elsewhere").mkdir()
    (box.root / name).symlink_to("/elsewhere")

    def change(spec: dict[str, Any]) -> None:
        if fstype == "sysfs":
            spec["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs"})

    with pytest.raises(RuntimeFailure, match=f"/{name} must be mounted on ordinary directory"):
        box.sh("true", change)
    assert not list((box.root / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("destination", "fstype"),
    [("/proc", "tmpfs"), ("/proc", "bind"), ("/proc/self/attr", "tmpfs"), ("/proc/sys/kernel", "bind"),
     ("/link", "tmpfs"), ("/link/sys", "bind"),
     ("/proc/../proc", "tmpfs"), ("/proc/sys/../cpuinfo/..", "tmpfs")],
)  # fmt: skip
def test_nothing_goes_over_proc(box: Box, tmp_path: Path, destination: str, fstype: str) -> None:
    (box.root / "link").symlink_to("/proc")

    def change(spec: dict[str, Any]) -> None:
        source = str(tmp_path) if fstype == "bind" else "tmpfs"
        spec["mounts"].append({"destination": destination, "type": fstype, "source": source, "options": []})

    with pytest.raises(RuntimeFailure, match="cannot be mounted because it is inside /proc"):
        box.sh("true", change)


def test_files_that_only_inform_may_be_covered(box: Box, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("one processor\n")

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].append(
            {"destination": "/proc/cpuinfo", "type": "bind", "source": str(tmp_path / "cpuinfo"), "options": ["bind"]}
        )

    assert box.sh("cat /proc/cpuinfo", change).text == "one processor\n"


def test_the_hosts_proc_may_be_bound(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [e for e in spec["linux"]["namespaces"] if e["type"] != "pid"]
        spec["mounts"][0] = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}

    assert box.sh("cat /proc/$$/comm; true", change).text == "sh\n"


# CVE-2021-30465, 2024-45310: destinations through links


@pytest.mark.parametrize("fstype", ["tmpfs", "bind"])
def test_destinations_through_links_stay_inside(box: Box, tmp_path: Path, fstype: str) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (box.root / "esc").symlink_to(str(host))
    (box.root / "vol").mkdir()
    (box.root / "vol/a").symlink_to("/../../..")
    before = Path("/proc/self/mountinfo").read_text()

    def change(spec: dict[str, Any]) -> None:
        source = str(tmp_path) if fstype == "bind" else "tmpfs"
        for destination in ("/esc", "/esc/deep/er", "/vol/a/x"):
            spec["mounts"].append({"destination": destination, "type": fstype, "source": source, "options": []})

    assert box.sh("true", change).code == 0
    assert not list(host.iterdir())
    assert not os.path.exists("/x")
    assert Path("/proc/self/mountinfo").read_text() == before


# CVE-2024-21626: descriptors and working directories of the host


@pytest.mark.parametrize("number", [*range(3, 12), 100])
def test_no_working_directory_on_the_host(box: Box, number: int) -> None:
    leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.dup2(leak, 100, inheritable=True)
        with box.running() as container:
            with pytest.raises(RuntimeFailure):
                box.exec(container, "/bin/pwd", cwd=f"/proc/self/fd/{number}")
            with pytest.raises(RuntimeFailure):
                box.exec(container, f"/proc/self/fd/{number}/bin/ls")
        with pytest.raises(RuntimeFailure):
            box.sh("pwd", lambda spec: spec["process"].update(cwd=f"/proc/self/fd/{number}"))
        (box.root / "link").symlink_to(f"/proc/self/fd/{number}")
        with pytest.raises(RuntimeFailure):
            box.sh("pwd", lambda spec: spec["process"].update(cwd="/link"))
    finally:
        os.close(leak)
        os.close(100)


# CVE-2025-31133, 2025-52565, 2025-52881, 2026-41579: /dev


def test_a_null_that_is_a_link_is_not_bound_over_masks(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "dev"
    shared.mkdir()
    (shared / "null").symlink_to("/proc/sys/kernel/core_pattern")
    (shared / "pts").mkdir()

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"][1:] = [{"destination": "/dev", "type": "bind", "source": str(shared), "options": ["rbind"]}]

    with pytest.raises(RuntimeFailure, match="is not the null device"):
        box.sh("true", change)


def test_a_console_that_is_a_link_stays_away_from_proc(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "dev"
    shared.mkdir()
    (shared / "console").symlink_to("/proc/version")
    os.mknod(shared / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (shared / "pts").mkdir()

    def change(spec: dict[str, Any]) -> None:
        spec["process"]["terminal"] = True
        spec["mounts"][1] = {"destination": "/dev", "type": "bind", "source": str(shared), "options": ["rbind"]}
        spec["mounts"].pop()

    spec = box.spec("/bin/true", change=change)
    with pytest.raises(RuntimeFailure, match="the console"), box.created(spec, stdio=Stdio(terminal=True)):
        pass


@pytest.mark.parametrize("with_tmpfs", [False, True])
def test_a_dev_that_is_a_link_leads_nowhere_outside(box: Box, tmp_path: Path, with_tmpfs: bool) -> None:
    host = tmp_path / "hostdir"
    host.mkdir()
    (box.root / "dev").rmdir()
    (box.root / "dev").symlink_to("/../../../.." + str(host))

    def change(spec: dict[str, Any]) -> None:
        if not with_tmpfs:
            spec["mounts"] = spec["mounts"][:1]

    assert box.sh("test -c /dev/null", change).code == 0
    assert not list(host.iterdir())


def test_a_mount_over_proc_sys_does_not_catch_sysctls(box: Box, tmp_path: Path) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        spec["hooks"] = {"createContainer": [{"path": "/bin/true"}]}

    (box.root / "proc/sys").mkdir()
    (box.root / "proc/sys/net").symlink_to("/tmp")
    assert box.sh("cat /proc/sys/net/ipv4/ip_forward", change).text == "1\n"


# CVE-2022-24769, 2022-29162


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_is_inheritable(box: Box, uid: int) -> None:
    text = box.sh(
        "grep CapInh /proc/self/status", lambda spec: spec["process"].update(user={"uid": uid, "gid": uid})
    ).text
    assert int(text.split()[1], 16) == 0


# CVE-2016-9962, 2019-5736: the runtime's own process and binary


def test_new_processes_are_closed_to_others(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}

    with box.created(box.spec("/bin/sleep", "1000", change=change)) as container:
        # What is below /proc/PID of a process that is not dumpable belongs to root, whoever the process is.
        pid = container.init.pid
        with open(f"/proc/{pid}/status") as file:
            assert "Uid:\t1000\t1000\t1000" in file.read()
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0
        container.start()
        assert os.stat(f"/proc/{pid}/fd").st_uid == 1000
    assert process.dumpable() == 1


def test_an_entrypoint_that_asks_for_the_runtimes_own_binary(box: Box) -> None:
    for name, line in (("evil", "/proc/self/exe"), ("nested", "/evil"), ("linked", "/link -x")):
        (box.root / name).write_text(f"#! {line}\n")
        (box.root / name).chmod(0o755)
    (box.root / "link").symlink_to("/proc/thread-self/exe")
    (box.root / "plain").write_text("#!/bin/sh\necho $0\n")
    (box.root / "plain").chmod(0o711)
    binary = os.path.realpath(sys.executable)
    before = os.stat(binary)
    with box.running() as container:
        for name in ("/evil", "/nested", "/linked", "/link", "/proc/self/exe", "/proc/1/../self/exe"):
            with pytest.raises(RuntimeFailure, match="leads through a link of /proc"):
                box.exec(container, name)
        assert box.exec(container, "/plain").text == "/plain\n"
    with pytest.raises(RuntimeFailure, match="leads through a link of /proc"):
        box.run(box.spec("/evil"))
    after = os.stat(binary)
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_size,
    )


def test_the_host_is_not_reachable_through_proc(box: Box) -> None:
    with box.running() as container:
        text = box.exec(container, "/bin/sh", "-c", "ls /proc/1/root/ /proc/1/cwd/; readlink /proc/1/exe").text
        assert "work" not in text.split() and "/bin/busybox" in text


def test_mapped_root_is_not_the_hosts(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = [
            {"containerID": 0, "hostID": 100000, "size": 65536}
        ]
        spec["mounts"].append({"destination": "/secret", "source": str(secret), "options": ["bind"]})

    os.chown(box.root, 100000, 100000)
    result = box.sh("cat /secret; id -u; cat /proc/1/status | grep -c CapEff", change)
    assert "Permission denied" in result.text


# Python: what is imported or looked up inside belongs to the image


def test_nothing_of_the_image_is_opened_by_the_runtime(box: Box) -> None:
    poison = ("usr/lib/python3.11/encodings", "usr/lib/locale", "etc/nsswitch.conf", "etc/localtime", "etc/ld.so.cache")
    for name in poison:
        path = box.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)  # whoever opened one would hang
    result = box.run(
        box.spec("/bin/busybox", "echo", "ran", change=lambda spec: spec["process"].update(user={"username": "bob"}))
    )
    assert result.text == "ran\n"


def test_kill_does_not_reach_another_process_of_the_same_number(box: Box) -> None:
    with box.created(box.spec("/bin/true")) as container:
        container.start()
        finish(container.init)
        with pytest.raises(PortsideError):
            container.kill(signal.SIGTERM)
        assert bundles.process("x")
