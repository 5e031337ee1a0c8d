"""The zygote: a process with everything imported that a shim needs, which forks shims when asked.

A fork takes a millisecond and shares the interpreter's memory, where starting one takes ten and shares nothing. It is
exec'ed by the daemon, never forked from it: ``python -I -S -E zygote.py FD DIR``, FD the number of a SEQPACKET
socket, DIR the name of a directory to be used for a moment. It has one thread, since it forks, and ends when the
daemon's end of the socket is closed; its shims go on.

    request   JSON of ``main.Config`` and ``"call"``, a number; with it, by SCM_RIGHTS, the shim's listening socket
    answer    JSON ``{"call": number, "pid": pid}`` and, by SCM_RIGHTS, a pidfd of it; or ``{"call": …, "error": …}``

Shims are children of the zygote, which lets the kernel reap them; when it dies they become children of init.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # Isolated and without site: the package is where this file is.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import _socket
import gc
import json
import struct

from portside.shim import main as shim
from portside.shim import signals
from portside.shim.rehearsal import rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_REQUEST: Final = 64 << 10


def serve(control: _socket.socket, directory: str = "") -> None:
    """Fork a shim for each request until the daemon is gone. Does not return in a shim.

    ``directory`` does not exist yet; it is used for a moment.
    """
    shim.prepare()
    if directory:
        try:
            rehearse(directory)
        except OSError:
            pass  # Shims are larger then, and work.
    gc.collect()
    gc.freeze()  # So that no collection in a shim touches what it shares.
    signals.ignore(signals.SIGCHLD)
    for number in (signals.SIGINT, signals.SIGTERM, signals.SIGHUP):
        # A terminal's Ctrl-C goes to the daemon's whole group; whether we end is the daemon's to say.
        signals.ignore(number)
    while True:
        data, ancillary, _flags, _peer = control.recvmsg(MAX_REQUEST, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        fds = [
            struct.unpack("i", payload[:4])[0]
            for level, kind, payload in ancillary
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        ]
        try:
            _fork(control, data, fds)
        finally:
            for fd in fds:
                os.close(fd)


def _fork(control: _socket.socket, data: bytes, fds: list[int]) -> None:
    call = 0
    rights: list[tuple[int, int, bytes]] = []
    try:
        request = json.loads(data)
        call = request["call"]
        config = shim.Config(request)
        (listener,) = fds
        pid = os.fork()
        if not pid:
            _be_shim(control, config, listener)
        pidfd = os.pidfd_open(pid)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", pidfd))]
        answer = {"call": call, "pid": pid}
    except Exception as error:
        pidfd = -1
        answer = {"call": call, "error": f"{type(error).__name__}: {error}"}
    try:
        control.sendmsg([json.dumps(answer).encode()], rights)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _be_shim(control: _socket.socket, config: shim.Config, listener: int) -> None:
    status = 1
    try:
        control.close()
        shim.run(config, _socket.socket(fileno=listener))
        status = 0
    finally:
        os._exit(status)  # Past the interpreter's end: there is nothing to finish, and it takes a while.


if __name__ == "__main__":
    serve(_socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
