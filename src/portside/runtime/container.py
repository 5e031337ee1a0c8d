"""A container from its creation to its removal: what runc does, in this process.

``Container.create`` makes control group, namespaces and root and leaves the first process waiting just before execve;
``start`` lets it go. Reaping the processes (init and those of ``exec``) is the caller's, through their pid or pidfd.
What belongs here: the order of things and what is taken back after a failure. What does not: what happens inside the
new processes (``init``, ``exec``), standard streams and events (the shim).

The calling process must have one thread only. Nothing is kept on disk: the object is the container's record.
Source: runtime-spec runtime.md, *Operations*.
"""

from __future__ import annotations

import fcntl
import os
import signal as signals

from portside.errors import FailedPrecondition, NotFound
from portside.linux import namespaces as ns
from portside.linux import pidfd as pidfds
from portside.linux.cgroups import Cgroup
from portside.linux.fd import OwnedFd
from portside.linux.seccomp import FilterCache
from portside.runtime import dialogue, maker, prepare
from portside.runtime import exec as executor
from portside.runtime import hooks as hook_runner
from portside.runtime import init as first
from portside.runtime.devices import default_rules
from portside.runtime.failure import RuntimeFailure
from portside.runtime.listener import Listener
from portside.runtime.naming import cgroup_path, check_id
from portside.runtime.plan import root_plan
from portside.runtime.program import Program
from portside.runtime.spec import NAMESPACE_KINDS, ProcessSpec, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.linux.seccomp import Filter


