"""Root file systems and specs for tests that make containers without an image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.support.images import busybox_files

_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip


def make_rootfs(directory: Path) -> Path:
    """A root that busybox's shell runs in."""
    for name, content in busybox_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
            path.chmod(0o755)
    return directory


def process(*args: str, terminal: bool = False, uid: int = 0) -> dict[str, Any]:
    """A runtime-spec Process."""
    return {
        "terminal": terminal,
        "user": {"uid": uid, "gid": uid},
        "args": list(args),
        "env": ["PATH=/bin:/sbin:/usr/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "noNewPrivileges": True,
    }


def spec(
    *args: str, cgroup: str, terminal: bool = False, uid: int = 0, namespaces: tuple[str, ...] = (),
    resources: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A spec such as clients make, without network; ``namespaces`` replaces the usual ones."""
    kinds = namespaces or ("pid", "ipc", "uts", "mount", "network")
    return {
        "ociVersion": "1.0.2",
        "process": process(*args, terminal=terminal, uid=uid),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in kinds],
            "resources": {"devices": [{"allow": False, "access": "rwm"}], **(resources or {})},
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def overlay_mount(lower: Path, directory: Path) -> dict[str, Any]:
    """A root of its own over ``lower``, as the fields of a containerd.types.Mount."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    options = ["index=off", f"workdir={directory}/work", f"upperdir={directory}/upper", f"lowerdir={lower}"]
    return {"type": "overlay", "source": "overlay", "target": "", "options": options}


def has_busybox() -> bool:
    return os.path.exists("/bin/busybox") and shutil.which("busybox") is not None
