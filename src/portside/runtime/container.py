"""A container from its creation to its removal: what runc does, in this process.

``Container.create`` makes control group, namespaces and root and leaves the first process waiting just before execve;
``start`` lets it go. Reaping the processes (init and those of ``exec``) is the caller's, through their pid or pidfd.
What belongs here: the order of things and what is taken back after a failure. What does not: what happens inside the
new processes (``init``, ``exec``), standard streams and events (the shim).

The calling process must have one thread only. Nothing is kept on disk: the object is the container's record.
Source: runtime-spec runtime.md, *Operations*.
"""

from __future__ import annotations

import os

from portside.errors import FailedPrecondition, NotFound
from portside.linux import namespaces as ns
from portside.linux import pidfd as pidfds
from portside.linux import signals
from portside.linux.cgroups import Cgroup
from portside.linux.fd import OwnedFd
from portside.linux.seccomp import FilterCache
from portside.runtime import exec as executor
from portside.runtime import hooks as hook_runner
from portside.runtime import init as first
from portside.runtime import maker, making, prepare
from portside.runtime.devices import default_rules
from portside.runtime.failure import RuntimeFailure, Within
from portside.runtime.listener import Listener
from portside.runtime.naming import cgroup_path, check_id
from portside.runtime.plan import root_plan
from portside.runtime.process import Process, Stdio
from portside.runtime.program import Program
from portside.runtime.spec import NAMESPACE_KINDS, ProcessSpec, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from portside.linux.seccomp import Filter
    from portside.runtime.dialogue import Channel


