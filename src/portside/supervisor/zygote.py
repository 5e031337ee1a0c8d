"""The daemon's end of the zygote: start it, ask it for shims, start it again when it dies, do without it when it must.

What the zygote does, and the messages, are in ``shim/zygote.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from portside import shim
from portside.core.work import in_thread
from portside.errors import Unavailable
from portside.runtime.interpreter import open_interpreter
from portside.shim.main import Config
from portside.shim.zygote import CALL

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 5.0
"""Seconds that the zygote may take for a fork before a shim is started without it."""
MAX_ASKED = 64
"""Forks that are asked for at the same time: what a socket buffers is bounded, and so is what a dead zygote loses."""
_DIRECTORY = Path(shim.__file__).resolve().parent


class Zygote:
    """Makes shims. ``close`` ends the zygote and leaves the shims alone."""

    def __init__(self, state: str, python: str = sys.executable) -> None:
        """``state`` is a directory of ours, in which the zygote may make another for a moment."""
        self._state = state
        self._python = python
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._calls: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._gate = asyncio.Semaphore(MAX_ASKED)
        self._sending = asyncio.Lock()
        self._stray: set[subprocess.Popen[bytes]] = set()

    @property
    def pid(self) -> int:
        """Of the zygote; 0 while there is none."""
        return self._process.pid if self._process is not None and self._control is not None else 0

    async def start(self) -> None:
        """Start it, unless it runs. A failure is logged: shims are exec'ed then."""
        async with self._lock:
            if self._control is not None:
                return
            self._stray = {child for child in self._stray if child.poll() is None}
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            arguments = [str(theirs.fileno()), f"{self._state}/.rehearsal-{os.urandom(4).hex()}"]
            try:
                self._process = await in_thread(self._exec, "zygote.py", arguments, theirs)
            except OSError as error:
                ours.close()
                log.error("zygote: %s %s", self._python, error)
                return
            finally:
                theirs.close()
            ours.setblocking(False)
            self._control = ours
            asyncio.get_running_loop().add_reader(ours.fileno(), self._answered)

    async def spawn(self, config: Config, listener: socket.socket) -> tuple[int, int]:
        """A new shim that listens on ``listener`` (still the caller's): its pid and a pidfd, the caller's.

        Unavailable if there is no way to start one.
        """
        async with self._gate:
            for _ in range(2):  # It may have died since it was last asked.
                await self.start()
                try:
                    return await self._fork(config, listener)
                except (OSError, Unavailable) as error:
                    log.warning("zygote: cannot fork a shim: %s", error or "no answer")
        try:
            process = await in_thread(
                self._exec,
                "main.py",
                [os.fsdecode(config.encode().replace(b"\0", b"\n")), str(listener.fileno())],
                listener,
            )
        except OSError as error:
            raise Unavailable(f"start a shim: {error}") from error
        self._stray.add(process)
        return process.pid, os.pidfd_open(process.pid)

    async def close(self) -> None:
        """End the zygote."""
        async with self._lock:
            process, self._process = self._process, None
            self._lost(self._control)
            if process is not None:
                await in_thread(_finish, process)

    def _exec(self, name: str, arguments: list[str], inherited: socket.socket) -> subprocess.Popen[bytes]:
        """Start one of the shim's programs: isolated, without site, in a session of its own.

        The interpreter is executed from a read-only mount in no namespace, where we may make one: what enters a
        container later is forked from this process, and nobody can write to the interpreter through its exe link.
        """
        command = [self._python, "-I", "-S", "-E", str(_DIRECTORY / name), *arguments]
        path = os.environ.get("PATH", os.defpath)
        try:
            protected = open_interpreter(self._python)
        except OSError as error:
            log.debug("the interpreter is not protected by a mount of its own: %s", error)
            protected = -1
        try:
            return subprocess.Popen(
                command, executable=f"/proc/self/fd/{protected}" if protected >= 0 else None,
                pass_fds=[fd for fd in (inherited.fileno(), protected) if fd >= 0], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, env={"PATH": path}, cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            if protected >= 0:
                os.close(protected)

    async def _fork(self, config: Config, listener: socket.socket) -> tuple[int, int]:
        control = self._control
        if control is None:
            raise Unavailable("it does not run")
        call = next(self._numbers)
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._send(control, CALL.pack(call) + config.encode(), listener.fileno(), answer)
                await asyncio.wait([answer])  # The end of patience does not end it: it is heard to the last.
        except OSError:  # or TimeoutError, which is one
            self._lost(control)
            if not answer.done() or answer.exception() is not None:
                raise
        finally:
            self._calls.pop(call, None)
        return answer.result()

    async def _send(
        self, control: socket.socket, request: bytes, fd: int, answer: asyncio.Future[tuple[int, int]]
    ) -> None:
        """Send, as soon as there is room, unless there is an answer already: that the zygote is lost."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            while not answer.done():
                try:
                    socket.send_fds(control, [request], [fd])
                    return
                except BlockingIOError:
                    room = loop.create_future()
                    loop.add_writer(control.fileno(), _settle, room)
                    try:
                        await asyncio.wait([room, answer], return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if control.fileno() >= 0:
                            loop.remove_writer(control.fileno())

    def _answered(self) -> None:
        control = self._control
        if control is not None and not self._hear(control):
            self._lost(control)

    def _hear(self, control: socket.socket) -> bool:
        """Take one answer; whether there may be more some time."""
        try:
            # Not recv_fds, which ignores flags before Python 3.14.
            data, ancillary, _flags, _peer = control.recvmsg(1 << 16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        (call,) = CALL.unpack_from(data)
        (pid,) = struct.unpack_from("i", data, CALL.size)
        fds = [struct.unpack_from("i", payload)[0] for _, _, payload in ancillary if len(payload) >= 4]
        future = self._calls.get(call)
        if not fds:
            if pid:  # We may have no more descriptors, and what nobody watches must not go on.
                os.kill(pid, signal.SIGKILL)
            if future is not None and not future.done():
                future.set_exception(Unavailable("a shim ended at once" if not pid else "too many open files"))
        elif future is None or future.done():
            os.close(fds[0])
        else:
            future.set_result((pid, fds[0]))
        return True

    def _lost(self, control: socket.socket | None) -> None:
        """It is gone, or is to go: the next shim starts another. Nothing happens if ``control`` is not its any more.

        It is killed, lest it wake up later and make a second shim for a socket that has one; what it had made is heard.
        """
        if control is None or control is not self._control:
            return
        self._control = None
        loop = asyncio.get_running_loop()
        loop.remove_reader(control.fileno())
        loop.remove_writer(control.fileno())
        if self._process is not None:
            self._process.kill()
            self._stray.add(self._process)
        waiting = [future for future in self._calls.values() if not future.done()]
        for _ in waiting:
            if not self._hear(control):
                break
        control.close()
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable("it has ended"))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Its end of the socket is closed, so it ends; if it does not, it is made to."""
    try:
        process.wait(ANSWER_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
