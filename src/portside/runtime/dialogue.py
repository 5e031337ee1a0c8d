"""What a new process and its maker tell each other, over a pair of SOCK_SEQPACKET sockets.

=============  ===========  ==========================================================================================
child          parent       meaning
=============  ===========  ==========================================================================================
PID                         (from a process in between) the pid of the real child as the parent sees it; once, first
MAP_IDS        IDS_MAPPED   a new user namespace waits for its id maps
               JOINED       the child is in its control groups (sent unasked; needed before cgroup namespace and mounts)
HOOKS          HOOKS_DONE   namespaces and mounts are there: prestart and createRuntime hooks run; only if there are any
CONSOLE                     carries the master of the terminal
READY          START        everything but the execve is done; carries warnings; START may take as long as it likes
LISTENER                    carries the descriptor of a seccomp notify filter
FAILED                      errno, step, object and reason; the child is gone after it
end of file                 the execve has succeeded (or the child died)
=============  ===========  ==========================================================================================

An end of file at the child means that nobody waits for it any more: it leaves. An exec goes the same way without HOOKS
and with START sent at once. Nothing here starts, reaps or kills.
"""

from __future__ import annotations

import _socket
import array
import os

from portside.runtime.failure import RuntimeFailure

PID = b"p"
MAP_IDS = b"m"
IDS_MAPPED = b"i"
JOINED = b"j"
HOOKS = b"h"
HOOKS_DONE = b"d"
CONSOLE = b"c"
LISTENER = b"l"
READY = b"r"
START = b"s"
FAILED = b"f"

#: The longest message; texts in FAILED are cut to fit.
_LIMIT = 4096


class PeerGone(Exception):
    """The other side closed its end."""


class Channel:
    """One end. ``receive`` and ``send`` block; the owner closes it."""

    __slots__ = ("_joined", "_socket")

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._joined = False

    def fileno(self) -> int:
        """The descriptor, for polling and for keeping it open."""
        return self._socket.fileno()

    def send(self, kind: bytes, payload: bytes = b"", fd: int = -1) -> None:
        """Send one message, with a copy of descriptor ``fd`` if it is not -1. ``PeerGone`` if nobody can read it."""
        ancillary = []
        if fd >= 0:
            ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [fd])))
        try:
            self._socket.sendmsg([kind + payload], ancillary, _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise PeerGone from None

    def receive(self, wait: bool = True) -> tuple[bytes, bytes, int]:
        """The next message as (kind, payload, descriptor or -1; the caller's). ``PeerGone`` at the end of file.

        Without ``wait``, ``BlockingIOError`` if there is none yet.
        """
        flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LIMIT, _socket.CMSG_SPACE(4), flags)
        except ConnectionResetError:
            # The peer left without reading all that we sent. The kernel tells that once, before its last words.
            data, ancillary, _, _ = self._socket.recvmsg(_LIMIT, _socket.CMSG_SPACE(4), flags)
        received = -1
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                received = array.array("i", content[:4])[0]
        if not data:
            raise PeerGone
        return data[:1], data[1:], received

    def expect(self, kind: bytes) -> None:
        """Wait for a message of this kind. JOINED, which is sent unasked, may come before it and counts for ever."""
        while not (kind == JOINED and self._joined):
            found, _, _ = self.receive()
            self._joined = self._joined or found == JOINED
            if found == kind:
                return
            if found != JOINED:
                raise RuntimeFailure("read from the other side", reason=f"unexpected message {found!r}")

    def hang_up(self) -> None:
        """Send nothing more: the other side sees the end of file; what it has sent can still be received."""
        self._socket.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        """Close this end; the other side sees the end of file."""
        self._socket.close()


def channel_pair() -> tuple[Channel, Channel]:
    """Two connected ends, close-on-exec, both the caller's."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(one), Channel(other)


def encode_failure(failure: RuntimeFailure) -> bytes:
    """The payload of FAILED."""
    parts = (failure.step[:1000], failure.path[:1000], failure.reason[:800])
    return b"%d\0" % failure.errno + b"\0".join(os.fsencode(part.replace("\0", "?"))[:1200] for part in parts)


def decode_failure(payload: bytes) -> RuntimeFailure:
    """What FAILED says."""
    number, step, path, reason = payload.split(b"\0", 3)
    return RuntimeFailure(
        step.decode(errors="replace"), path.decode(errors="replace"), int(number), reason.decode(errors="replace")
    )
