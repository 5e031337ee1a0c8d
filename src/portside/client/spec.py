"""From an image's configuration and what a person asks for to an OCI runtime specification.

The defaults are containerd's (its Go package oci), so that a container means the same whoever made it. Pure: all
that must be looked up (the user, the host's devices) is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from portside.client.run_options import RunOptions
from portside.client.users import User
from portside.errors import InvalidArgument
from portside.linux.capabilities import NAMES as ALL_CAPABILITIES
from portside.oci.image import ImageConfig
from portside.oci.platform import host_platform

OCI_VERSION = "1.1.0"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD = 100_000
"""Microseconds."""

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NULL, _TTY = 1, 5
_DEVICES = (
    ("c", None, None, "m"), ("b", None, None, "m"),
    ("c", _NULL, 3, "rwm"), ("c", _NULL, 8, "rwm"), ("c", _NULL, 7, "rwm"), ("c", _NULL, 5, "rwm"),
    ("c", _NULL, 9, "rwm"), ("c", _TTY, 0, "rwm"), ("c", _TTY, 1, "rwm"), ("c", 136, None, "rwm"),
    ("c", _TTY, 2, "rwm"),
)  # fmt: skip
"""Allowed device nodes: making any; null, random, full, zero, urandom; tty, console, pts/*, ptmx."""


def make_spec(
    id: str, namespace: str, config: ImageConfig, options: RunOptions, user: User,
    *, host_devices: Sequence[Mapping[str, Any]] = (), unified_cgroups: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The specification as a JSON-able document; InvalidArgument if there is nothing to run.

    ``host_devices`` are given to privileged containers (``host_devices.py``); ``unified_cgroups`` tells whether the
    machine has cgroup v2 alone (None: look).
    """
    options.check()
    linux = _linux(id, namespace, options, host_devices, unified_cgroups)
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": make_process(config, options, user),
        "root": {"path": "rootfs"},
        "hostname": options.hostname or (os.uname().nodename if options.network == "host" else id[:12]),
        "mounts": _mounts(options),
        "linux": linux,
    }
    if options.read_only:
        spec["root"]["readonly"] = True
    if options.annotations:
        spec["annotations"] = dict(options.annotations)
    return spec


def make_process(config: ImageConfig, options: RunOptions, user: User) -> dict[str, Any]:
    """The first process."""
    if options.entrypoint is not None:
        args = [options.entrypoint, *options.args] if options.entrypoint else list(options.args)
    else:
        args = [*config.entrypoint, *(options.args or config.cmd)]
    if not args or not args[0]:
        raise InvalidArgument("no command: the image has none and none was given")
    cwd = options.cwd or config.working_dir or "/"
    process: dict[str, Any] = {
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)},
        "args": args,
        "env": merge_env([DEFAULT_PATH], config.env, ["TERM=xterm"] if options.tty else [], options.env),
        "cwd": cwd if cwd.startswith("/") else f"/{cwd}",
        "capabilities": capability_sets(capabilities(options)),
        "rlimits": _rlimits(options),
    }
    if options.tty:
        process["terminal"] = True
    process |= console_size(options.tty, options.console_size)
    if options.no_new_privileges and not options.privileged:
        process["noNewPrivileges"] = True
    return process


def console_size(terminal: bool, size: tuple[int, int]) -> dict[str, Any]:
    """``consoleSize`` of a process, as fields to add: none without a terminal or a size of columns and rows."""
    columns, rows = size
    return {"consoleSize": {"height": rows, "width": columns}} if terminal and columns and rows else {}


def merge_env(*lists: Sequence[str]) -> list[str]:
    """Later variables replace earlier ones in their place; a bare name takes a variable away."""
    merged: dict[str, str] = {}
    for variables in lists:
        for variable in variables:
            name, equals, value = variable.partition("=")
            if equals:
                merged[name] = value
            else:
                merged.pop(name, None)
    return [f"{name}={value}" for name, value in merged.items()]


def capabilities(options: RunOptions) -> list[str]:
    """The names in force; InvalidArgument for unknown ones. ``ALL`` works in both lists, drop first, then add."""
    base = list(ALL_CAPABILITIES if options.privileged else CAPABILITIES)
    drop, add = [_capability(name) for name in options.cap_drop], [_capability(name) for name in options.cap_add]
    if "ALL" in add:
        base = [name for name in ALL_CAPABILITIES if name not in drop]
    elif "ALL" in drop:
        base = []
    else:
        base = [name for name in base if name not in drop]
    return base + [name for name in dict.fromkeys(add) if name != "ALL" and name not in base]


def capability_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """Bounding, effective and permitted; never inheritable or ambient (CVE-2022-24769)."""
    return {"bounding": list(names), "effective": list(names), "permitted": list(names)}


def _capability(name: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL_CAPABILITIES:
        raise InvalidArgument(f"capability {name!r}: unknown")
    return full


def _rlimits(options: RunOptions) -> list[dict[str, Any]]:
    limits = {"NOFILE": (1024, 1024)}
    limits |= {name.upper().removeprefix("RLIMIT_"): value for name, value in options.rlimits.items()}
    return [{"type": f"RLIMIT_{name}", "hard": hard, "soft": soft} for name, (soft, hard) in limits.items()]


def _mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def _mounts(options: RunOptions) -> list[dict[str, Any]]:
    access = "rw" if options.privileged else "ro"
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts",
            "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    ]  # fmt: skip
    if options.network == "host":
        mounts += [
            _mount(path, "bind", path, "rbind", "ro")
            for path in ("/etc/hosts", "/etc/resolv.conf")
            if os.path.exists(path)
        ]
    for text in options.tmpfs:
        target, _, flags = text.partition(":")
        if not target.startswith("/"):
            raise InvalidArgument(f"tmpfs {text!r}: want an absolute path")
        mounts.append(_mount(target, "tmpfs", "tmpfs", "nosuid", "nodev", *[flag for flag in flags.split(",") if flag]))
    for volume in options.volumes:
        mounts.append(_mount(volume.target, "bind", volume.source, *_bind_options(volume.options)))
    given = {os.path.normpath(mount["destination"]): mount for mount in mounts}
    return list(given.values())


def _bind_options(options: Sequence[str]) -> list[str]:
    chosen = ["rbind", *options] if not {"bind", "rbind"} & set(options) else list(options)
    if not any(option.endswith(("private", "shared", "slave", "unbindable")) for option in chosen):
        chosen.append("rprivate")
    return chosen


def _linux(
    id: str, namespace: str, options: RunOptions, host_devices: Sequence[Mapping[str, Any]], unified: bool | None
) -> dict[str, Any]:
    if unified is None:
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    kinds = ["pid", "ipc", "uts", "mount"]
    if options.network != "host":
        kinds.append("network")
    if unified and not options.privileged:
        kinds.append("cgroup")
    linux: dict[str, Any] = {
        "cgroupsPath": f"/{namespace}/{id}",
        "namespaces": [{"type": kind} for kind in kinds],
        "resources": _resources(options),
    }
    if options.sysctls:
        linux["sysctl"] = dict(options.sysctls)
    if options.privileged:
        linux["devices"] = [dict(device) for device in host_devices]
        return linux
    linux["maskedPaths"] = list(MASKED_PATHS)
    linux["readonlyPaths"] = list(READONLY_PATHS)
    if options.seccomp:
        from portside.oci.seccomp_default import default_profile

        linux["seccomp"] = default_profile(capabilities(options), host_platform().architecture)
    return linux


def _resources(options: RunOptions) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [{"allow": options.privileged, "access": "rwm"}]
    if not options.privileged:
        for type, major, minor, access in _DEVICES:
            rule: dict[str, Any] = {"allow": True, "type": type, "access": access}
            if major is not None:
                rule["major"] = major
            if minor is not None:
                rule["minor"] = minor
            rules.append(rule)
    resources: dict[str, Any] = {"devices": rules}
    if options.memory:
        resources["memory"] = {"limit": options.memory}
    if options.cpus:
        resources["cpu"] = {"quota": max(1000, int(options.cpus * CPU_PERIOD)), "period": CPU_PERIOD}
    if options.pids > 0:
        resources["pids"] = {"limit": options.pids}
    return resources
