"""The keeper: the process that the world knows as the shim, asleep most of the time.

A shim that has work to do is an interpreter that writes into megabytes of what it shares; one that only waits need not
be there. So the keeper forks a worker when something happens, and the worker, once nothing has happened for a while,
hands back what the next one needs and is gone. Containers outlive workers: the keeper is a subreaper, so what a worker
leaves is the keeper's, to be reaped and told to the next.

    keeper                              worker
    wait for a descriptor, a child,
    or a time                      →    begin with the frozen state, the descriptors, and the exits meanwhile
    EXIT pid status                →    (of a process that an earlier worker made)
                                   ←    DONE, when it has dealt with one
                                   ←    SLEEP: when to wake, which descriptors to watch, the state; descriptors

A worker that ends without SLEEP is the last one: nothing is left to be kept, or it was killed and has taken the state
along. The keeper ends, and the daemon cleans up as after any dead shim, if there is anything. A keeper that dies
takes its worker along. Nothing else is done here, so that the keeper stays small.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import time

from portside.shim import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

EXIT: Final = b"E"
DONE: Final = b"D"
SLEEP: Final = b"S"

MAX_FDS: Final = 250
"""Descriptors that one message carries (SCM_MAX_FD is 253); a shim with more does not sleep."""
MAX_STATE: Final = 128 << 10
"""Bytes of frozen state, for the same reason."""
_SLEEP_HEADER: Final = struct.Struct("<dH")
_EXIT: Final = struct.Struct("<iIQ")


class Wake:
    """What a worker begins with."""

    __slots__ = ("channel", "exits", "fds", "state")

    def __init__(
        self, channel: _socket.socket, state: bytes, fds: list[int], exits: list[tuple[int, int, int]]
    ) -> None:
        self.channel = channel
        """To the keeper; its end is the keeper's."""
        self.state = state
        """As the last worker froze it; empty for the first."""
        self.fds = fds
        """The descriptors that go with it, now the worker's."""
        self.exits = exits
        """(pid, wait status, nanoseconds since 1970) of children that ended meanwhile."""


def keep(listener: int, first_timeout: float) -> Wake | None:
    """Be the keeper of a shim that listens on ``listener``; returns in each worker, and at last None in the keeper.

    ``first_timeout``: seconds after which a worker is made even though nothing has happened.
    """
    reader, writer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    reader.setblocking(False)
    writer.setblocking(False)
    signals.handle(signals.SIGCHLD, _nothing)
    signals.set_wakeup_fd(writer.fileno())
    state, watched, timeout = b"", b"", first_timeout
    fds: list[int] = []
    exits: list[tuple[int, int, int]] = []
    while True:
        if not exits:
            exits = sleep(reader, listener, [pair for pair in zip(fds, watched, strict=True) if pair[1]], timeout)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        worker = _fork()
        if not worker:
            signals.set_wakeup_fd(-1)
            for end in (reader, writer, ours):
                end.close()
            return Wake(theirs, state, fds, exits)
        theirs.close()
        for fd in fds:
            os.close(fd)
        found = _watch(worker, ours, reader)
        ours.close()
        if found is None:
            return None
        message, fds, exits = found
        timeout, count = _SLEEP_HEADER.unpack_from(message, 1)
        watched = message[1 + _SLEEP_HEADER.size : 1 + _SLEEP_HEADER.size + count]
        state = message[1 + _SLEEP_HEADER.size + count :]


def _fork() -> int:
    """As ``os.fork``, but patient: a machine that is short of memory or processes now may not be so for ever."""
    while True:
        try:
            return os.fork()
        except OSError:
            time.sleep(0.5)


def handle_signals() -> None:
    """Of a shim, and of the zygote, which hands this on: they neither end by these, nor ignore them.

    What is ignored stays so in a container's processes. A terminal's Ctrl-C goes to the daemon's whole group.
    """
    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGPIPE, signals.SIGXFSZ):
        signals.handle(number, _nothing)


def sleep(
    reader: _socket.socket, listener: int, watched: list[tuple[int, int]], timeout: float
) -> list[tuple[int, int, int]]:
    """Wait until there is something to do (``watched``: descriptor, events); the children that ended, if that is it."""
    poller = select.poll()
    poller.register(reader.fileno(), select.POLLIN)
    poller.register(listener, select.POLLIN)
    for fd, events in watched:
        poller.register(fd, events)
    until = time.monotonic() + timeout
    while True:
        left = max(0.0, until - time.monotonic())
        ready = poller.poll(None if timeout == float("inf") else int(left * 1000) + 1)
        exits = _reap(reader)
        if exits or not ready or any(fd != reader.fileno() for fd, _event in ready):
            return exits


def _watch(
    worker: int, channel: _socket.socket, reader: _socket.socket
) -> tuple[bytes, list[int], list[tuple[int, int, int]]] | None:
    """Stay with the worker till its end: its SLEEP message, descriptors, exits it has not dealt with; None to end."""
    poller = select.poll()
    poller.register(reader.fileno(), select.POLLIN)
    poller.register(channel.fileno(), select.POLLIN)
    open_exits: list[tuple[int, int, int]] = []
    fds: list[int] = []
    message, gone = b"", False
    while not gone:
        poller.poll()
        for pid, status, now in _reap(reader):
            if pid == worker:
                gone = True
            else:
                open_exits.append((pid, status, now))
                _tell(channel, EXIT + _EXIT.pack(pid, status, now))
        while (received := receive(channel, MAX_STATE + 4096)) is not None:
            kind = received[0][:1]
            if kind == DONE:
                del open_exits[0]
            elif kind == SLEEP:
                message, fds = received
            elif not kind:  # It has ended, though nobody has told us yet.
                if not gone:
                    os.waitpid(worker, 0)
                gone = True
                break
    return (message, fds, open_exits) if message else None


def _reap(reader: _socket.socket) -> list[tuple[int, int, int]]:
    try:
        reader.recv(4096)
    except BlockingIOError:
        return []
    found: list[tuple[int, int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status, time.time_ns()))


def receive(channel: _socket.socket, limit: int) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors, empty at the end of file; None if there is none now."""
    try:
        data, ancillary, _flags, _peer = channel.recvmsg(
            limit, _socket.CMSG_SPACE(4 * MAX_FDS), _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        return None
    except OSError:
        return b"", []
    fds = [
        fd
        for level, kind, payload in ancillary
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for (fd,) in struct.iter_unpack("i", payload[: len(payload) & ~3])
    ]
    return data, fds


def _tell(channel: _socket.socket, message: bytes) -> None:
    try:
        channel.send(message, _socket.MSG_NOSIGNAL)
    except OSError:
        pass  # It is on its way out, and will be told by the next.


# The worker's side


def exit_of(message: bytes) -> tuple[int, int, int]:
    """What EXIT says: pid, wait status, nanoseconds since 1970."""
    pid, status, now = _EXIT.unpack_from(message, 1)
    return pid, status, now


def fall_asleep(channel: _socket.socket, state: bytes, fds: list[int], watched: bytes, timeout: float) -> None:
    """End the worker: the keeper has everything. Returns if it does not fit; OSError if the keeper cannot take it."""
    if len(fds) > MAX_FDS or len(state) > MAX_STATE:
        return
    message = SLEEP + _SLEEP_HEADER.pack(timeout, len(watched)) + watched + state
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    channel.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
    leave(0)


def leave(status: int) -> NoReturn:
    """End this process now."""
    os._exit(status)


def _nothing(_number: int, _frame: object) -> None:
    """A signal needs a handler of Python's to reach the wakeup descriptor."""
