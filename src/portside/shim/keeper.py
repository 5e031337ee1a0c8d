"""The keeper: the process that the world knows as the shim, asleep most of the time.

A shim that has work to do is an interpreter that writes into megabytes of what it shares; one that only waits need not
be there. So the keeper forks a worker when something happens, and the worker, once nothing has happened for a while,
hands back what the next one needs and is gone. Containers outlive workers: the keeper is a subreaper, so what a worker
leaves is the keeper's, to be reaped and told to the next.

    keeper                              worker
    what the shim is to be         →    begin (the first worker is made before that is known)
    EXIT pid status                →    (of a process that an earlier worker made)
                                   ←    DONE, when it has dealt with one
                                   ←    SLEEP: when to wake, which descriptors to watch, the state; descriptors
    wait for a descriptor, a child,
    or a time                      →    begin with the frozen state, the descriptors, and the exits meanwhile

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

from portside.linux import signals

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
NUMBER: Final = 8
"""Bytes of the number in front of what a keeper is told."""
_SLEEP_HEADER: Final = struct.Struct("<dH")
_EXIT: Final = struct.Struct("<iIQ")
_INT: Final = struct.Struct("i")


class Wake:
    """What a worker begins with."""

    __slots__ = ("_config", "_listener", "channel", "exits", "fds", "state")

    def __init__(
        self, channel: _socket.socket, config: bytes, listener: int, state: bytes, fds: list[int],
        exits: list[tuple[int, int, int]],
    ) -> None:  # fmt: skip
        self._config = config
        self._listener = listener
        self.channel = channel
        """To the keeper; its end is the keeper's."""
        self.state = state
        """As the last worker froze it; empty for the first."""
        self.fds = fds
        """The descriptors that go with it, now the worker's."""
        self.exits = exits
        """(pid, wait status, nanoseconds since 1970) of children that ended meanwhile."""

    def shim(self) -> tuple[bytes, int]:
        """What the shim is (an encoded ``config.Config``) and its listener; the first worker waits to be told."""
        if self._listener < 0:
            self._config, self._listener = receive_shim(self.channel)
            if self._listener < 0:
                leave(0)
        return self._config, self._listener


class Keeper:
    """``first``, ``begin``, ``keep``: in this order."""

    __slots__ = ("_channel", "_config", "_listener", "_reader", "_worker", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._channel = self._reader  # until there is a worker
        self._worker = 0
        self._config = b""
        self._listener = -1
        signals.handle(signals.SIGCHLD, _nothing)
        signals.set_wakeup_fd(self._writer.fileno())

    def first(self) -> Wake | None:
        """Make a worker for a shim that is not known yet: None in the keeper."""
        return self._wake(b"", [], [])

    def begin(self, config: bytes, listener: int) -> None:
        """Tell the first worker what the shim is. OSError if it has died."""
        self._config, self._listener = config, listener
        send_shim(self._channel, config, listener)

    def keep(self) -> Wake | None:
        """Stay with the worker and after it; returns in each further worker, and at last None in the keeper."""
        while True:
            found = _watch(self._worker, self._channel, self._reader)
            self._channel.close()
            if found is None:
                return None
            message, fds, exits = found
            timeout, count = _SLEEP_HEADER.unpack_from(message, 1)
            watched = message[1 + _SLEEP_HEADER.size : 1 + _SLEEP_HEADER.size + count]
            if not exits:
                pairs = [pair for pair in zip(fds, watched, strict=True) if pair[1]]
                exits = sleep(self._reader, self._listener, pairs, timeout)
            wake = self._wake(message[1 + _SLEEP_HEADER.size + count :], fds, exits)
            if wake is not None:
                return wake
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Give everything back, at the end; the worker, if there is one, sees it.

        To be called: a signal that comes while only one end of the pair is closed would write to the other, and the
        SIGPIPE of that write would be the next.
        """
        signals.set_wakeup_fd(-1)
        for end in (self._reader, self._writer, self._channel):
            end.close()
        if self._listener >= 0:
            os.close(self._listener)

    def _wake(self, state: bytes, fds: list[int], exits: list[tuple[int, int, int]]) -> Wake | None:
        self._channel, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        self._worker = _fork()
        if self._worker:
            theirs.close()
            return None
        signals.set_wakeup_fd(-1)
        for end in (self._reader, self._writer, self._channel):
            end.close()
        return Wake(theirs, self._config, self._listener, state, fds, exits)


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
    told = 0  # of these; the rest when there is room, which its answers make
    fds: list[int] = []
    message, gone = b"", False
    while not gone:
        poller.poll()
        for pid, status, now in _reap(reader):
            if pid == worker:
                gone = True
            else:
                open_exits.append((pid, status, now))
        while (received := receive(channel, MAX_STATE + 4096)) is not None:
            kind = received[0][:1]
            if kind == DONE:
                del open_exits[0]
                told -= 1
            elif kind == SLEEP:
                message, fds = received
            elif not kind:  # It has ended, though nobody has told us yet.
                if not gone:
                    os.waitpid(worker, 0)
                gone = True
                break
        while told < len(open_exits) and _tell(channel, EXIT + _EXIT.pack(*open_exits[told])):
            told += 1
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
    return data, _received(ancillary)


def send_shim(channel: _socket.socket, config: bytes, listener: int) -> None:
    """Say what a shim is to be: to its keeper (a number of eight bytes in front), by that to its first worker. OSError.

    ``config`` is an encoded ``config.Config``; ``listener``, a copy of which goes along, the shim's socket.
    """
    channel.sendmsg([config], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _INT.pack(listener))], _socket.MSG_NOSIGNAL)


def answer_shim(channel: _socket.socket, message: bytes) -> None:
    """Say who has taken ``message`` of ``send_shim``: its number, our pid in four bytes. OSError."""
    channel.send(message[:NUMBER] + _INT.pack(os.getpid()), _socket.MSG_NOSIGNAL)


def receive_shim(channel: _socket.socket) -> tuple[bytes, int]:
    """Wait for what ``send_shim`` sent, descriptors the caller's; a listener of -1 if nobody will send any."""
    try:
        data, ancillary, _flags, _peer = channel.recvmsg(
            MAX_STATE, _socket.CMSG_SPACE(_INT.size), _socket.MSG_CMSG_CLOEXEC
        )
    except OSError:
        return b"", -1
    fds = _received(ancillary)
    return (data, fds[0]) if data and fds else (b"", -1)


def await_shim(channel: _socket.socket, seconds: float) -> tuple[bytes, int]:
    """As ``receive_shim``, from a channel on which others wait, too; a listener of -1 if nothing comes in time."""
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        poller.poll(int(left * 1000) + 1)
        try:
            data, ancillary, _flags, _peer = channel.recvmsg(
                MAX_STATE, _socket.CMSG_SPACE(_INT.size), _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            continue  # Another has taken it.
        except OSError:
            break
        fds = _received(ancillary)
        return (data, fds[0]) if data and fds else (b"", -1)
    return b"", -1


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    return [
        fd
        for level, kind, payload in ancillary
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for (fd,) in struct.iter_unpack("i", payload[: len(payload) & ~3])
    ]


def _tell(channel: _socket.socket, message: bytes) -> bool:
    """Whether it was sent: there may be no room now, or nobody; then the next worker is told."""
    try:
        channel.send(message, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


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
