"""Namespaces: new ones, joined ones, shared ones."""

from __future__ import annotations

import os
import signal

import pytest

from portside.errors import InvalidArgument
from portside.runtime.failure import RuntimeFailure
from tests.runtime.box import Box, namespaces

_FILES = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "user": "user",
}
_BASE = ("pid", "ipc", "uts", "mount", "network")


def own(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{_FILES[kind]}")


def mapped(spec: dict, size: int = 65536) -> None:
    namespaces(*_BASE, "user")(spec)
    spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": size}]
    spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": size}]
    spec["mounts"][2]["options"].remove("gid=5")


@pytest.mark.parametrize("kind", [*_BASE, "cgroup"])
def test_what_is_named_is_new_and_what_is_not_is_shared(box: Box, kind: str) -> None:
    look = f"readlink /proc/self/ns/{_FILES[kind]}"
    assert box.sh(look, namespaces(*_BASE, "cgroup")).text.strip() != own(kind)
    if kind not in ("mount", "uts"):  # the base spec has mounts and a host name
        assert box.sh(look, namespaces(*(k for k in _BASE if k != kind))).text.strip() == own(kind)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup"])
def test_joining_by_path(box: Box, kind: str) -> None:
    with box.running(namespaces(*_BASE, "cgroup")) as other:
        path = f"/proc/{other.init.pid}/ns/{_FILES[kind]}"

        def change(spec: dict) -> None:
            namespaces(*(k for k in _BASE if k != kind), **{kind: path})(spec)

        assert box.sh(f"readlink /proc/self/ns/{_FILES[kind]}", change).text.strip() == os.readlink(path)


def test_the_first_process_is_pid_1_and_loopback_is_up(box: Box) -> None:
    assert box.sh("echo $$; ip addr show lo").text.startswith("1\n1: lo: <LOOPBACK,UP")


def test_host_and_domain_name(box: Box) -> None:
    def change(spec: dict) -> None:
        spec["domainname"] = "a-domain"

    result = box.sh("hostname; cat /proc/sys/kernel/domainname", change)
    assert result.lines == ["test", "a-domain"]


def test_cgroup_namespace_hides_where_we_are(box: Box) -> None:
    lines = box.sh("cat /proc/self/cgroup", namespaces(*_BASE, "cgroup")).lines
    assert lines and all(line.endswith(":/") for line in lines)


@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/dev/null", "/nothing", "/"])
def test_what_is_no_such_namespace_is_refused(box: Box, path: str) -> None:
    with pytest.raises(RuntimeFailure, match="uts namespace"):
        box.sh("true", namespaces("pid", "ipc", "mount", "network", uts=path))


def test_user_namespace(box: Box) -> None:
    os.chown(box.root, 100000, 200000)
    result = box.sh("id -u; id -g; cat /proc/self/uid_map; touch /mine; stat -c %u:%g /mine /dev/null; ls /dev", mapped)
    assert result.lines[:2] == ["0", "0"]
    assert result.lines[2].split() == ["0", "100000", "65536"]
    assert result.lines[3] == "0:0"
    assert {"null", "zero", "tty", "ptmx", "pts", "shm"} <= set(result.lines)
    assert os.stat(box.root / "mine").st_uid == 100000


def test_devices_of_a_user_namespace_are_the_hosts(box: Box) -> None:
    os.chown(box.root, 100000, 200000)
    assert box.sh("echo x > /dev/null && stat -c %t:%T /dev/null && head -c 3 /dev/zero | wc -c", mapped).lines == [
        "1:3",
        "3",
    ]


def test_user_namespace_with_a_root_that_it_could_not_reach(box: Box) -> None:
    box.bundle.chmod(0o700)
    os.chown(box.root, 100000, 200000)
    source = box.bundle / "source"
    source.mkdir()
    (source / "file").write_text("seen")

    def change(spec: dict) -> None:
        mapped(spec)
        spec["mounts"].append({"destination": "/data", "source": str(source), "options": ["rbind", "ro"]})

    result = box.sh("cat /data/file; touch /data/x", change)
    assert result.text.startswith("seen") and "Read-only" in result.text


def test_exec_in_a_user_namespace(box: Box) -> None:
    os.chown(box.root, 100000, 200000)
    with box.running(mapped) as container:
        result = box.exec(container, "/bin/sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user")
        assert result.code == 0, result.text
        assert result.lines[0] == "0"
        assert result.lines[1] == result.lines[2] != own("user")


def test_joining_a_user_namespace(box: Box) -> None:
    os.chown(box.root, 100000, 200000)
    with box.running(mapped) as other:
        path = f"/proc/{other.init.pid}/ns/user"

        def change(spec: dict) -> None:
            namespaces(*_BASE, user=path)(spec)
            spec["mounts"][2]["options"].remove("gid=5")

        result = box.sh("readlink /proc/self/ns/user; id -u; echo $$", change)
        assert result.lines == [os.readlink(path), "0", "1"]


def test_a_new_user_namespace_beside_a_joined_network(box: Box) -> None:
    os.chown(box.root, 100000, 200000)

    def change(spec: dict) -> None:
        mapped(spec)
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = "/proc/self/ns/net"

    result = box.sh("readlink /proc/self/ns/net; echo $$", change)
    assert result.lines == [own("network"), "1"]


def test_id_maps_are_needed(box: Box) -> None:
    with pytest.raises(InvalidArgument, match="uidMappings"):
        box.sh("true", namespaces(*_BASE, "user"))


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/time"), reason="this kernel has no time namespaces")
def test_time_namespace(box: Box) -> None:
    def change(spec: dict) -> None:
        namespaces(*_BASE, "time")(spec)
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}}

    with open("/proc/uptime") as file:
        outside = float(file.read().split()[0])
    result = box.sh("cat /proc/uptime; readlink /proc/self/ns/time", change)
    assert float(result.text.split()[0]) - outside >= 999_000
    assert result.lines[1] != os.readlink("/proc/self/ns/time")
    with box.running(change) as container:
        text = box.exec(container, "/bin/cat", "/proc/uptime").text
        assert float(text.split()[0]) - outside >= 999_000


