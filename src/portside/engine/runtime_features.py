"""What our own runtime can do, as a document that clients read before they ask for it (runtime-spec features.md)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from portside.linux.capabilities import NAMES
from portside.oci.platform import host_platform
from portside.oci.seccomp_default import default_profile
from portside.runtime.spec import HOOK_KINDS, NAMESPACE_KINDS, PROPAGATION_NAMES
from portside.version import __version__

OCI_VERSIONS = ("1.0.0", "1.3.0")
"""Of the runtime spec: the lowest and the highest we know."""
ATTRIBUTES = (
    "atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime",
    "nosuid", "nosymfollow", "relatime", "ro", "rw", "strictatime", "suid", "symfollow",
)  # fmt: skip
"""Options of mounts that also come with an ``r`` before them, for what is below too."""
OTHERS = ("bind", "defaults", "idmap", "rbind", "remount", "ridmap", "tmpcopyup")
ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
FLAGS = ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")


def features() -> dict[str, Any]:
    """As JSON's values; what depends on the machine (AppArmor, control groups) is told as it is here."""
    options = [*ATTRIBUTES, *(f"r{name}" for name in ATTRIBUTES), *PROPAGATION_NAMES, *OTHERS]
    return {
        "ociVersionMin": OCI_VERSIONS[0],
        "ociVersionMax": OCI_VERSIONS[1],
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(options),
        "linux": {
            "namespaces": sorted(NAMESPACE_KINDS),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": _prefixed("SCMP_ACT_", ACTIONS),
                "operators": _prefixed("SCMP_CMP_", OPERATORS),
                "archs": default_profile((), host_platform().architecture)["architectures"],
                "knownFlags": _prefixed("SECCOMP_FILTER_FLAG_", FLAGS),
                "supportedFlags": _prefixed("SECCOMP_FILTER_FLAG_", FLAGS),
            },
            "apparmor": {"enabled": os.path.isdir("/sys/kernel/security/apparmor")},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.portside.version": __version__},
    }


def _prefixed(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"{prefix}{name}" for name in names]
