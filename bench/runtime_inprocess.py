"""Our OCI runtime in a process like a shim, against ``runc``, a newer ``crun``, and a C program with just the calls.

Same bundle, same run, taking turns. The bundle is what clients ask for by default: overlay root (ready made for the
runtimes that are commands), nine mounts and devices, masked and read-only paths, 14 capabilities, no_new_privileges,
the default seccomp profile, one limit. crun refuses hybrid control groups, so for everybody the hierarchy of version 2
is taken out of sight where there are controllers of version 1.

Usage: python -m bench.runtime_inprocess [ROUNDS]
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import HEAD, Row, alternate, command
from portside.linux import mount, namespaces
from portside.linux.cgroups import Cgroup, layout
from portside.oci.seccomp_default import default_profile

_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
]  # fmt: skip
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _mount(destination: str, fstype: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": fstype, "options": list(options)}


def default_spec(*args: str) -> dict[str, Any]:
    """What clients ask for by default."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/run", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READONLY,
            "seccomp": default_profile(_CAPABILITIES, _ARCHITECTURES[platform.machine()]),
        },
    }


def make_bundle(directory: Path) -> None:
    """A bundle with busybox in its root, and directories for an overlay over it."""
    root = directory / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "run", "etc"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("true", "sh", "sleep"):
        (root / "bin" / name).symlink_to("busybox")
    for name in ("u", "w"):
        (directory / name).mkdir()
    (directory / "config.json").write_text(json.dumps(default_spec("/bin/true")))


class Ordered:
    """A process with orders and answers."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def order(self, letter: bytes) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(letter)
        if self._process.stdout.read(1) != b".":
            raise RuntimeError(f"{self._process.args}: it died")

    def close(self) -> None:
        self._process.communicate()


class Worker(Ordered):
    """``runtime_worker``."""

    def __init__(self, bundle: str) -> None:
        here = Path(__file__).parent
        super().__init__(
            sys.executable, "-I", "-S", str(here / "runtime_worker.py"), str(here.parent / "src"), bundle
        )  # fmt: skip


class Floor(Ordered):
    """``floor.c``."""

    def __init__(self, bundle: str) -> None:
        program = f"{bundle}/floor"
        subprocess.run(["cc", "-O2", "-o", program, str(Path(__file__).parent / "floor.c")], check=True)
        Path(bundle, "m").mkdir()
        super().__init__(program, bundle, *Cgroup.open("/portside-floor").directories())


def _newer_crun() -> list[str]:
    """The crun of the newer suite, run by its own loader with its own libraries."""
    root = Path(subprocess.run(["script/peers"], check=True, capture_output=True, text=True).stdout.strip())
    loader = next(path for path in root.glob("lib64/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in root.glob("usr/lib/*-linux-gnu"))
    return [str(loader), "--library-path", libraries, str(root / "usr/bin/crun")]


def _version_of(command: Sequence[str]) -> str:
    words = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return " ".join((words[0], words[2]))


def _hide_version_2() -> None:
    """In a mount namespace of our own."""
    seen = layout()
    if seen.v1 and seen.v2:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.mount("", "/", "", mount.MS_SLAVE | mount.MS_REC)
        mount.umount2(seen.v2, mount.MNT_DETACH)
        layout(refresh=True)


def measure(rounds: int) -> list[Row]:
    """All rows of this module."""
    with tempfile.TemporaryDirectory(prefix="portside-bench-") as name:
        make_bundle(Path(name))
        runc = ("runc", "--root", f"{name}/runc")
        newer = _newer_crun()
        crun = (*newer, "--root", f"{name}/crun")
        worker, floor = Worker(name), Floor(name)
        once = ("run", "--bundle", name, "portside-bench")
        runs = [lambda: worker.order(b"r"), command(*runc, *once), command(*crun, *once), lambda: floor.order(b"r")]
        ours, *theirs = alternate(runs, rounds)
        floor.close()
        (Path(name) / "config.json").write_text(json.dumps(default_spec("/bin/sleep", "1000")))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*runc, "run", "-d", "--bundle", name, "portside-idle"], check=True, **quiet)
        worker.order(b"i")
        try:
            into = alternate([lambda: worker.order(b"e"), command(*runc, "exec", "portside-idle", "/bin/true")], rounds)
        finally:
            subprocess.run([*runc, "delete", "-f", "portside-idle"], check=True)
            worker.order(b"d")
            worker.close()
    return [
        *(
            Row("create, start, exit, delete, in process", peer, ours, figure, "ms", budget)
            for peer, figure, budget in zip(
                ("runc run", f"{_version_of(newer)} run", "the calls, in C"), theirs, (0.25, 1.0, 1.5), strict=True
            )
        ),
        Row("exec and exit, in process", "runc exec", *into, "ms"),
    ]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    _hide_version_2()
    print(HEAD)
    for row in measure(rounds):
        print(row.markdown())


if __name__ == "__main__":
    main()