class Container:
    """One container. Made by ``create``; ``delete`` ends its life."""

    __slots__ = (
        "_channel", "_deleted", "_filter", "_group_made", "_keyring", "_listener", "_pidfd", "_systemd",
        "bundle", "cgroup", "id", "init", "spec", "warnings",
    )  # fmt: skip

    def __init__(self, id: str, bundle: str, spec: Spec, cgroup: Cgroup, seccomp: Filter | None, keyring: str) -> None:
        self.id = id
        self.bundle = bundle
        self.cgroup = cgroup
        self.init = Process(-1, -1)
        self.warnings: list[str] = []
        """Things that were asked and could not be given, without harm; for the log."""
        self.spec = spec
        self._filter = seccomp
        self._listener: Listener | None = None
        self._keyring = keyring
        self._channel: Channel | None = None
        self._pidfd = -1
        self._systemd = False
        self._group_made = False
        self._deleted = False

    @classmethod
    def create(
        cls,
        id: str,
        bundle: str,
        spec: dict[str, Any],
        stdio: Stdio,
        *,
        rootfs_fd: int = -1,
        rootfs: str = "",
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        systemd_cgroup: bool = False,
        cache_dir: str = "",
    ) -> Self:
        """Make the container up to the point before execve.

        ``spec`` is the parsed config.json. ``rootfs_fd`` is a detached mount (fsmount, open_tree) that becomes the root
        (stays the caller's); else the directory ``rootfs``, else the spec's ``root.path`` below ``bundle``.
        ``cache_dir`` keeps compiled seccomp filters. Raises ``InvalidArgument`` naming a field of the spec, or
        ``RuntimeFailure``; then no process, mount, control group or descriptor is left.
        """
        made = cls.prepare(
            id, bundle, spec, no_new_keyring=no_new_keyring, systemd_cgroup=systemd_cgroup, cache_dir=cache_dir
        )
        creation = made.begin_create(stdio, rootfs_fd=rootfs_fd, rootfs=rootfs, no_pivot=no_pivot)
        try:
            while creation.poll(wait=True) == making.HOOKS:
                creation.run_hooks()
                creation.hooks_done()
        except BaseException:
            creation.abandon()
            raise
        return made

    @classmethod
    def prepare(
        cls,
        id: str,
        bundle: str,
        spec: dict[str, Any],
        *,
        no_new_keyring: bool = False,
        systemd_cgroup: bool = False,
        cache_dir: str = "",
    ) -> Self:
        """The container as its spec has it, checked; ``begin_create`` makes it. See ``create``."""
        check_id(id)
        parsed = Spec(spec)
        seccomp = filters(cache_dir).get(parsed.seccomp) if parsed.seccomp else None
        cgroup = Cgroup.open(cgroup_path(parsed.cgroups_path, id, systemd_cgroup), systemd=systemd_cgroup)
        keyring = "" if no_new_keyring else f"_ses.{id}"
        made = cls(id, os.path.abspath(bundle), parsed, cgroup, seccomp, keyring)
        made._systemd = systemd_cgroup
        if seccomp is not None and seccomp.notifies:
            made._listener = Listener(parsed.seccomp)
        return made

    def begin_create(
        self, stdio: Stdio, *, rootfs_fd: int = -1, rootfs: str = "", no_pivot: bool = False
    ) -> making.Creation:
        """Clone the first process; the container is made when the creation is DONE. See ``create``."""
        step = f"create container {self.id}"
        spec, undo, borrowed = self.spec, maker.Undo(), maker.Undo()
        try:
            with Within(step):
                program = Program(
                    spec.process, self._filter, self._keyring, spec.personality, "user" in spec.namespaces
                )
                self.warnings += program.warnings
                launch = first.Launch()
                launch.spec, launch.program, launch.cgroup = spec, program, self.cgroup
                launch.bundle, launch.no_pivot = self.bundle, no_pivot
                launch.plan = root_plan(spec, self.bundle)
                launch.rootfs = rootfs or os.path.join(self.bundle, spec.root or "rootfs")
                launch.rootfs_fd = rootfs_fd
                launch.state = hook_runner.state_json(spec, self.id, self.bundle, "creating", 0)
                launch.terminal_size = _terminal_size(stdio, spec.process)
                launch.stdio = _standard(stdio, borrowed)
                prepare.open_namespaces(launch, borrowed)
                prepare.open_sources(launch, borrowed)
                undo.push(self._remove_cgroup)
                self._make_cgroup()
                launch.groups = prepare.open_groups(self.cgroup, borrowed)
                child = self._clone(launch)
                undo.push(child.destroy)
                return making.Creation(self, child, undo, step)
        except BaseException:
            undo.run()
            raise
        finally:
            borrowed.run()

    def created(self, child: maker.Child, pidfd: int, console: int) -> None:
        """Its creation is over: ``child`` waits for START; ``pidfd`` is ours."""
        self.init = Process(child.pid, child.pidfd, console)
        self._pidfd = pidfd
        self._channel = child.channel

    def _clone(self, launch: first.Launch) -> maker.Child:
        """Clone the first process, or the one between, in its control groups."""
        between = prepare.needs_between(launch)
        flags = ns.CLONE_CLEAR_SIGHAND if between else first.clone_flags(launch.fresh)
        run = first.between if between else first.run
        child = maker.spawn_in(self.cgroup, lambda channel: run(launch, channel), flags)
        if between:
            child.expect_another()
        return child

    def _make_cgroup(self) -> None:
        resources = self.spec.resources
        if resources.get("devices"):
            resources = {**resources, "devices": [*resources["devices"], *default_rules()]}
        self.cgroup = Cgroup.create(self.cgroup.path, resources, systemd=self._systemd)
        self._group_made = True

    def _remove_cgroup(self) -> None:
        if self._group_made:
            self.cgroup.kill()
            self.cgroup.remove()

    def _run_hooks(self, kinds: tuple[str, ...], status: str, pid: int) -> None:
        for kind in kinds:
            hooks = self.spec.hooks[kind]
            if hooks:
                state = hook_runner.state_json(self.spec, self.id, self.bundle, status, pid)
                hook_runner.run_hooks(kind, hooks, state)

    def start(self) -> None:
        """Let the first process exec. ``RuntimeFailure`` if it cannot: it ends then, and is the caller's to reap."""
        start = self.begin_start()
        try:
            with Within(f"start container {self.id}"):
                while start.poll(wait=True) == making.LISTENER:
                    with OwnedFd(start.take_listener()) as listener:
                        self.hand_listener_over(listener.fileno(), self.init.pid)
        finally:
            start.abandon()
        try:
            self._run_hooks(("poststart",), "running", self.init.pid)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))

    def begin_start(self) -> making.Start:
        """Tell the first process to go on, once; the start is the caller's to poll and to abandon."""
        if self._channel is None:
            raise FailedPrecondition(f"start container {self.id}: it has been started")
        channel, self._channel = self._channel, None
        return making.Start(channel)

    def exec(self, process: dict[str, Any], stdio: Stdio) -> Process:
        """Run a further process (the spec's ``process`` object) in the container; returns after its execve succeeded.

        It joins all namespaces and the control group. ``RuntimeFailure`` if it could not be run: nothing is left then.
        """
        execution = self.begin_exec(process, stdio)
        try:
            while execution.poll(wait=True) == making.LISTENER:
                with OwnedFd(execution.take_listener()) as listener:
                    execution.hand_over(listener.fileno())
        except BaseException:
            execution.abandon()
            raise
        return execution.process

    def begin_exec(self, process: dict[str, Any], stdio: Stdio) -> making.Execution:
        """Clone the process; it runs when the execution is DONE. See ``exec``."""
        step = f"exec in container {self.id}"
        parsed = ProcessSpec(process)
        if self._deleted or self._channel is not None or pidfds.wait_exit(self._pidfd, 0):
            raise FailedPrecondition(f"{step}: the container is not running")
        if self.cgroup.frozen():
            raise FailedPrecondition(f"{step}: cannot exec in a paused container")
        spec, borrowed = self.spec, maker.Undo()
        try:
            with Within(step):
                entry = executor.Entry()
                in_user = "user" in spec.namespaces
                entry.program = Program(parsed, self._filter, self._keyring, spec.personality, in_user)
                entry.target, entry.root_fd = self._pidfd, -1
                entry.kinds = 0
                for kind in spec.namespaces:
                    entry.kinds |= NAMESPACE_KINDS[kind]
                if "mount" not in spec.namespaces:
                    entry.root_fd = os.open(f"/proc/{self.init.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    borrowed.push(os.close, entry.root_fd)
                entry.terminal_size = _terminal_size(stdio, parsed)
                entry.stdio = _standard(stdio, borrowed)
                entry.groups = prepare.open_groups(self.cgroup, borrowed)
                flags = ns.CLONE_CLEAR_SIGHAND
                child = maker.spawn_in(
                    self.cgroup, lambda channel: executor.between(entry, channel), flags, self.init.pid
                )
        finally:
            borrowed.run()
        child.expect_another()
        undo = maker.Undo()
        undo.push(child.destroy)
        return making.Execution(self, child, undo, step, parsed.oom_score_adj)

    def hand_listener_over(self, fd: int, pid: int) -> None:
        """Give the listener of process ``pid`` to the agent; without one nobody answers, so the process is killed.

        RuntimeFailure then. ``fd`` stays the caller's.
        """
        if self._listener is None:
            return
        state = hook_runner.state_json(self.spec, self.id, self.bundle, "running", self.init.pid)
        try:
            self._listener.hand_over(fd, pid, state)
        except RuntimeFailure:
            os.kill(pid, signals.SIGKILL)
            raise

    def kill(self, signal: int, all: bool = False) -> None:
        """Send a signal to the first process, or to every process of the container; ``NotFound`` if it has gone.

        Without a pid namespace of its own, SIGKILL goes to every process: nothing else would end the others.
        """
        if signal == signals.SIGKILL:
            own_pids = self.spec.namespaces.get("pid") == ""
            if all or not own_pids:
                self.cgroup.kill(signal)
                return
            if self.cgroup.frozen():
                pidfds_signal(self._pidfd, signal, self.id)
                self.cgroup.thaw()
                return
        elif all:
            self.cgroup.kill(signal)
            return
        pidfds_signal(self._pidfd, signal, self.id)

    def pause(self) -> None:
        """Freeze all processes; returns when they are frozen."""
        self.cgroup.freeze()

    def resume(self) -> None:
        """Let frozen processes go on."""
        self.cgroup.thaw()

    def pids(self) -> list[int]:
        """The processes of the container as this process sees them."""
        return self.cgroup.pids()

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits (a spec's ``linux.resources``); what is not named stays."""
        self.cgroup.update(resources)

    def stats(self) -> tuple[str, dict[str, Any]]:
        """("v1" or "v2", fields of the Metrics message of that version)."""
        return f"v{self.cgroup.version}", self.cgroup.stats()

    def delete(self, force: bool = False) -> None:
        """Remove what is left: the processes in the control group are killed, it goes. A second call does nothing.

        ``FailedPrecondition`` while the first process runs, unless ``force``; one that waits for ``start`` is killed.
        """
        if self._deleted:
            return
        self.remove(force)
        try:
            self._run_hooks(("poststop",), "stopped", 0)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))

    def remove(self, force: bool) -> None:
        """``delete`` without the hooks at its end."""
        running = self._channel is None and not pidfds.wait_exit(self._pidfd, 0)
        if running and not force:
            raise FailedPrecondition(f"delete container {self.id}: it is running")
        try:
            self.cgroup.kill(signals.SIGKILL)
            if self._channel is not None:
                self._channel.close()  # after the kill: at the end of file it would leave by itself
                self._channel = None
            # Not waiting for the first process itself: it ends only when those of exec have been reaped, by our caller.
            self.cgroup.remove()
        except OSError as error:
            raise RuntimeFailure.of(f"delete container {self.id}", error) from error
        self._deleted = True
        os.close(self._pidfd)
        self._pidfd = -1


def pidfds_signal(pidfd: int, number: int, id: str) -> None:
    """Signal the first process of container ``id``; ``NotFound`` if it has been reaped."""
    try:
        pidfds.send_signal(pidfd, number)
    except ProcessLookupError:
        raise NotFound(f"container {id}: not running") from None


_caches: dict[str, FilterCache] = {}


def filters(directory: str) -> FilterCache:
    """Compiled seccomp filters, kept in ``directory``: one cache for each directory in the life of this process."""
    found = _caches.get(directory)
    if found is None:
        found = _caches[directory] = FilterCache(directory)
    return found


def _terminal_size(stdio: Stdio, process: ProcessSpec) -> tuple[int, int] | None:
    if not stdio.terminal:
        return None
    return (stdio.width or process.width, stdio.height or process.height)


def _standard(stdio: Stdio, borrowed: maker.Undo) -> tuple[int, int, int]:
    """The descriptors for a new process under numbers that do not get into each other's way."""
    wanted = (-1, -1, -1) if stdio.terminal else (stdio.stdin, stdio.stdout, stdio.stderr)
    opened, mine = maker.open_stdio(*wanted)
    placed, copies = maker.movable(opened)
    for fd in (*mine, *copies):
        borrowed.push(os.close, fd)
    return placed
