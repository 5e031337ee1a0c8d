"""The daemon's end of the zygote: start it, ask it for shims, start it again when it dies, do without it when it must.

What the zygote does, and the messages, are in ``shim/zygote.py``. For a few seconds after each shim there is a spare.
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
from portside.shim.config import Config

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 5.0
"""Seconds that the zygote may take for a fork before a shim is started without it."""
MAX_ASKED = 64
"""Forks that are asked for at the same time: what a socket buffers is bounded, and so is what a dead zygote loses."""
SPARE_TIME = 5.0
"""Seconds that we count on a spare shim; it waits a little longer."""
CALL = struct.Struct("<Q")
"""The number of a call, in front of what a shim is told and of its answer."""
_PID = struct.Struct("i")
_DIRECTORY = Path(shim.__file__).resolve().parent


class Zygote:
    """Makes shims. ``close`` ends the zygote and leaves the shims alone."""

    def __init__(self, state: str, python: str = sys.executable) -> None:
        """``state`` is a directory of ours, in which the zygote may make another for a moment."""
        self._state = state
        self._python = python
        self._control: socket.socket | None = None
        """Where it is asked for forks; its end is the zygote's."""
        self._shims: socket.socket | None = None
        """Where its shims are told what they are; lives and ends with the former."""
        self._process: subprocess.Popen[bytes] | None = None
        self._calls: dict[int, asyncio.Future[int]] = {}
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._gate = asyncio.Semaphore(MAX_ASKED)
        self._sending = asyncio.Lock()
        self._stray: set[subprocess.Popen[bytes]] = set()
        self._spare = False
        """Whether a shim waits that nobody has asked for yet."""
        self._forgetting: asyncio.TimerHandle | None = None

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
            control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            shims, its_shims = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            arguments = [str(its_control.fileno()), str(its_shims.fileno())]
            arguments.append(f"{self._state}/.rehearsal-{os.urandom(4).hex()}")
            try:
                self._process = await in_thread(self._exec, "zygote.py", arguments, its_control, its_shims)
            except OSError as error:
                control.close()
                shims.close()
                log.error("zygote: %s %s", self._python, error)
                return
            finally:
                its_control.close()
                its_shims.close()
            control.setblocking(False)
            shims.setblocking(False)
            self._control, self._shims, self._spare = control, shims, False
            loop = asyncio.get_running_loop()
            loop.add_reader(control.fileno(), self._lost, control)
            loop.add_reader(shims.fileno(), self._hear, shims)

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

    def _exec(self, name: str, arguments: list[str], *inherited: socket.socket) -> subprocess.Popen[bytes]:
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
                pass_fds=[fd for fd in (*(each.fileno() for each in inherited), protected) if fd >= 0],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, env={"PATH": path}, cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            if protected >= 0:
                os.close(protected)

    async def _fork(self, config: Config, listener: socket.socket) -> tuple[int, int]:
        control, shims = self._control, self._shims
        if control is None or shims is None:
            raise Unavailable("it does not run")
        call = next(self._numbers)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._send(shims, CALL.pack(call) + config.encode(), listener.fileno(), answer)
                # One more for each that is taken, whether by a spare or by itself: so one that has died costs nobody.
                self._ask(control)
                await asyncio.wait([answer])  # The end of patience does not end it: it is heard to the last.
        except OSError:  # or TimeoutError, which is one
            self._lost(control)
            if not answer.done() or answer.exception() is not None:
                raise
        finally:
            self._calls.pop(call, None)
        pid = answer.result()
        self._keep_spare(control)
        return pid, _watch(pid)

    def _ask(self, control: socket.socket) -> None:
        try:
            control.send(b"f")
        except OSError as error:
            self._lost(control)
            raise Unavailable(f"it does not listen: {error.strerror}") from error

    def _keep_spare(self, control: socket.socket) -> None:
        """Whoever asks within the next seconds finds a shim that is there already."""
        if control is not self._control:
            return
        if not self._spare:
            try:
                self._ask(control)
            except Unavailable:
                return
            self._spare = True
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(SPARE_TIME, self._forget_spare)

    def _forget_spare(self) -> None:
        """It ends about now by itself."""
        self._spare = False

    async def _send(self, shims: socket.socket, request: bytes, fd: int, answer: asyncio.Future[int]) -> None:
        """Send, as soon as there is room, unless there is an answer already: that the zygote is lost."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            while not answer.done():
                try:
                    socket.send_fds(shims, [request], [fd])
                    return
                except BlockingIOError:
                    room = loop.create_future()
                    loop.add_writer(shims.fileno(), _settle, room)
                    try:
                        await asyncio.wait([room, answer], return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if shims.fileno() >= 0:
                            loop.remove_writer(shims.fileno())

    def _hear(self, shims: socket.socket) -> bool:
        """Take one answer; whether there may be more some time."""
        try:
            data = shims.recv(CALL.size + _PID.size)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:  # The zygote has gone, and so have its shims, to where they are needed.
            if shims is self._shims:
                self._lost(self._control)
            return False
        (call,), (pid,) = CALL.unpack_from(data), _PID.unpack_from(data, CALL.size)
        future = self._calls.get(call)
        if future is None or future.done():
            _end(pid)  # What nobody waits for must not go on.
        else:
            future.set_result(pid)
        return True

    def _lost(self, control: socket.socket | None) -> None:
        """It is gone, or is to go: the next shim starts another. Nothing happens if ``control`` is not its any more.

        It is killed, lest it wake up later and make a second shim for a socket that has one; what it had made is heard.
        """
        shims = self._shims
        if control is None or control is not self._control or shims is None:
            return
        self._control = self._shims = None
        loop = asyncio.get_running_loop()
        loop.remove_reader(control.fileno())
        loop.remove_reader(shims.fileno())
        loop.remove_writer(shims.fileno())
        if self._forgetting is not None:
            self._forgetting.cancel()
        if self._process is not None:
            self._process.kill()
            self._stray.add(self._process)
        waiting = [future for future in self._calls.values() if not future.done()]
        for _ in waiting:
            if not self._hear(shims):
                break
        control.close()
        shims.close()  # A spare sees the end, and ends.
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable("it has ended"))


def _watch(pid: int) -> int:
    """A pidfd of a shim that has just answered. Unavailable if there is none; then there is no shim either."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        _end(pid)
        raise Unavailable(f"watch a new shim: {error.strerror}") from error


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It has ended at once.


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
