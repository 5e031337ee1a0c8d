"""The specification of a container as ``ctr`` makes one: containerd's defaults, then one step for each option.

A step changes the document in place. Their order is ctr's, since later ones see what earlier ones did. Pure but for
files that the command line names (``--env-file``, ``--device``, ``--seccomp-profile``).
"""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from portside.cli.ctr.command import set_pairs
from portside.cli.ctr.grammar import Values
from portside.client.host_devices import host_devices
from portside.client.spec import (
    CAPABILITIES,
    CPU_PERIOD,
    DEFAULT_PATH,
    MASKED_PATHS,
    OCI_VERSION,
    READONLY_PATHS,
    capability_sets,
    merge_env,
)
from portside.client.users import User
from portside.errors import InvalidArgument
from portside.linux.capabilities import names_of
from portside.oci.image import ImageConfig
from portside.oci.platform import Platform, host_platform

Spec = dict[str, Any]

_NAMESPACES = frozenset({"pid", "network", "uts", "mount", "user", "ipc", "cgroup", "time"})
_NODES = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))
"""null, random, full, tty, zero, urandom, console, pts/*, ptmx."""
MAX_FILE = 1 << 20
"""Bytes of a file of variables or of a seccomp profile."""


def default_spec(id: str, namespace: str, platform: Platform) -> Spec:
    """What ``ctr oci spec`` prints; for Windows next to nothing."""
    if platform.os == "windows":
        return {
            "ociVersion": OCI_VERSION, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "C:\\"},
            "root": {"path": ""}, "windows": {"layerFolders": None},
        }  # fmt: skip
    process: Spec = {
        "user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": capability_sets(CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], "noNewPrivileges": True,
    }  # fmt: skip
    kinds = ["pid", "ipc", "uts", "mount", "network"]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        kinds.append("cgroup")
    return {
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": "rootfs"},
        "mounts": _default_mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "cgroupsPath": f"/{namespace}/{id}" if id else f"/{namespace}",
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _default_mounts() -> list[dict[str, Any]]:
    none = ("nosuid", "noexec", "nodev")
    return [
        _mount("/proc", "proc", "proc", *none),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts",
            "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", "shm", *none, "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", *none),
        _mount("/sys", "sysfs", "sysfs", *none, "ro"),
        _mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    ]  # fmt: skip


def _mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def make_spec(
    id: str, namespace: str, values: Values, args: Sequence[str],
    *, config: ImageConfig | None = None, user: User | None = None, rootfs: str = "",
) -> Spec:  # fmt: skip
    """The specification of container ``id``; InvalidArgument for options that contradict each other.

    ``config`` is the image's and ``user`` who runs, both None for a ``rootfs`` directory that is no image's.
    """
    platform = Platform.parse(values["platform"]) if values.get("platform") else host_platform()
    spec = default_spec(id, namespace, Platform("linux", platform.architecture, platform.variant))
    process, linux = spec["process"], spec["linux"]
    linux["resources"]["devices"] += [_rule("c", major, minor) for major, minor in _NODES]
    process["env"] = merge_env(_file_lines(values["env_file"]) if values["env_file"] else [], values["env"])
    _add_mounts(spec, [parse_mount(text) for text in values["mount"]])
    if rootfs:
        spec["root"]["path"] = rootfs
    if config is not None:
        process["env"] = merge_env(config.env or [DEFAULT_PATH], process["env"])
        process["args"] = [*config.entrypoint, *config.cmd]
        process["cwd"] = config.working_dir or "/"
    if user is not None:
        groups = {"additionalGids": list(user.additional_gids)} if user.additional_gids else {}
        process["user"] = {"uid": user.uid, "gid": user.gid} | groups
    _id_maps(spec, values)
    if values["read_only"]:
        spec["root"]["readonly"] = True
    if args:
        process["args"] = list(args)
    process["cwd"] = values["cwd"] or process["cwd"]
    if values["tty"]:
        process |= {"terminal": True, "env": [*process["env"], "TERM=xterm"]}
    _privileges(spec, values)
    if values["net_host"]:
        _host_network(spec)
    _confinement(spec, values, platform)
    _limits(linux["resources"], process, values)
    _join_namespaces(spec, values["with_ns"])
    if values["allow_new_privs"]:
        del process["noNewPrivileges"]
    if "cgroup" in values.given:
        linux["cgroupsPath"] = values["cgroup"]
    for path in values["device"]:
        _add_devices(spec, path)
    if values["rootfs_propagation"]:
        linux["rootfsPropagation"] = values["rootfs_propagation"]
    if values["rdt_class"]:
        linux["intelRdt"] = {"closID": values["rdt_class"]}
    if values["hostname"]:
        spec["hostname"] = values["hostname"]
    annotations = _annotations(values["annotation"]) | set_pairs(values["label"])
    if annotations:
        spec["annotations"] = annotations
    if not process["env"]:
        del process["env"]
    return spec


