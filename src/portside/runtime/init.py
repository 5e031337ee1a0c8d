"""The first process of a container, from clone to execve. Runs in the new process only.

One thread, no imports, no logging: a failure goes to the maker as a message (``dialogue``) and the process leaves by
``os._exit``. Order matters throughout; each step says why where that is not plain.
"""

from __future__ import annotations

import errno
import gc
import os

from portside.linux import mount as m
from portside.linux import namespaces as ns
from portside.linux import netns, process
from portside.linux.fd import O_PATH
from portside.runtime import dialogue, group, plan
from portside.runtime import hooks as hook_runner
from portside.runtime import root as roots
from portside.runtime.devices import mount_console, open_console
from portside.runtime.dialogue import Channel, PeerGone
from portside.runtime.failure import RuntimeFailure
from portside.runtime.options import propagation_flag
from portside.runtime.program import place_stdio, take_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from portside.linux.cgroups import Cgroup
    from portside.runtime.plan import RootPlan
    from portside.runtime.program import Program
    from portside.runtime.spec import Spec


class Launch:
    """Everything that the new process needs, made ready by the maker before the clone.

    ``joins``: (descriptor, CLONE_NEW*) of namespaces to join. ``fresh``: CLONE_NEW* flags of new ones. ``groups``: of
    ``group.join``. ``rootfs_fd``: a detached mount for the root, or -1; ``rootfs``: where it is, or is to be attached.
    """

    __slots__ = (
        "bundle", "cgroup", "fresh", "groups", "joins", "no_pivot", "plan", "program", "rootfs", "rootfs_fd", "spec",
        "state", "stdio", "terminal_size",
    )  # fmt: skip

    spec: Spec
    plan: RootPlan
    program: Program
    cgroup: Cgroup
    bundle: str
    fresh: int
    groups: list[int]
    joins: list[tuple[int, int]]
    rootfs: str
    rootfs_fd: int
    no_pivot: bool
    stdio: tuple[int, int, int]
    terminal_size: tuple[int, int] | None
    state: bytes

    def descriptors(self) -> list[int]:
        """What must stay open in the new process, besides its standard streams and the channel."""
        sources = [getattr(each, "source_fd", -1) for each in self.plan.mounts]
        joined = [fd for fd, _ in self.joins]
        return [self.rootfs_fd, *self.groups, *joined, *sources]


def leave(channel: Channel, error: BaseException) -> NoReturn:
    """Tell the maker why, and end this process."""
    try:
        if isinstance(error, OSError):
            error = RuntimeFailure.of("", error)
        if not isinstance(error, PeerGone):
            if not isinstance(error, RuntimeFailure):
                error = RuntimeFailure("internal error", reason=f"{type(error).__name__}: {error}")
            channel.send(dialogue.FAILED, dialogue.encode_failure(error))
    finally:
        os._exit(1)


def run(launch: Launch, channel: Channel) -> NoReturn:
    """Be the first process."""
    try:
        gc.disable()  # it would touch, and so copy, every page of our maker's objects
        place_stdio(launch.stdio)
        process.close_all_but([0, 1, 2, channel.fileno(), *launch.descriptors()])
        group.join(launch.groups)
        _run(launch, channel)
    except BaseException as error:
        leave(channel, error)
    os._exit(1)


def _run(launch: Launch, channel: Channel) -> None:
    spec = launch.spec
    process.reset_signals()
    os.umask(0)
    os.setsid()
    if launch.fresh & ns.CLONE_NEWUSER:
        channel.send(dialogue.MAP_IDS)
        channel.expect(dialogue.IDS_MAPPED)
        become_namespace_root()
    join_namespaces(launch.joins)
    _fresh_namespaces(launch, channel)
    root = roots.Root(
        "user" in spec.namespaces, "cgroup" in spec.namespaces, launch.cgroup, lambda: channel.expect(dialogue.JOINED)
    )
    if launch.fresh & ns.CLONE_NEWNS:
        _file_system(launch, channel, root)
    else:
        _shared_file_system(launch, channel)
    channel.expect(dialogue.JOINED)
    inside = os.open("/", O_PATH | os.O_DIRECTORY)
    launch.program.settle(inside, True, root.proc)
    os.close(inside)
    root.close()
    launch.program.find()
    channel.send(dialogue.READY, "\n".join(launch.program.late_warnings).encode())
    channel.expect(dialogue.START)
    # A relative working directory was entered in settle; nothing after this looks at paths except execve.
    launch.program.execute(
        spec.hooks["startContainer"], launch.state, lambda fd: channel.send(dialogue.LISTENER, fd=fd)
    )


