"""The zygote: a process with everything imported that a shim needs, which forks shims when asked.

A fork takes a millisecond and shares the interpreter's memory, where starting one takes ten and shares nothing. It is
exec'ed by the daemon, never forked from it: ``python -I -S -E zygote.py FD DIR``, FD the number of a SEQPACKET
socket, DIR the name of a directory to be used for a moment. It has one thread, since it forks, and ends when the
daemon's end of the socket is closed; its shims go on.

    request   a number of eight bytes, an encoded ``main.Config``; with it, by SCM_RIGHTS, the shim's listening socket
    answer    the same number, the shim's pid in four bytes; with it a pidfd of it. Or a pid of 0, and none: it is
              dead already

After a shim it makes another that does not know yet which it is to be, a spare: whoever asks next, within the next few
seconds, does not wait for the fork and for what a shim does first. Shims are children of the zygote, which lets the
kernel reap them; when it dies they become children of init, and the spare ends.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # Isolated and without site: the package is where this file is.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import _socket
import gc
import select
import struct

from portside.linux import signals
from portside.linux.process import close_all_but
from portside.shim import main as shim
from portside.shim.keeper import send_shim
from portside.shim.rehearsal import ROUNDS, rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_REQUEST: Final = 64 << 10
CALL: Final = struct.Struct("<Q")
SPARE_TIME: Final = 5.0
"""Seconds that a spare waits to be asked for."""
_INT: Final = struct.Struct("i")


def serve(control: _socket.socket, directory: str = "") -> None:
    """Fork a shim for each request until the daemon is gone. Does not return in a shim.

    ``directory`` does not exist yet; it is used for a moment.
    """
    shim.prepare()
    if directory:
        try:
            rehearse(directory)
        except Exception:
            pass  # Shims are larger then, and work.
    shim.prepare_process()
    for _ in range(ROUNDS):
        shim.set_title(b"portside-zygote")
    signals.ignore(signals.SIGCHLD)
    gc.collect()
    gc.freeze()  # So that no collection in a shim touches what it shares.
    # What this process writes between two forks, each shim holds a copy of: so little is done here.
    spare: tuple[int, _socket.socket] | None = None
    while True:
        if spare is not None and not select.select([control], [], [], SPARE_TIME)[0]:
            spare[1].close()
            spare = None
        data, ancillary, _flags, _peer = control.recvmsg(MAX_REQUEST, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        if not ancillary:
            continue
        listener = _INT.unpack_from(ancillary[0][2])[0]
        pid, pidfd = _begin(spare, data[CALL.size :], listener) if spare is not None else (0, -1)
        try:
            if not pid:
                pid, pidfd = _begin(_fork(), data[CALL.size :], listener)
        except OSError:
            pass  # No memory, no more processes: the answer says so.
        os.close(listener)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _INT.pack(pidfd))] if pid else []
        try:
            control.sendmsg([data[: CALL.size] + _INT.pack(pid)], rights, _socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            return
        if pid:
            os.close(pidfd)
        try:
            spare = _fork()
        except OSError:
            spare = None  # The next one who asks is told, if it is so still.


def _fork() -> tuple[int, _socket.socket]:
    """A shim that waits to be told which it is: its pid, and the socket to tell it. OSError."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pid = os.fork()
    if not pid:
        _be_shim(theirs)
    theirs.close()
    return pid, ours


def _begin(shim: tuple[int, _socket.socket], config: bytes, listener: int) -> tuple[int, int]:
    """Tell it which shim it is; its pid and a pidfd, or 0 and -1 if it is dead already."""
    pid, channel = shim
    try:
        send_shim(channel, config, listener)
        return pid, os.pidfd_open(pid)
    except (BrokenPipeError, ConnectionResetError, ProcessLookupError):
        return 0, -1
    finally:
        channel.close()


def _be_shim(source: _socket.socket) -> None:
    status = 1
    try:
        shim.run(source)
        status = 0
    finally:
        os._exit(status)  # Past the interpreter's end: there is nothing to finish, and it takes a while.


if __name__ == "__main__":
    close_all_but((0, 1, 2, int(sys.argv[1])))  # not the one that the interpreter was executed from
    serve(_socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
