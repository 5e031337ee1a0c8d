"""A new process on its way to its program, seen by who made it: what it says, and what is answered.

A ``Creation`` goes from the clone of a container's first process until that waits for START, an ``Execution`` from the
clone to the execve, a ``Start`` from START to the execve. Each is polled, waiting or not, so that a loop can have many
of them beside each other; what may take long and is somebody else's (hooks, the agent of a seccomp filter) is left to
the caller. What is said stands in ``dialogue``; how things are prepared and cloned does not belong here.
"""

from __future__ import annotations

import fcntl
import os

from portside.linux import namespaces as ns
from portside.runtime import dialogue, maker
from portside.runtime import hooks as hook_runner
from portside.runtime.dialogue import PeerGone
from portside.runtime.failure import RuntimeFailure, Within
from portside.runtime.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portside.runtime.container import Container
    from portside.runtime.dialogue import Channel
    from portside.runtime.maker import Child, Undo

WAIT: Final = "wait"
"""It says no more now; look again when the descriptor is readable."""
HOOKS: Final = "hooks"
"""Its early hooks are to be run (``run_hooks``, then ``hooks_done``)."""
LISTENER: Final = "listener"
"""It has installed a seccomp filter whose agent is to get ``take_listener()``."""
DONE: Final = "done"
"""There is nothing left to hear."""


class Start:
    """From START to the execve of one process. ``poll`` until DONE, then ``abandon``. Owns the channel."""

    __slots__ = ("_channel", "_listener")

    def __init__(self, channel: Channel) -> None:
        """Tell the process to go on."""
        self._channel = channel
        self._listener = -1
        try:
            channel.send(dialogue.START)
        except PeerGone:
            pass  # It was killed before; its end tells.

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._channel.fileno()

    def poll(self, wait: bool) -> str:
        """WAIT (only without ``wait``), LISTENER or DONE. RuntimeFailure if there was no execve: it ends by itself."""
        try:
            kind, payload, fd = self._channel.receive(wait)
        except BlockingIOError:
            return WAIT
        except PeerGone:
            return DONE
        if kind == dialogue.FAILED:
            raise dialogue.decode_failure(payload)
        if kind == dialogue.LISTENER and fd >= 0:
            self._listener = fd
            return LISTENER
        raise RuntimeFailure("", reason=f"unexpected message {kind!r}")

    def take_listener(self) -> int:
        """The descriptor that came with LISTENER, the caller's."""
        fd, self._listener = self._listener, -1
        return fd

    def abandon(self) -> None:
        """Hear no more of it; the process goes its way."""
        self._channel.close()


class _Making:
    """What a creation and an execution have in common."""

    __slots__ = ("_child", "_container", "_step", "_undo", "console")

    def __init__(self, container: Container, child: Child, undo: Undo, step: str) -> None:
        self._container = container
        self._child = child
        self._undo = undo
        self._step = step
        self.console = -1
        """A terminal's master."""
        undo.push(self._close_console)

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._child.channel.fileno()

    @property
    def pid(self) -> int:
        """Of the process, once it is known."""
        return self._child.pid

    def abandon(self) -> None:
        """Give up: kill it, and take back everything that was made for it. Harmless when it is over."""
        self._undo.run()

    def poll(self, wait: bool) -> str:
        """Hear it, and go on; see the names above. RuntimeFailure if it cannot be made: ``abandon`` it then."""
        with Within(self._step):
            while True:
                try:
                    found = self._hear(wait)
                except BlockingIOError:
                    return WAIT
                if found:
                    return found

    def _hear(self, wait: bool) -> str:
        raise NotImplementedError

    def _hear_ready(self, payload: bytes, oom_score_adj: int | None) -> None:
        self._container.warnings += filter(None, payload.decode().split("\n"))
        if oom_score_adj is not None:
            maker.set_oom_score_adj(self._child.pid, oom_score_adj)

    def _close_console(self) -> None:
        fd, self.console = self.console, -1
        if fd >= 0:
            os.close(fd)


class Creation(_Making):
    """Of a container's first process, up to the point before execve. Made by ``Container.begin_create``."""

    __slots__ = ()

    @property
    def container(self) -> Container:
        """What is being made; whole once it is DONE."""
        return self._container

    def run_hooks(self) -> None:
        """Run the hooks ``prestart`` and ``createRuntime`` (in any process; they take as long as they take)."""
        container = self._container
        with Within(self._step):
            for kind in ("prestart", "createRuntime"):
                hooks = container.spec.hooks[kind]
                if hooks:
                    state = hook_runner.state_json(
                        container.spec, container.id, container.bundle, "creating", self._child.pid
                    )
                    hook_runner.run_hooks(kind, hooks, state)

    def hooks_done(self) -> None:
        """Go on after the hooks; the next ``poll`` tells if it has gone meanwhile."""
        try:
            self._child.channel.send(dialogue.HOOKS_DONE)
        except PeerGone:
            pass

    def _hear(self, wait: bool) -> str:
        kind, payload, fd = self._child.message(wait)
        if kind == dialogue.READY:
            self._hear_ready(payload, self._container.spec.process.oom_score_adj)
            self._finish()
            return DONE
        if kind == dialogue.HOOKS:
            return HOOKS
        if kind == dialogue.MAP_IDS:
            self._map_ids()
        elif kind == dialogue.CONSOLE and fd >= 0:
            self.console = fd
        else:
            raise RuntimeFailure("", reason=f"unexpected message {kind!r}")
        return ""

    def _map_ids(self) -> None:
        spec = self._container.spec
        try:
            ns.write_id_maps(self._child.pid, spec.uid_map, spec.gid_map, deny_setgroups=os.geteuid() != 0)
        except OSError as error:
            raise RuntimeFailure.of("map user and group ids", error) from error
        maker.tell(self._child.channel, dialogue.IDS_MAPPED)

    def _finish(self) -> None:
        child = self._child
        pidfd = fcntl.fcntl(child.pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._undo.keep()
        self._container.created(child, pidfd, self.console)


class Execution(_Making):
    """Of a further process in a container, up to its execve. Made by ``Container.begin_exec``."""

    __slots__ = ("_oom_score_adj", "_start", "process")

    def __init__(self, container: Container, child: Child, undo: Undo, step: str, oom_score_adj: int | None) -> None:
        super().__init__(container, child, undo, step)
        self._oom_score_adj = oom_score_adj
        self._start: Start | None = None
        self.process: Process
        """Once it is DONE."""

    def take_listener(self) -> int:
        """See ``Start``."""
        assert self._start is not None
        return self._start.take_listener()

    def hand_over(self, listener: int) -> None:
        """Give the agent the descriptor (in any process). RuntimeFailure without one, and the process is killed."""
        with Within(self._step):
            self._container.hand_listener_over(listener, self._child.pid)

    def _hear(self, wait: bool) -> str:
        if self._start is not None:
            found = self._start.poll(wait)
            if found == DONE:
                self._undo.keep()
                self._start.abandon()
                self.process = Process(self._child.pid, self._child.pidfd, self.console)
            return found
        kind, payload, fd = self._child.message(wait)
        if kind == dialogue.READY:
            self._hear_ready(payload, self._oom_score_adj)
            self._start = Start(self._child.channel)
        elif kind == dialogue.CONSOLE and fd >= 0:
            self.console = fd
        else:
            raise RuntimeFailure("", reason=f"unexpected message {kind!r}")
        return ""
