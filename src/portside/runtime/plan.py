"""From a spec to the list of operations that make a root file system. Pure: nothing here looks at the machine."""

from __future__ import annotations

import os

from portside.errors import InvalidArgument
from portside.linux import mount as m
from portside.runtime import options as mount_options
from portside.runtime.devices import DefaultNodes, DeviceNode, DevLinks
from portside.runtime.masks import MaskPaths, ReadonlyPaths
from portside.runtime.mounts import BindMount, CgroupMount, FilesystemMount, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.runtime.spec import Mount, Spec


class RootPlan:
    """What is done to the tree, in three phases.

    ``mounts`` in the order of the spec; ``devices`` when /dev is there; ``covers`` last, when nothing has to be
    reached any more that they hide.
    """

    __slots__ = ("covers", "devices", "mounts")

    def __init__(self, mounts: list[Operation], devices: list[Operation], covers: list[Operation]) -> None:
        self.mounts = mounts
        self.devices = devices
        self.covers = covers

    def describe(self) -> list[str]:
        """One line for each operation, in their order."""
        return [each.describe() for each in (*self.mounts, *self.devices, *self.covers)]


def root_plan(spec: Spec, bundle: str) -> RootPlan:
    """The operations for ``spec``; relative sources of bind mounts are taken from ``bundle``."""
    mounts = [mount_operation(mount, bundle) for mount in spec.mounts]
    devices: list[Operation] = []
    if not any(
        mount.destination == "/dev" and isinstance(op, BindMount) for mount, op in zip(spec.mounts, mounts, strict=True)
    ):
        wanted = {device.path: DeviceNode.of(device) for device in spec.devices}
        devices = [DefaultNodes(frozenset(wanted)), *wanted.values(), DevLinks()]
    covers: list[Operation] = []
    if spec.readonly_paths:
        covers.append(ReadonlyPaths(spec.readonly_paths))
    if spec.masked_paths:
        covers.append(MaskPaths(spec.masked_paths))
    return RootPlan(mounts, devices, covers)


def mount_operation(mount: Mount, bundle: str) -> Operation:
    """The operation for one entry of ``mounts``."""
    options = mount_options.parse(mount.options, mount.where)
    if mount.destination == "/":
        raise InvalidArgument(f"{mount.where}.destination: the root cannot be mounted over")
    if options.bind or mount.fstype == "bind":
        if not mount.source:
            raise InvalidArgument(f"{mount.where}.source: is required for a bind mount")
        if options.data:
            raise InvalidArgument(f"{mount.where}.options: {options.data[0][0][:80]!r} means nothing for a bind mount")
        if mount.fstype == "bind" and not options.bind:
            options.recursive = True
        return BindMount(mount.destination, os.path.join(bundle, mount.source), options, mount.uid_map, mount.gid_map)
    if mount.uid_map or options.idmap:
        raise InvalidArgument(f"{mount.where}: only bind mounts can have their ids mapped")
    if mount.fstype in ("cgroup", "cgroup2"):
        return CgroupMount(mount.destination, options)
    if not mount.fstype:
        raise InvalidArgument(f"{mount.where}.type: is required unless it is a bind mount")
    if options.copy_up and mount.fstype != "tmpfs":
        raise InvalidArgument(f"{mount.where}.options: tmpcopyup is for a tmpfs")
    return FilesystemMount(mount.destination, mount.fstype, mount.source, options)


def initial_propagation(name: str) -> int:
    """How the copied mounts of the host behave while the root is made: as asked, else they only receive."""
    if not name:
        return m.MS_SLAVE | m.MS_REC
    flag, _ = mount_options.propagation_flag(name)
    return flag | m.MS_REC if flag != m.MS_UNBINDABLE else m.MS_PRIVATE | m.MS_REC
