"""Reading a runtime-spec ``config.json``: types, ranges and required parts, into small typed objects.

What belongs here: everything that can be said about a spec without looking at the machine. What is not known to this
module is ignored, as the specification asks; what is known and wrong raises ``InvalidArgument`` naming the field
("linux.namespaces[2].type"). What does not belong here: what is done with it (``plan``, ``init``).
Source: runtime-spec config.md, config-linux.md.
"""

from __future__ import annotations

import json
import os

from portside.errors import InvalidArgument
from portside.linux import namespaces as ns
from portside.linux import rlimits
from portside.runtime import fields
from portside.runtime.fields import at, boolean, integer, objects, section, strings, text
from portside.runtime.priority import Priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The largest config.json that is read, in bytes.
MAX_SPEC_BYTES = 16 << 20
#: User and group ids are 31 bits: larger ones wrap to negative in tools that read them as ``int``.
MAX_ID = 2**31 - 1
_MAX_MAP_ENTRIES = 340  # UID_GID_MAP_MAX_EXTENTS
_UINT32 = 2**32 - 1

NAMESPACE_KINDS = {
    "pid": ns.CLONE_NEWPID,
    "network": ns.CLONE_NEWNET,
    "mount": ns.CLONE_NEWNS,
    "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS,
    "user": ns.CLONE_NEWUSER,
    "cgroup": ns.CLONE_NEWCGROUP,
    "time": ns.CLONE_NEWTIME,
}
PROPAGATION_NAMES = (
    "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable",
)  # fmt: skip
HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_DEVICE_TYPES = ("c", "u", "b", "p")

IdMap = tuple[int, int, int]  # inside, outside, count


class User:
    """``process.user``; ``username``, where given, is looked up in the container and wins over ``uid``."""

    __slots__ = ("additional_gids", "gid", "uid", "umask", "username")

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.uid = integer(document, "uid", where, 0, 0, MAX_ID)
        self.gid = integer(document, "gid", where, 0, 0, MAX_ID)
        self.umask = integer(document, "umask", where, -1, 0, 0o777)
        self.username = text(document, "username", where)
        self.additional_gids = fields.integers(document, "additionalGids", where, 0, MAX_ID)


class ProcessSpec:
    """``process``: of the container, or the whole argument of an exec."""

    __slots__ = (
        "apparmor", "args", "capabilities", "cwd", "document", "env", "height", "no_new_privileges",
        "oom_score_adj", "priority", "rlimits", "selinux", "terminal", "user", "width",
    )  # fmt: skip

    def __init__(self, document: Mapping[str, Any], where: str = "process") -> None:
        self.document = document
        self.args = strings(document, "args", where)
        if not self.args:
            raise InvalidArgument(f"{where}.args: must name a program")
        self.env = strings(document, "env", where)
        for index, variable in enumerate(self.env):
            if variable.find("=") < 1:
                raise InvalidArgument(f"{where}.env[{index}]: must be NAME=VALUE")
        self.cwd = text(document, "cwd", where, required=True)
        if not self.cwd.startswith("/"):
            raise InvalidArgument(f"{where}.cwd: must be an absolute path, not {self.cwd[:80]!r}")
        self.terminal = boolean(document, "terminal", where)
        self.user = User(section(document, "user", where), at(where, "user"))
        self.capabilities = section(document, "capabilities", where)
        self.rlimits = rlimits.parse(document.get("rlimits"))
        self.no_new_privileges = boolean(document, "noNewPrivileges", where)
        self.apparmor = text(document, "apparmorProfile", where)
        self.selinux = text(document, "selinuxLabel", where)
        self.oom_score_adj: int | None = None
        if document.get("oomScoreAdj") is not None:
            self.oom_score_adj = integer(document, "oomScoreAdj", where, 0, -1000, 1000)
        size = section(document, "consoleSize", where)
        self.width = integer(size, "width", at(where, "consoleSize"), 0, 0, 65535)
        self.height = integer(size, "height", at(where, "consoleSize"), 0, 0, 65535)
        self.priority = Priority(document, where)


class Mount:
    """One of ``mounts``, options not yet understood (``options`` module)."""

    __slots__ = ("destination", "fstype", "gid_map", "options", "source", "uid_map", "where")

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.destination = clean(text(document, "destination", where, required=True))
        self.fstype = text(document, "type", where)
        self.source = text(document, "source", where)
        self.options = strings(document, "options", where)
        self.uid_map = _id_maps(document, "uidMappings", where)
        self.gid_map = _id_maps(document, "gidMappings", where)
        if bool(self.uid_map) != bool(self.gid_map):
            raise InvalidArgument(f"{where}: uidMappings and gidMappings belong together")