class Stdio:
    """What a process gets as standard streams: three descriptors (borrowed; -1 for /dev/null), or a terminal.

    ``width`` and ``height`` are the terminal's size in characters, 0 to take that of the spec.
    """

    __slots__ = ("height", "stderr", "stdin", "stdout", "terminal", "width")

    def __init__(
        self,
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        terminal: bool = False,
        width: int = 0,
        height: int = 0,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal
        self.width = width
        self.height = height


class Process:
    """A process in a container. ``pidfd`` and ``console`` (a terminal's master, or -1) are the receiver's to close."""

    __slots__ = ("console", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console: int = -1) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console


class Container:
    """One container. Made by ``create``; ``delete`` ends its life."""

    __slots__ = (
        "_channel", "_deleted", "_filter", "_group_made", "_keyring", "_listener", "_pidfd", "_spec", "_systemd",
        "bundle", "cgroup", "id", "init", "warnings",
    )  # fmt: skip

    def __init__(self, id: str, bundle: str, spec: Spec, cgroup: Cgroup, seccomp: Filter | None, keyring: str) -> None:
        self.id = id
        self.bundle = bundle
        self.cgroup = cgroup
        self.init = Process(-1, -1)
        self.warnings: list[str] = []
        """Things that were asked and could not be given, without harm; for the log."""
        self._spec = spec
        self._filter = seccomp
        self._listener: Listener | None = None
        self._keyring = keyring
        self._channel: dialogue.Channel | None = None
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
    ) -> Container:
        """Make the container up to the point before execve.

        ``spec`` is the parsed config.json. ``rootfs_fd`` is a detached mount (fsmount, open_tree) that becomes the root
        (stays the caller's); else the directory ``rootfs``, else the spec's ``root.path`` below ``bundle``.
        ``cache_dir`` keeps compiled seccomp filters. Raises ``InvalidArgument`` naming a field of the spec, or
        ``RuntimeFailure``; then no process, mount, control group or descriptor is left.
        """
        check_id(id)
        parsed = Spec(spec)
        seccomp = _filters(cache_dir).get(parsed.seccomp) if parsed.seccomp else None
        cgroup = Cgroup.open(cgroup_path(parsed.cgroups_path, id, systemd_cgroup), systemd=systemd_cgroup)
        keyring = "" if no_new_keyring else f"_ses.{id}"
        made = cls(id, os.path.abspath(bundle), parsed, cgroup, seccomp, keyring)
        made._systemd = systemd_cgroup
        if seccomp is not None and seccomp.notifies:
            made._listener = Listener(parsed.seccomp)
        try:
            made._create(stdio, rootfs_fd, rootfs, no_pivot)
        except RuntimeFailure as failure:
            raise failure.within(f"create container {id}") from failure
        except OSError as error:
            raise RuntimeFailure.of(f"create container {id}", error) from error
        return made

    def _create(self, stdio: Stdio, rootfs_fd: int, rootfs: str, no_pivot: bool) -> None:
        spec, undo, borrowed = self._spec, maker.Undo(), maker.Undo()
        try:
            program = Program(spec.process, self._filter, self._keyring, spec.personality, "user" in spec.namespaces)
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
            undo.push(self._close_console)
            self._make_cgroup()
            launch.groups = prepare.open_groups(self.cgroup, borrowed)
            child = self._clone(launch)
            undo.push(child.destroy)
            self._converse(child)
            self.init.pid, self.init.pidfd = child.pid, child.pidfd
            self._pidfd = fcntl.fcntl(child.pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
            self._channel = child.channel
            undo.keep()
        finally:
            borrowed.run()
            undo.run()

    def _clone(self, launch: first.Launch) -> maker.Child:
        """Clone the first process, or the one between, in its control groups."""
        between = prepare.needs_between(launch)
        flags = ns.CLONE_CLEAR_SIGHAND if between else first.clone_flags(launch.fresh)
        run = first.between if between else first.run
        child = maker.spawn_in(self.cgroup, lambda channel: run(launch, channel), flags)
        if between:
            child.between = (child.pid, child.pidfd)
        return child

    def _make_cgroup(self) -> None:
        resources = self._spec.resources
        if resources.get("devices"):
            resources = {**resources, "devices": [*resources["devices"], *default_rules()]}
        self.cgroup = Cgroup.create(self.cgroup.path, resources, systemd=self._systemd)
        self._group_made = True

    def _remove_cgroup(self) -> None:
        if self._group_made:
            self.cgroup.kill()
            self.cgroup.remove()

    def _converse(self, child: maker.Child) -> None:
        """Answer the new process until it is ready to execve."""
        if child.between is not None:
            child.adopt()
        score = self._spec.process.oom_score_adj
        if score is not None:
            maker.set_oom_score_adj(child.pid, score)
        while True:
            kind, payload, fd = child.message()
            if kind == dialogue.READY:
                self.warnings += filter(None, payload.decode().split("\n"))
                return
            if kind == dialogue.MAP_IDS:
                self._map_ids(child)
            elif kind == dialogue.HOOKS:
                self._run_hooks(("prestart", "createRuntime"), "creating", child.pid)
                maker.tell(child.channel, dialogue.HOOKS_DONE)
            elif kind == dialogue.CONSOLE and fd >= 0:
                self.init.console = fd
            else:
                raise RuntimeFailure("", reason=f"unexpected message {kind!r}")

    def _map_ids(self, child: maker.Child) -> None:
        try:
            ns.write_id_maps(child.pid, self._spec.uid_map, self._spec.gid_map, deny_setgroups=os.geteuid() != 0)
        except OSError as error:
            raise RuntimeFailure.of("map user and group ids", error) from error
        maker.tell(child.channel, dialogue.IDS_MAPPED)

    def _close_console(self) -> None:
        if self.init.console >= 0:
            os.close(self.init.console)
            self.init.console = -1

    def _run_hooks(self, kinds: tuple[str, ...], status: str, pid: int) -> None:
        for kind in kinds:
            hooks = self._spec.hooks[kind]
            if hooks:
                state = hook_runner.state_json(self._spec, self.id, self.bundle, status, pid)
                hook_runner.run_hooks(kind, hooks, state)

    def start(self) -> None:
        """Let the first process exec. ``RuntimeFailure`` if it cannot: it ends then, and is the caller's to reap."""
        step = f"start container {self.id}"
        if self._channel is None:
            raise FailedPrecondition(f"{step}: it has been started")
        channel, self._channel = self._channel, None
        try:
            self._let_go(channel, self.init.pid)
        except RuntimeFailure as failure:
            raise failure.within(step) from failure
        finally:
            channel.close()
        try:
            self._run_hooks(("poststart",), "running", self.init.pid)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))

    def exec(self, process: dict[str, Any], stdio: Stdio) -> Process:
        """Run a further process (the spec's ``process`` object) in the container; returns after its execve succeeded.

        It joins all namespaces and the control group. ``RuntimeFailure`` if it could not be run: nothing is left then.
        """
        step = f"exec in container {self.id}"
        parsed = ProcessSpec(process)
        if self._deleted or self._channel is not None or pidfds.wait_exit(self._pidfd, 0):
            raise FailedPrecondition(f"{step}: the container is not running")
        if self.cgroup.frozen():
            raise FailedPrecondition(f"{step}: cannot exec in a paused container")
        try:
            return self._exec(parsed, stdio)
        except RuntimeFailure as failure:
            raise failure.within(step) from failure
        except OSError as error:
            raise RuntimeFailure.of(step, error) from error

    def _exec(self, process: ProcessSpec, stdio: Stdio) -> Process:
        spec, undo, borrowed = self._spec, maker.Undo(), maker.Undo()
        made = Process(-1, -1)
        try:
            entry = executor.Entry()
            in_user = "user" in spec.namespaces
            entry.program = Program(process, self._filter, self._keyring, spec.personality, in_user)
            entry.target, entry.root_fd = self._pidfd, -1
            entry.kinds = 0
            for kind in spec.namespaces:
                entry.kinds |= NAMESPACE_KINDS[kind]
            if "mount" not in spec.namespaces:
                entry.root_fd = os.open(f"/proc/{self.init.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                borrowed.push(os.close, entry.root_fd)
            entry.terminal_size = _terminal_size(stdio, process)
            entry.stdio = _standard(stdio, borrowed)
            entry.groups = prepare.open_groups(self.cgroup, borrowed)
            flags = ns.CLONE_CLEAR_SIGHAND
            child = maker.spawn_in(self.cgroup, lambda channel: executor.between(entry, channel), flags, self.init.pid)
            undo.push(child.destroy)
            child.adopt()
            if process.oom_score_adj is not None:
                maker.set_oom_score_adj(child.pid, process.oom_score_adj)
            self._await_exec(child, made, undo)
            made.pid, made.pidfd = child.pid, child.pidfd
            child.channel.close()
            undo.keep()
        finally:
            borrowed.run()
            undo.run()
        return made

    def _await_exec(self, child: maker.Child, made: Process, undo: maker.Undo) -> None:
        """Answer the new process until its execve has succeeded."""
        while True:
            kind, payload, fd = child.message()
            if kind == dialogue.READY:
                self.warnings += filter(None, payload.decode().split("\n"))
                break
            if kind != dialogue.CONSOLE or fd < 0:
                raise RuntimeFailure("", reason=f"unexpected message {kind!r}")
            made.console = fd
            undo.push(os.close, fd)
        self._let_go(child.channel, child.pid)

    def _let_go(self, channel: dialogue.Channel, pid: int) -> None:
        """Tell a process that is ready to go on; returns when its execve has succeeded (or it was killed before)."""
        try:
            channel.send(dialogue.START)
            while True:
                kind, payload, fd = channel.receive()
                if kind == dialogue.FAILED:
                    raise dialogue.decode_failure(payload)
                if kind == dialogue.LISTENER and fd >= 0 and self._listener is not None:
                    with OwnedFd(fd):
                        self._hand_over(self._listener, fd, pid)
        except dialogue.PeerGone:
            return

    def _hand_over(self, listener: Listener, fd: int, pid: int) -> None:
        """Give the listener of process ``pid`` to the agent; without one nobody answers, so the process is killed."""
        state = hook_runner.state_json(self._spec, self.id, self.bundle, "running", self.init.pid)
        try:
            listener.hand_over(fd, pid, state)
        except RuntimeFailure:
            os.kill(pid, signals.SIGKILL)
            raise

    def kill(self, signal: int, all: bool = False) -> None:
        """Send a signal to the first process, or to every process of the container; ``NotFound`` if it has gone.

        Without a pid namespace of its own, SIGKILL goes to every process: nothing else would end the others.
        """
        if signal == signals.SIGKILL:
            own_pids = self._spec.namespaces.get("pid") == ""
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
        try:
            self._run_hooks(("poststop",), "stopped", 0)
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))


def pidfds_signal(pidfd: int, number: int, id: str) -> None:
    """Signal the first process of container ``id``; ``NotFound`` if it has been reaped."""
    try:
        pidfds.send_signal(pidfd, number)
    except ProcessLookupError:
        raise NotFound(f"container {id}: not running") from None


_caches: dict[str, FilterCache] = {}


def _filters(directory: str) -> FilterCache:
    """One cache for each directory in the life of this process."""
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