def test_sysctl_of_its_own_namespaces(box: Box) -> None:
    def change(spec: dict) -> None:
        spec["linux"]["sysctl"] = {
            "net.ipv4.ip_forward": "1",
            "kernel.shm_rmid_forced": "1",
            "net/ipv4/tcp_syncookies": "0",
        }

    names = "net/ipv4/ip_forward kernel/shm_rmid_forced net/ipv4/tcp_syncookies"
    assert box.sh(f"cd /proc/sys; cat {names}", change).lines == ["1", "1", "0"]


@pytest.mark.parametrize(
    "key", ["kernel.core_pattern", "vm.swappiness", "net/../kernel/sysrq", "kernel.hostname", "", "."]
)
def test_sysctl_of_the_host_is_refused(box: Box, key: str) -> None:
    def change(spec: dict) -> None:
        spec["linux"]["sysctl"] = {key: "1"}

    with pytest.raises(InvalidArgument, match=r"linux\.sysctl"):
        box.sh("true", change)


def test_sysctl_of_a_shared_namespace_is_refused(box: Box) -> None:
    def change(spec: dict) -> None:
        namespaces("pid", "ipc", "uts", "mount")(spec)
        spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}

    with pytest.raises(InvalidArgument, match="needs a namespace of type network"):
        box.sh("true", change)


def test_an_unknown_sysctl_is_an_error(box: Box) -> None:
    def change(spec: dict) -> None:
        spec["linux"]["sysctl"] = {"net.no.such": "1"}

    with pytest.raises(RuntimeFailure, match=r"set sysctl: net\.no\.such: no such file"):
        box.sh("true", change)


def test_without_a_mount_namespace_the_root_is_entered_by_chroot(box: Box) -> None:
    def change(spec: dict) -> None:
        namespaces("pid", "ipc", "uts", "network")(spec)
        spec["mounts"] = []
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

    assert "busybox" in box.sh("ls /bin", change).lines
    with box.running(change) as container:
        assert "busybox" in box.exec(container, "/bin/ls", "/bin").lines
        container.kill(signal.SIGKILL)


def test_joining_a_mount_namespace(box: Box) -> None:
    with box.running() as other:
        path = f"/proc/{other.init.pid}/ns/mnt"

        def change(spec: dict) -> None:
            namespaces("pid", "ipc", "uts", "network", mount=path)(spec)
            spec["mounts"] = []
            spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

        assert box.sh("readlink /proc/1/ns/mnt >/dev/null; ls /bin/busybox", change).lines == ["/bin/busybox"]