class Device:
    """One of ``linux.devices``; ``mode`` holds the permission bits."""

    __slots__ = ("gid", "kind", "major", "minor", "mode", "path", "uid")

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.path = clean(text(document, "path", where, required=True))
        self.kind = text(document, "type", where, required=True)
        if self.kind not in _DEVICE_TYPES:
            raise InvalidArgument(f"{where}.type: must be one of {', '.join(_DEVICE_TYPES)}")
        self.major = integer(document, "major", where, 0, 0, _UINT32)
        self.minor = integer(document, "minor", where, 0, 0, _UINT32)
        self.mode = integer(document, "fileMode", where, 0o666, 0, _UINT32) & 0o7777
        self.uid = integer(document, "uid", where, 0, 0, MAX_ID)
        self.gid = integer(document, "gid", where, 0, 0, MAX_ID)


class Hook:
    """One of ``hooks.*``: ``args`` as given (its first is argv[0]), ``timeout`` in seconds or 0 for none."""

    __slots__ = ("args", "env", "path", "timeout")

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.path = text(document, "path", where, required=True)
        if not self.path.startswith("/"):
            raise InvalidArgument(f"{where}.path: must be absolute")
        self.args = strings(document, "args", where) or [self.path]
        self.env = strings(document, "env", where)
        self.timeout = 0
        if document.get("timeout") is not None:
            self.timeout = integer(document, "timeout", where, 0, 1, _UINT32)


class Spec:
    """A whole ``config.json``. ``namespaces`` is kind → path ("" for a new one); what is absent is shared."""

    __slots__ = (
        "annotations", "cgroups_path", "devices", "domainname", "gid_map", "hooks", "hostname", "masked_paths",
        "mounts", "namespaces", "personality", "process", "readonly_paths", "resources", "root", "root_readonly",
        "rootfs_propagation", "seccomp", "sysctl", "time_offsets", "uid_map", "version",
    )  # fmt: skip

    def __init__(self, document: Mapping[str, Any]) -> None:
        if not isinstance(document, dict):
            raise InvalidArgument("spec: must be an object")
        self.version = text(document, "ociVersion", "")
        self.process = ProcessSpec(section(document, "process", "", required=True))
        root = section(document, "root", "")
        self.root = text(root, "path", "root")
        self.root_readonly = boolean(root, "readonly", "root")
        self.hostname = text(document, "hostname", "")
        self.domainname = text(document, "domainname", "")
        self.mounts = [Mount(*each) for each in objects(document, "mounts", "")]
        self.annotations = fields.text_map(document, "annotations", "")
        hooks = section(document, "hooks", "")
        self.hooks = {kind: [Hook(*each) for each in objects(hooks, kind, "hooks")] for kind in HOOK_KINDS}
        self._read_linux(section(document, "linux", ""))
        self._check()

    def _read_linux(self, linux: Mapping[str, Any]) -> None:
        self.namespaces = _namespaces(linux)
        self.uid_map = _id_maps(linux, "uidMappings", "linux")
        self.gid_map = _id_maps(linux, "gidMappings", "linux")
        self.devices = [Device(*each) for each in objects(linux, "devices", "linux")]
        self.cgroups_path = text(linux, "cgroupsPath", "linux")
        self.resources = section(linux, "resources", "linux")
        self.rootfs_propagation = text(linux, "rootfsPropagation", "linux")
        self.seccomp = section(linux, "seccomp", "linux")
        self.sysctl = fields.text_map(linux, "sysctl", "linux")
        self.masked_paths = [clean(path) for path in strings(linux, "maskedPaths", "linux")]
        self.readonly_paths = [clean(path) for path in strings(linux, "readonlyPaths", "linux")]
        self.time_offsets = _time_offsets(linux)
        domain = text(section(linux, "personality", "linux"), "domain", "linux.personality")
        if domain not in ("", "LINUX", "LINUX32"):
            raise InvalidArgument("linux.personality.domain: must be LINUX or LINUX32")
        self.personality = {"": -1, "LINUX": 0, "LINUX32": 8}[domain]

    def _check(self) -> None:
        """Rules between fields."""
        fresh = {kind for kind, path in self.namespaces.items() if not path}
        if self.rootfs_propagation and self.rootfs_propagation not in PROPAGATION_NAMES:
            raise InvalidArgument(f"linux.rootfsPropagation: {self.rootfs_propagation[:80]!r} is not a propagation")
        if (self.hostname or self.domainname) and "uts" not in self.namespaces:
            raise InvalidArgument("hostname, domainname: need a namespace of type uts")
        if "mount" not in fresh:
            for name in ("mounts", "masked_paths", "readonly_paths", "rootfs_propagation"):
                if getattr(self, name):
                    raise InvalidArgument(f"{name}: needs a new namespace of type mount")
        if "user" in fresh and not (self.uid_map and self.gid_map):
            raise InvalidArgument("linux.uidMappings, linux.gidMappings: a new user namespace needs both")
        if "user" not in self.namespaces and (self.uid_map or self.gid_map):
            raise InvalidArgument("linux.uidMappings, linux.gidMappings: need a namespace of type user")
        if self.time_offsets and "time" not in fresh:
            raise InvalidArgument("linux.timeOffsets: needs a new namespace of type time")
        check_sysctl(self.sysctl, self.namespaces)