def spec_from_file(path: str, labels: Mapping[str, str]) -> Spec:
    """``--config``: a whole specification, with the labels as annotations; InvalidArgument if it is none."""
    document = json_object(path)
    if labels:
        document["annotations"] = dict(document.get("annotations") or {}) | dict(labels)
    return document


def json_object(path: str) -> dict[str, Any]:
    """The object in the JSON file ``path``; InvalidArgument if it has none."""
    with open(path, "rb") as file:
        data = file.read(8 * MAX_FILE + 1)
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"{path}: not JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{path}: not a JSON object")
    return document


def _file_lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read(MAX_FILE).splitlines()


def parse_mount(text: str) -> dict[str, Any]:
    """``type=bind,src=/a,dst=/b,options=rbind:ro`` (one line of CSV) as runtime-spec's mount; InvalidArgument."""
    mount: dict[str, Any] = {}
    names = {"type": "type", "source": "source", "src": "source", "destination": "destination", "dst": "destination"}
    for field in next(csv.reader([text]), []):
        key, equals, value = field.partition("=")
        if not equals:
            raise InvalidArgument(f"mount {text!r}: want key=value, not {field!r}")
        if key == "options":
            mount["options"] = value.split(":")
        elif key in names:
            mount[names[key]] = value
        else:
            raise InvalidArgument(f"mount {text!r}: option {key!r} is not supported")
    mount.setdefault("destination", "")
    return mount


def _add_mounts(spec: Spec, mounts: Sequence[Mapping[str, Any]]) -> None:
    """What is given replaces what is mounted at the same place by default."""
    places = {os.path.normpath(mount["destination"]) for mount in mounts}
    kept = [mount for mount in spec["mounts"] if os.path.normpath(mount["destination"]) not in places]
    spec["mounts"] = [*kept, *mounts]


def id_map(texts: Sequence[str]) -> list[dict[str, int]]:
    """``container:host:size`` as runtime-spec's mapping; InvalidArgument."""
    mappings = []
    for text in texts:
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) < 1 << 32 for part in parts):
            raise InvalidArgument(f"id mapping {text!r}: want container-id:host-id:size")
        first, host, size = map(int, parts)
        mappings.append({"containerID": first, "hostID": host, "size": size})
    return mappings


def _id_maps(spec: Spec, values: Values) -> None:
    uids, gids = id_map(values.get("uidmap") or ()), id_map(values.get("gidmap") or ())
    if uids and gids:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"] |= {"uidMappings": uids, "gidMappings": gids}


def _privileges(spec: Spec, values: Values) -> None:
    process, linux = spec["process"], spec["linux"]
    bare = values.get("privileged_without_host_devices", False)
    if bare and not values["privileged"]:
        raise InvalidArgument("--privileged-without-host-devices wants --privileged")
    if values["privileged"]:
        process["capabilities"] = capability_sets(_current_capabilities())
        for key in ("maskedPaths", "readonlyPaths"):
            del linux[key]
        for mount in spec["mounts"]:
            if mount.get("type") in ("sysfs", "cgroup") and mount.get("options"):
                mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]
        if not bare:
            linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
            linux["devices"] = host_devices()