def become_namespace_root() -> None:
    """Be user and group 0 of a user namespace whose maps are there; without that we own nothing in it."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise RuntimeFailure.of("become root of the user namespace", error) from error
    # What a change of ids does to this depends on a sysctl; we stay closed to others until execve.
    process.set_dumpable(0)
    try:
        os.setgroups([])
    except PermissionError:
        return  # the namespace of somebody without privilege: setgroups is denied in it


def join_namespaces(joins: list[tuple[int, int]]) -> None:
    """Join these, in this order (a user namespace first: it decides about the rights in the others)."""
    for fd, kind in joins:
        try:
            ns.setns(fd, kind)
        except OSError as error:
            raise RuntimeFailure.of("join namespace", error) from error


def _fresh_namespaces(launch: Launch, channel: Channel) -> None:
    """What clone3 could not do at once, and first things in those that it made."""
    spec = launch.spec
    if launch.fresh & ns.CLONE_NEWCGROUP:
        channel.expect(dialogue.JOINED)  # its root is the group that we are in at this moment
        ns.unshare(ns.CLONE_NEWCGROUP)
    if launch.fresh & ns.CLONE_NEWTIME:
        _time_namespace(spec.time_offsets)
    if launch.fresh & ns.CLONE_NEWNET:
        netns.loopback_up()
    try:
        if spec.hostname:
            process.set_hostname(spec.hostname)
        if spec.domainname:
            process.set_domainname(spec.domainname)
    except OSError as error:
        raise RuntimeFailure.of("set host name", error) from error


def _time_namespace(offsets: dict[str, tuple[int, int]]) -> None:
    """Offsets can only be set before a process is inside: so it is made for children first, then joined."""
    try:
        ns.unshare(ns.CLONE_NEWTIME)
        # Files below /proc/self belong to the outer root while we are closed to others.
        process.set_dumpable(1)
        if offsets:
            lines = "".join(f"{clock} {seconds} {nanos}\n" for clock, (seconds, nanos) in offsets.items())
            fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, lines.encode())
            finally:
                os.close(fd)
        fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ns.setns(fd, ns.CLONE_NEWTIME)
        finally:
            os.close(fd)
        process.set_dumpable(0)
    except OSError as error:
        raise RuntimeFailure.of("make time namespace", error) from error


def _file_system(launch: Launch, channel: Channel, root: roots.Root) -> None:
    """Make the root in our new mount namespace and enter it."""
    spec = launch.spec
    _attach_root(launch, root)
    if spec.sysctl:
        roots.set_sysctl(root.proc(), spec.sysctl)
    for operation in launch.plan.mounts:
        operation.apply(root)
    for operation in launch.plan.devices:
        operation.apply(root)
    if launch.terminal_size is not None:
        _console(launch, channel, root)
    _early_hooks(launch, channel)
    for operation in launch.plan.covers:
        operation.apply(root)
    try:
        for fd, attributes in root.late:
            m.set_attributes(fd, attributes)
        root.check_proc()
        _enter_root(launch, root)
    except OSError as error:
        raise RuntimeFailure.of("enter the root file system", error, launch.rootfs) from error


def _attach_root(launch: Launch, root: roots.Root) -> None:
    spec = launch.spec
    try:
        initial = plan.initial_propagation(spec.rootfs_propagation)
        if spec.rootfs_propagation.endswith("shared"):
            roots.make_parent_private(launch.rootfs)
        else:
            m.mount("", "/", "", initial)
        place = _open_place(launch.rootfs, root.user_namespace)
        if launch.rootfs_fd < 0:
            root.fd = m.clone_mount(-100, launch.rootfs, recursive=True)
        else:
            root.fd = launch.rootfs_fd
            # A copy of a shared mount is shared, which pivot_root does not take.
            m.set_attributes(root.fd, propagation=m.MS_SLAVE, recursive=True)
        m.attach_mount(root.fd, place)
        if spec.rootfs_propagation.endswith("shared"):
            m.set_attributes(root.fd, propagation=m.MS_PRIVATE)
        os.close(place)
    except OSError as error:
        raise RuntimeFailure.of("prepare the root file system", error, launch.rootfs) from error


def _open_place(rootfs: str, user_namespace: bool) -> int:
    """Where to attach the root. Root of a user namespace may not reach ``rootfs``; then any other directory will do.

    It has to be opened here: a descriptor of the maker's belongs to its mount namespace.
    """
    for path in (rootfs, "/tmp", "/run", "/mnt", "/var"):
        try:
            return os.open(path, O_PATH | os.O_DIRECTORY)
        except OSError:
            if not user_namespace or path == "/var":
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), rootfs)


def _console(launch: Launch, channel: Channel, root: roots.Root) -> None:
    width, height = launch.terminal_size or (0, 0)
    try:
        master, peer = open_console(root.fd, width, height)
        mount_console(root, peer)
    except OSError as error:
        raise RuntimeFailure.of("make the console", error) from error
    channel.send(dialogue.CONSOLE, fd=master)
    os.close(master)
    take_terminal(peer)


def _early_hooks(launch: Launch, channel: Channel) -> None:
    hooks = launch.spec.hooks
    if hooks["prestart"] or hooks["createRuntime"]:
        channel.send(dialogue.HOOKS)
        channel.expect(dialogue.HOOKS_DONE)
    if hooks["createContainer"]:
        hook_runner.run_hooks("createContainer", hooks["createContainer"], launch.state)


def _enter_root(launch: Launch, root: roots.Root) -> None:
    spec = launch.spec
    if launch.no_pivot:
        roots.move_root(root.fd)
    else:
        roots.pivot(root.fd)
    if spec.rootfs_propagation:
        flag, recursive = propagation_flag(spec.rootfs_propagation)
        m.set_attributes(root.fd, propagation=flag, recursive=recursive)
    if spec.root_readonly:
        m.set_attributes(root.fd, m.MOUNT_ATTR_RDONLY)
    os.close(root.fd)


def _shared_file_system(launch: Launch, channel: Channel) -> None:
    """No mount namespace of our own: the root of the one we joined, or a directory of the host's."""
    spec = launch.spec
    try:
        if "mount" not in spec.namespaces:
            os.chroot(launch.rootfs)
        os.chdir("/")
    except OSError as error:
        raise RuntimeFailure.of("enter the root file system", error, launch.rootfs) from error
    _early_hooks(launch, channel)
    if launch.terminal_size is None:
        return
    inside = os.open("/", O_PATH | os.O_DIRECTORY)
    try:
        master, peer = open_console(inside, *launch.terminal_size)
    except OSError as error:
        raise RuntimeFailure.of("make the console", error) from error
    finally:
        os.close(inside)
    channel.send(dialogue.CONSOLE, fd=master)
    os.close(master)
    take_terminal(peer)


