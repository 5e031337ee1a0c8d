"""A child of the shim that makes one thing (a container, an exec) and hands it over, then is gone.

Making a container touches megabytes of the interpreter's memory, and may take long (hooks, another runtime). Done in a
forked child, the shim stays as small as the fork left it and answers others meanwhile. The child's own children, which
are what it makes, become the shim's when it ends, since the shim is a subreaper.

    child → shim    JSON of what was made, its descriptors by SCM_RIGHTS; or ``{"error": [code, message]}``

What was made is announced before the child ends, therefore before the shim can reap it: who reaps calls ``poll`` first.
"""

from __future__ import annotations

import _socket
import json
import os
import struct

from portside.errors import DeadlineExceeded, Internal, PortsideError, from_oserror
from portside.linux import signals
from portside.linux.process import set_child_subreaper
from portside.shim.loop import READ
from portside.wire.status import code_of, error_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from portside.shim.loop import Loop

    Made = tuple[dict[str, Any], list[int]]

MAX_MESSAGE: Final = 64 << 10
MAX_FDS: Final = 8
TIMEOUT: Final = 110.0
"""Seconds that making may take, hooks included; a little less than the daemon waits."""


class Maker:
    """One child at work. ``done`` is called once, with what was made (descriptors are the receiver's) or why not."""

    __slots__ = ("_done", "_loop", "_makers", "_pid", "_socket", "_timer")

    def __init__(
        self, loop: Loop, makers: set[Maker], work: Callable[[], Made], undo: Callable[[], None],
        done: Callable[[Made | PortsideError], None],
    ) -> None:  # fmt: skip
        """Fork; ``work`` runs in the child, ``undo`` if nobody is there to be told. ``makers`` holds us till then."""
        self._loop = loop
        self._makers = makers
        self._done = done
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            self._pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not self._pid:
            _run(theirs, work, undo)
        theirs.close()
        self._socket = ours
        makers.add(self)
        loop.watch(ours.fileno(), READ, self._ready)
        self._timer = loop.later(TIMEOUT, self._too_long)

    def poll(self) -> None:
        """Take what the child has announced, if it has."""
        try:
            data, ancillary, _flags, _peer = self._socket.recvmsg(
                MAX_MESSAGE, _socket.CMSG_SPACE(4 * MAX_FDS), _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        fds = [
            fd
            for level, kind, payload in ancillary
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
            for (fd,) in struct.iter_unpack("i", payload[: len(payload) & ~3])
        ]
        if not data:
            self._finish(Internal("the process that was to make it has died"))
            return
        made = json.loads(data)
        if "error" in made:
            code, message = made["error"]
            self._finish(error_of(code, message))
        else:
            self._finish((made, fds))

    def _ready(self, _ready: int) -> None:
        if self in self._makers:
            self.poll()

    def _too_long(self) -> None:
        os.killpg(self._pid, signals.SIGKILL)  # our child, which only we reap, with the commands that it runs
        self._finish(DeadlineExceeded(f"not made within {TIMEOUT:g} s"))

    def _finish(self, outcome: Made | PortsideError) -> None:
        self._makers.discard(self)
        self._timer.cancel()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._done(outcome)


def _run(channel: _socket.socket, work: Callable[[], Made], undo: Callable[[], None]) -> None:
    """The child. Never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        signals.set_wakeup_fd(-1)  # It is the shim's too.
        set_child_subreaper()  # What a command leaves behind must not come to the shim before it was announced.
        try:
            made, fds = work()
        except OSError as error:
            _tell(channel, from_oserror(error, "make"))
        except Exception as error:
            _tell(channel, error)
        else:
            message = json.dumps(made).encode()
            if len(message) > MAX_MESSAGE:
                undo()
                _tell(channel, Internal(f"what was made takes {len(message)} bytes to tell"))
                os._exit(0)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
            try:
                channel.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
            except OSError:
                undo()  # The shim has died meanwhile, and nobody else knows of it.
        status = 0
    finally:
        os._exit(status)


def _tell(channel: _socket.socket, error: BaseException) -> None:
    message = str(error) if isinstance(error, PortsideError) else f"{type(error).__name__}: {error}"
    channel.sendmsg([json.dumps({"error": [code_of(error), message[:8000]]}).encode()], [], _socket.MSG_NOSIGNAL)


def nothing_made(work: Callable[[], None]) -> Made:
    """Do ``work``, which makes nothing that the shim is to have."""
    work()
    return {}, []


def no_undo() -> None:
    """For work that leaves nothing, or something that ends with the container, which whoever cleans up ends."""
