"""The maker's side: cloning a process, answering it, and leaving nothing behind when it fails.

What belongs here: what creating a container and an exec have in common in the parent. What the child does is in
``init`` and ``exec``.
"""

from __future__ import annotations

import errno
import fcntl
import os

from portside.errors import FailedPrecondition
from portside.linux import namespaces as ns
from portside.linux import pidfd as pidfds
from portside.linux import process, signals
from portside.runtime import dialogue
from portside.runtime.dialogue import Channel, PeerGone
from portside.runtime.failure import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.linux.cgroups import Cgroup


# Groups that have groups below with controllers, other restrictions of version 2, kernels before 5.7.
_NO_CLONE_INTO = (errno.EBUSY, errno.EOPNOTSUPP, errno.E2BIG, errno.EINVAL)

# Seconds that a process in between may take to go; it has next to nothing to do.
_BETWEEN_TIMEOUT = 5

# Seconds that the end of a killed process is waited for.
_KILLED_TIMEOUT = 5


class Undo:
    """What has to be taken back after a failure, last first; each piece is tried whatever happens to the others."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def push(self, function: Callable[..., object], *arguments: Any) -> None:
        """Take back with ``function(*arguments)``."""
        self._pieces.append((function, arguments))

    def run(self) -> None:
        """Take back everything; errors are dropped, for the failure that led here is the one to tell."""
        while self._pieces:
            function, arguments = self._pieces.pop()
            try:
                function(*arguments)
            except Exception:
                continue

    def keep(self) -> None:
        """It has worked: nothing is taken back."""
        self._pieces.clear()


class Child:
    """A process that was cloned and is not yet the program. ``between``: the process that made it, to be reaped."""

    __slots__ = ("_early", "between", "channel", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.between: tuple[int, int] | None = None
        self._early: list[tuple[bytes, bytes, int]] = []

    def expect_another(self) -> None:
        """What was cloned is a process in between, which will tell the pid of the real child and go."""
        self.between = (self.pid, self.pidfd)
        self.pid = self.pidfd = -1

    def message(self, wait: bool = True) -> tuple[bytes, bytes, int]:
        """The child's next message; see :func:`next_message`."""
        while self.between is not None:
            # The real child talks as well as soon as it is there.
            kind, payload, fd = next_message(self.channel, wait)
            if kind == dialogue.PID:
                self.pid = int(payload)
                self.pidfd = pidfds.pidfd_open(self.pid)
                self._reap_between()
            else:
                self._early.append((kind, payload, fd))
        return self._early.pop(0) if self._early else next_message(self.channel, wait)

    def _reap_between(self) -> None:
        if self.between is not None:
            _, pidfd = self.between
            self.between = None
            pidfds.reap(pidfd)
            os.close(pidfd)

    def destroy(self) -> None:
        """Kill and reap it, close what is open."""
        if self.between is not None:
            self._end_between(self.between[1])
        for _, _, fd in self._early:
            if fd >= 0:
                os.close(fd)
        self.channel.close()
        if self.pidfd >= 0:
            _kill(self.pidfd)
            # One that hangs in the kernel is left to whoever reaps what we leave.
            if pidfds.wait_exit(self.pidfd, _KILLED_TIMEOUT):
                pidfds.reap(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1
        elif self.pid > 0:
            # Nobody else reaps it, so the number is still its own.
            os.kill(self.pid, signals.SIGKILL)
            os.waitpid(self.pid, 0)

    def _end_between(self, pidfd: int) -> None:
        """Reap the process in between and learn of the real child, which is ours to reap.

        A failure of the child may arrive before its pid, so the process in between is not killed but left to say it; at
        the end of file it goes by itself.
        """
        if self.pidfd == pidfd:
            self.pid = self.pidfd = -1
        self.channel.hang_up()
        if not pidfds.wait_exit(pidfd, _BETWEEN_TIMEOUT):
            _kill(pidfd)
        self._reap_between()
        while self.pid < 0:
            try:
                kind, payload, fd = self.channel.receive(wait=False)
            except (PeerGone, BlockingIOError):
                return
            if fd >= 0:
                os.close(fd)
            if kind == dialogue.PID:
                self.pid = int(payload)


def _kill(pidfd: int) -> None:
    try:
        pidfds.send_signal(pidfd, signals.SIGKILL)
    except ProcessLookupError:
        return


def spawn(run: Callable[[Channel], object], flags: int, cgroup_fd: int = -1) -> Child:
    """Clone a process that does ``run(its end of the channel)`` and never returns from it.

    It is closed to other processes from its first moment (PR_SET_DUMPABLE). ``FailedPrecondition`` if this process has
    more than one thread: a lock that another thread holds at the clone stays locked in the child for ever.
    """
    if process.thread_count() != 1:
        raise FailedPrecondition("making a container: the process must have one thread only")
    ours, theirs = dialogue.channel_pair()
    dumpable = process.dumpable()
    try:
        process.set_dumpable(0)
        pid, pidfd = ns.clone3(flags, cgroup_fd)
        if pid == 0:
            run(theirs)
            os._exit(1)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if dumpable == 1:
            process.set_dumpable(1)
    return Child(pid, pidfd, ours)


def spawn_in(cgroup: Cgroup, run: Callable[[Channel], object], flags: int, beside: int = 0) -> Child:
    """As :func:`spawn`, in ``cgroup``: the version 2 part by the clone, the rest by the child itself (``group``).

    Where the kernel does not clone into the group, all is done from outside, in the group of process ``beside`` if this
    one may hold no processes. The child is told JOINED.
    """
    fd = cgroup.fd_for_clone()
    outside = False
    try:
        child = spawn(run, flags, fd)
    except OSError as error:
        if fd < 0 or error.errno not in _NO_CLONE_INTO:
            raise
        child, outside = spawn(run, flags), True
    finally:
        if fd >= 0:
            os.close(fd)
    try:
        if outside:
            cgroup.attach(child.pid, beside=beside)
        tell(child.channel, dialogue.JOINED)
    except BaseException:
        child.destroy()
        raise
    return child


def next_message(channel: Channel, wait: bool = True) -> tuple[bytes, bytes, int]:
    """(kind, payload, descriptor or -1); FAILED is raised, an end of file is a failure too.

    Without ``wait``, ``BlockingIOError`` if there is none yet.
    """
    try:
        kind, payload, fd = channel.receive(wait)
    except PeerGone:
        raise RuntimeFailure("", reason="the process died before it was ready") from None
    if kind == dialogue.FAILED:
        raise dialogue.decode_failure(payload)
    return kind, payload, fd


def tell(channel: Channel, kind: bytes) -> None:
    """Send a message; if the child has gone instead of waiting for it, its failure is raised."""
    try:
        channel.send(kind)
    except PeerGone:
        while True:
            _, _, fd = next_message(channel)
            if fd >= 0:
                os.close(fd)


def open_stdio(stdin: int, stdout: int, stderr: int) -> tuple[tuple[int, int, int], list[int]]:
    """Descriptors for a process: -1 becomes /dev/null, which is in the second result for the caller to close."""
    fill_standard_descriptors()
    if min(stdin, stdout, stderr) >= 0:
        return (stdin, stdout, stderr), []
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    first, second, third = (null if fd < 0 else fd for fd in (stdin, stdout, stderr))
    return (first, second, third), [null]


def fill_standard_descriptors() -> None:
    """Make sure that 0 to 2 are open, so that nothing of ours is opened under these numbers."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def movable(fds: tuple[int, int, int]) -> tuple[tuple[int, int, int], list[int]]:
    """The same files under numbers above 2, so that moving one to its place cannot overwrite another."""
    if min(fds) > 2 or fds == (0, 1, 2):
        return fds, []
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    return (copies[0], copies[1], copies[2]), copies


def set_oom_score_adj(pid: int, value: int) -> None:
    """Write oom_score_adj of ``pid``; lowering it takes CAP_SYS_RESOURCE, but what is so already is no error."""
    path = f"/proc/{pid}/oom_score_adj"
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        if int(os.pread(fd, 16, 0)) != value:
            raise RuntimeFailure(f"set oom_score_adj to {value}", errno=error.errno or 0) from error
    finally:
        os.close(fd)
