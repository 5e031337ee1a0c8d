"""What the maker opens for a container's first process before the clone, because the process could not.

Namespaces to join, sources of mounts that root of a user namespace could not reach, files of control groups. Each
function notes what it opened with ``borrowed``, which closes it in the maker after the clone.
"""

from __future__ import annotations

import os

from portside.errors import InvalidArgument
from portside.linux import mount as m
from portside.linux import namespaces as ns
from portside.linux.fd import OwnedFd
from portside.runtime import group
from portside.runtime.failure import RuntimeFailure
from portside.runtime.mounts import BindMount
from portside.runtime.spec import NAMESPACE_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.linux.cgroups import Cgroup
    from portside.runtime.init import Launch
    from portside.runtime.maker import Undo
    from portside.runtime.spec import Spec


def open_groups(cgroup: Cgroup, borrowed: Undo) -> list[int]:
    """What ``group.join`` wants."""
    fds = group.open_joins(cgroup)
    for fd in fds:
        borrowed.push(os.close, fd)
    return fds


def needs_between(launch: Launch) -> bool:
    """Whether a process in between has to join namespaces first (``init.between``)."""
    kinds = {kind for _, kind in launch.joins}
    if kinds & {ns.CLONE_NEWPID, ns.CLONE_NEWUSER}:
        return True
    return bool(kinds) and bool(launch.fresh & ns.CLONE_NEWUSER)


def open_namespaces(launch: Launch, borrowed: Undo) -> None:
    """Open the namespaces to join, and note which ones are new. A user namespace comes first."""
    launch.fresh, launch.joins = 0, []
    for name, path in launch.spec.namespaces.items():
        kind = NAMESPACE_KINDS[name]
        if not path:
            launch.fresh |= kind
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise RuntimeFailure.of(f"open {name} namespace", error, path) from error
        borrowed.push(os.close, fd)
        if ns.namespace_kind(fd) != kind:
            raise RuntimeFailure(f"open {name} namespace", path, reason=f"is not a {name} namespace")
        if kind == ns.CLONE_NEWUSER and ns.same_namespace(fd, "user"):
            raise RuntimeFailure("join user namespace", path, reason="is the one that we are in")
        launch.joins.append((fd, kind))
    launch.joins.sort(key=lambda join: join[1] != ns.CLONE_NEWUSER)


def open_sources(launch: Launch, borrowed: Undo) -> None:
    """Open what the new process could not: with a user namespace it has no rights in the host's directories."""
    spec = launch.spec
    foreign = "user" in spec.namespaces
    if foreign and launch.rootfs_fd < 0:
        try:
            launch.rootfs_fd = m.clone_mount(-100, launch.rootfs, recursive=True)
            borrowed.push(os.close, launch.rootfs_fd)
            m.set_attributes(launch.rootfs_fd, propagation=m.MS_SLAVE, recursive=True)
        except OSError as error:
            raise RuntimeFailure.of("open the root file system", error, launch.rootfs) from error
    for operation in launch.plan.mounts:
        if not isinstance(operation, BindMount):
            continue
        mapped = bool(operation.uid_map) or operation.options.idmap
        if not foreign and not mapped:
            continue
        try:
            operation.source_fd = operation.open_source()
            borrowed.push(os.close, operation.source_fd)
            m.set_attributes(operation.source_fd, propagation=m.MS_SLAVE, recursive=True)
            if mapped:
                _map_mount(operation, spec)
        except OSError as error:
            raise RuntimeFailure.of(operation.describe(), error, operation.source) from error


def _map_mount(operation: BindMount, spec: Spec) -> None:
    """Map the ids of a mount by its own maps, else by those of the container."""
    uid_map, gid_map = operation.uid_map or spec.uid_map, operation.gid_map or spec.gid_map
    if not uid_map:
        raise InvalidArgument(f"mount {operation.destination}: idmap needs uidMappings and gidMappings")
    with OwnedFd(ns.user_namespace(uid_map, gid_map)) as user:
        m.set_attributes(
            operation.source_fd,
            m.MOUNT_ATTR_IDMAP,
            recursive=operation.options.idmap_recursive,
            userns_fd=user.fileno(),
        )