def _current_capabilities() -> list[str]:
    """Those that we have ourselves: what a machine does not give us, it gives no container."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        line = next(line for line in file if line.startswith("CapEff:"))
    return names_of(int(line.split()[1], 16))


def _host_network(spec: Spec) -> None:
    linux = spec["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        spec["mounts"].append(_mount(path, "bind", path, "rbind", "ro"))
    process = spec["process"]
    process["env"] = merge_env(process["env"], [f"HOSTNAME={os.uname().nodename}"])


def _confinement(spec: Spec, values: Values, platform: Platform) -> None:
    process = spec["process"]
    held: list[str] = list(process["capabilities"]["bounding"])
    for name in (*values["cap_add"], *values["cap_drop"]):
        if not name.startswith("CAP_"):
            raise InvalidArgument(f"capability {name!r}: want a name that begins with CAP_")
    held += [name for name in dict.fromkeys(values["cap_add"]) if name not in held]
    process["capabilities"] = capability_sets([name for name in held if name not in values["cap_drop"]])
    if values["seccomp_profile"] and not values["seccomp"]:
        raise InvalidArgument("--seccomp-profile wants --seccomp")
    if values["seccomp_profile"]:
        spec["linux"]["seccomp"] = json_object(values["seccomp_profile"])
    elif values["seccomp"]:
        from portside.oci.seccomp_default import default_profile

        held = process["capabilities"]["bounding"]
        spec["linux"]["seccomp"] = default_profile(held, platform.architecture)
    if values["apparmor_profile"] and values["apparmor_default_profile"]:
        raise InvalidArgument("--apparmor-profile and --apparmor-default-profile exclude each other")
    if values["apparmor_default_profile"]:
        from portside.linux.apparmor import loaded_profiles

        if values["apparmor_default_profile"] not in loaded_profiles():
            raise InvalidArgument(f"AppArmor profile {values['apparmor_default_profile']!r}: not loaded")
    if profile := values["apparmor_profile"] or values["apparmor_default_profile"]:
        process["apparmorProfile"] = profile


def _limits(resources: Spec, process: Spec, values: Values) -> None:
    cpu: dict[str, Any] = {}
    cpus, quota, period = values.get("cpus") or 0.0, values["cpu_quota"], values["cpu_period"]
    if cpus > 0 and (quota != -1 or period):
        raise InvalidArgument("--cpus and --cpu-quota or --cpu-period exclude each other")
    if values.get("cpu_shares", 0) > 0:
        cpu["shares"] = values["cpu_shares"]
    if cpus > 0:
        cpu |= {"quota": int(cpus * CPU_PERIOD), "period": CPU_PERIOD}
    if quota != -1 or period:
        cpu |= {"quota": quota, "period": period}
    if values.get("cpuset_cpus"):
        cpu["cpus"] = values["cpuset_cpus"]
    if values.get("cpuset_mems"):
        cpu["mems"] = values["cpuset_mems"]
    if values["memory_limit"]:
        resources["memory"] = {"limit": values["memory_limit"]}
    if cpu:
        resources["cpu"] = cpu
    if text := values.get("rlimit_nofile"):
        soft, _, hard = text.partition(":")
        if not all(part.isascii() and part.isdigit() for part in (soft, hard or soft)):
            raise InvalidArgument(f"--rlimit-nofile {text!r}: want a number, or soft:hard")
        process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": int(hard or soft), "soft": int(soft)}]


def _join_namespaces(spec: Spec, texts: Sequence[str]) -> None:
    for text in texts:
        kind, colon, path = text.partition(":")
        if not colon or kind not in _NAMESPACES:
            raise InvalidArgument(
                f"--with-ns {text!r}: want kind:path, the kind one of {', '.join(sorted(_NAMESPACES))}"
            )
        namespaces = spec["linux"]["namespaces"]
        entry = {"type": kind, "path": path}
        places = [index for index, known in enumerate(namespaces) if known["type"] == kind]
        if places:
            namespaces[places[0]] = entry
        else:
            namespaces.append(entry)


def _rule(type: str, major: int, minor: int | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": type, "major": major}
    return rule | ({} if minor is None else {"minor": minor}) | {"access": "rwm"}


def _add_devices(spec: Spec, path: str) -> None:
    """The node at ``path``, or all below a directory, with rules that allow them."""
    if "=" in path and "/" in path.partition("=")[0] and not path.startswith("/"):
        raise InvalidArgument(f"--device {path!r}: devices of CDI are not supported")
    status = os.stat(path)
    found = host_devices(path) if stat.S_ISDIR(status.st_mode) else [_device(path)]
    spec["linux"].setdefault("devices", []).extend(found)
    rules = [_rule(device["type"], device["major"], device["minor"]) for device in found]
    spec["linux"]["resources"]["devices"] += rules


def _device(path: str) -> dict[str, Any]:
    status = os.lstat(path)
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidArgument(f"--device {path!r}: not a device node")
    return {
        "path": path, "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid,
    }  # fmt: skip


def _annotations(texts: Sequence[str]) -> dict[str, str]:
    annotations = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument(f"annotation {text!r}: want key=value")
        annotations[key] = value
    return annotations
