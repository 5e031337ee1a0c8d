"""The zygote: a process with everything imported that a shim needs, which forks shims when asked and does no more.

A fork takes a millisecond and shares the interpreter's memory, where starting one takes ten and shares nothing. It is
exec'ed by the daemon, never forked from it: ``python -I -S -E zygote.py CONTROL SHIMS DIR``, two numbers of sockets and
the name of a directory to be used for a moment. It has one thread, since it forks, and ends when the daemon's end of
CONTROL, a stream, is closed; its shims go on.

    daemon → zygote     a byte on CONTROL: fork
    daemon → shims      a message on SHIMS, which whichever shim waits there takes, and is: ``keeper.send_shim``
    shim → daemon       its answer on SHIMS: the message's number, its pid

So a shim that was forked before anybody asked (a spare) answers at once. What this process writes between two forks,
each shim holds a copy of: therefore the daemon talks to the shims itself. Shims are children of the zygote, which lets
the kernel reap them; when it dies they become children of init.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # Isolated and without site: the package is where this file is.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import _socket
import gc

from portside.linux import signals
from portside.linux.process import close_all_but
from portside.shim import main as shim
from portside.shim.rehearsal import ROUNDS, rehearse


def serve(control: int, shims: _socket.socket, directory: str = "") -> None:
    """Fork a shim for each byte until the daemon is gone. Does not return in a shim.

    ``directory`` does not exist yet; it is used for a moment. A fork that fails ends it, which tells the daemon.
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
    while os.read(control, 1):
        if not os.fork():
            _be_shim(shims)


def _be_shim(source: _socket.socket) -> None:
    status = 1
    try:
        shim.run(source)
        status = 0
    finally:
        os._exit(status)  # Past the interpreter's end: there is nothing to finish, and it takes a while.


if __name__ == "__main__":
    close_all_but((0, 1, 2, int(sys.argv[1]), int(sys.argv[2])))  # not the one it was executed from
    serve(int(sys.argv[1]), _socket.socket(fileno=int(sys.argv[2])), sys.argv[3])
