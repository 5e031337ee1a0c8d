"""A further process in a running container, from clone to execve. Runs in the new processes only.

Two processes: the first drops its descriptors, joins all namespaces at once through a pidfd of the container's first
process, and makes the second, which is in the pid namespace from birth and has nothing of the host's to be stolen.
"""

from __future__ import annotations

import gc
import os

from portside.linux import mount as m
from portside.linux import namespaces as ns
from portside.linux import process
from portside.linux.fd import O_PATH
from portside.runtime import dialogue, group
from portside.runtime.devices import open_console
from portside.runtime.dialogue import Channel
from portside.runtime.failure import RuntimeFailure
from portside.runtime.init import become_namespace_root, leave
from portside.runtime.program import place_stdio, take_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from portside.runtime.program import Program


class Entry:
    """Everything that the new processes need. ``kinds``: CLONE_NEW* of what is joined; ``root_fd``: the root to change
    to where the container has no mount namespace, else -1. ``groups``: of ``group.join``.
    """

    __slots__ = ("groups", "kinds", "program", "root_fd", "stdio", "target", "terminal_size")

    program: Program
    target: int
    kinds: int
    groups: list[int]
    root_fd: int
    stdio: tuple[int, int, int]
    terminal_size: tuple[int, int] | None


def between(entry: Entry, channel: Channel) -> NoReturn:
    """The first of the two."""
    try:
        gc.disable()  # it would touch, and so copy, every page of our maker's objects
        place_stdio(entry.stdio)
        process.close_all_but([0, 1, 2, channel.fileno(), entry.target, entry.root_fd, *entry.groups])
        group.join(entry.groups)
        process.reset_signals()
        channel.expect(dialogue.JOINED)
        try:
            ns.setns(entry.target, entry.kinds)
            if entry.root_fd >= 0:
                os.fchdir(entry.root_fd)
                os.chroot(".")
                os.close(entry.root_fd)
            os.close(entry.target)
        except OSError as error:
            raise RuntimeFailure.of("join the namespaces of the container", error) from error
        pid, _ = ns.clone3(ns.CLONE_PARENT)
        if pid == 0:
            _run(entry, channel)
        channel.send(dialogue.PID, str(pid).encode())
        os._exit(0)
    except BaseException as error:
        leave(channel, error)


def _run(entry: Entry, channel: Channel) -> NoReturn:
    """The second of the two."""
    try:
        os.umask(0)
        os.setsid()
        if entry.kinds & ns.CLONE_NEWUSER:
            become_namespace_root()
        inside = os.open("/", O_PATH | os.O_DIRECTORY)
        if entry.terminal_size is not None:
            _console(entry.terminal_size, channel, inside)
        proc = _Proc()
        entry.program.settle(inside, False, proc.open)
        os.close(inside)
        proc.close()
        entry.program.find()
        channel.send(dialogue.READY, "\n".join(entry.program.late_warnings).encode())
        channel.expect(dialogue.START)
        entry.program.execute([], b"", lambda fd: channel.send(dialogue.LISTENER, fd=fd))
    except BaseException as error:
        leave(channel, error)
    os._exit(1)


def _console(size: tuple[int, int], channel: Channel, inside: int) -> None:
    try:
        master, peer = open_console(inside, *size)
    except OSError as error:
        raise RuntimeFailure.of("make the console", error) from error
    channel.send(dialogue.CONSOLE, fd=master)
    os.close(master)
    take_terminal(peer)


class _Proc:
    """A procfs of our own, opened if somebody asks."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1

    def open(self) -> int:
        """Its root."""
        if self._fd < 0:
            self._fd = m.new_mount("proc", [], m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC, "proc")
        return self._fd

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