def between(launch: Launch, channel: Channel) -> NoReturn:
    """A process in between: joins what only children get, makes the first process as its own sibling, and goes.

    Needed where a pid or user namespace is joined, or a user namespace is new but others, owned by somebody else, are
    to be joined before we lose the rights there.
    """
    try:
        place_stdio(launch.stdio)
        launch.stdio = (0, 1, 2)
        process.close_all_but([0, 1, 2, channel.fileno(), *launch.descriptors()])
        group.join(launch.groups)
        launch.groups = []
        join_namespaces(launch.joins)
        if any(kind == ns.CLONE_NEWUSER for _, kind in launch.joins):
            become_namespace_root()
        launch.joins = []
        flags = clone_flags(launch.fresh)
        pid, _ = ns.clone3(flags | ns.CLONE_PARENT)
        if pid == 0:
            run(launch, channel)
        channel.send(dialogue.PID, str(pid).encode())
        os._exit(0)
    except BaseException as error:
        leave(channel, error)


def clone_flags(fresh: int) -> int:
    """What of the new namespaces clone3 makes; the others are made inside (``_fresh_namespaces``)."""
    return (fresh & ~(ns.CLONE_NEWCGROUP | ns.CLONE_NEWTIME)) | ns.CLONE_CLEAR_SIGHAND