def load(path: str) -> dict[str, Any]:
    """The JSON object in file ``path``; ``InvalidArgument`` if it is none, ``OSError`` if it cannot be read."""
    with open(path, "rb") as file:
        data = file.read(MAX_SPEC_BYTES + 1)
    if len(data) > MAX_SPEC_BYTES:
        raise InvalidArgument(f"{path}: larger than {MAX_SPEC_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{path}: must be an object")
    return document


def clean(path: str) -> str:
    """``path`` as absolute and without ``.``, ``..`` and doubled slashes, as text (links are not looked at)."""
    return os.path.normpath("/" + path.lstrip("/"))


def check_sysctl(sysctl: Mapping[str, str], namespaces: Mapping[str, str]) -> None:
    """Refuse what would change the host: each key must belong to a namespace that the container has for itself."""
    for key in sysctl:
        kind = _sysctl_namespace(key)
        if not kind:
            raise InvalidArgument(f"linux.sysctl: {key[:80]!r} is not in a separate kernel namespace")
        if kind not in namespaces:
            raise InvalidArgument(f"linux.sysctl: {key[:80]!r} needs a namespace of type {kind}")


_IPC_SYSCTLS = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
}  # fmt: skip


def _sysctl_namespace(key: str) -> str:
    dotted = key.replace("/", ".") if "." not in key.split("/")[0] else key
    if ".." in key or not all(part for part in key.replace("/", ".").split(".")):
        return ""
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if dotted == "kernel.domainname":
        return "uts"
    if dotted.startswith("net."):
        return "network"
    return "user" if dotted.startswith("user.") else ""


def _namespaces(linux: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for document, where in objects(linux, "namespaces", "linux"):
        kind = text(document, "type", where, required=True)
        if kind not in NAMESPACE_KINDS:
            raise InvalidArgument(f"{where}.type: {kind[:80]!r} is not a namespace")
        if kind in found:
            raise InvalidArgument(f"{where}.type: {kind} appears twice")
        path = text(document, "path", where)
        if path and not path.startswith("/"):
            raise InvalidArgument(f"{where}.path: must be absolute")
        found[kind] = path
    return found


def _id_maps(document: Mapping[str, Any], name: str, where: str) -> list[IdMap]:
    found: list[IdMap] = []
    for entry, place in objects(document, name, where):
        inside = integer(entry, "containerID", place, 0, 0, _UINT32 - 1)
        outside = integer(entry, "hostID", place, 0, 0, _UINT32 - 1)
        size = integer(entry, "size", place, 0, 1, _UINT32)
        if inside + size > _UINT32 or outside + size > _UINT32:
            raise InvalidArgument(f"{place}: reaches beyond the last id")
        found.append((inside, outside, size))
    if len(found) > _MAX_MAP_ENTRIES:
        raise InvalidArgument(f"{at(where, name)}: more than {_MAX_MAP_ENTRIES} entries")
    return found


def _time_offsets(linux: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    offsets = section(linux, "timeOffsets", "linux")
    for clock in offsets:
        where = at("linux.timeOffsets", clock)
        if clock not in ("monotonic", "boottime"):
            raise InvalidArgument(f"{where}: clocks are monotonic and boottime")
        entry = section(offsets, clock, "linux.timeOffsets")
        seconds = integer(entry, "secs", where, 0, -(2**63), 2**63 - 1)
        found[clock] = (seconds, integer(entry, "nanosecs", where, 0, 0, 999_999_999))
    return found
