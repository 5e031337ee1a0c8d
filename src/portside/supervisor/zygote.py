"""The daemon's end of the zygote: start it, ask it for shims, start it again when it dies, do without it when it must.

What the zygote does, and the messages, are in ``shim/zygote.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from portside import shim
from portside.errors import Unavailable
from portside.shim.main import Config
from portside.shim.zygote import CALL

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 5.0
"""Seconds that the zygote may take for a fork before a shim is started without it."""
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
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            arguments = [str(theirs.fileno()), f"{self._state}/.rehearsal-{os.urandom(4).hex()}"]
            try:
                self._process = await asyncio.to_thread(self._exec, "zygote.py", arguments, theirs)
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
        for _ in range(2):  # It may have died since it was last asked.
            await self.start()
            try:
                return await self._fork(config, listener)
            except (OSError, TimeoutError, Unavailable) as error:
                log.warning("zygote: cannot fork a shim: %s", error or "no answer")
                self._lost()
        try:
            process = await asyncio.to_thread(
                self._exec,
                "main.py",
                [os.fsdecode(config.encode().replace(b"\0", b"\n")), str(listener.fileno())],
                listener,
            )
        except OSError as error:
            raise Unavailable(f"start a shim: {error}") from error
        self._stray = {child for child in self._stray if child.poll() is None} | {process}
        return process.pid, os.pidfd_open(process.pid)

    async def close(self) -> None:
        """End the zygote."""
        async with self._lock:
            self._lost()
            process, self._process = self._process, None
            if process is not None:
                await asyncio.to_thread(_finish, process)

    def _exec(self, name: str, arguments: list[str], inherited: socket.socket) -> subprocess.Popen[bytes]:
        """Start one of the shim's programs: isolated, without site, in a session of its own."""
        command = [self._python, "-I", "-S", "-E", str(_DIRECTORY / name), *arguments]
        path = os.environ.get("PATH", os.defpath)
        return subprocess.Popen(
            command, pass_fds=(inherited.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env={"PATH": path}, cwd="/", start_new_session=True,
        )  # fmt: skip

    async def _fork(self, config: Config, listener: socket.socket) -> tuple[int, int]:
        if self._control is None:
            raise Unavailable("it does not run")
        call = next(self._numbers)
        request = CALL.pack(call) + config.encode()
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self._control, [request], [listener.fileno()])
            async with asyncio.timeout(ANSWER_TIMEOUT):
                shim: tuple[int, int] = await answer
                return shim
        except TimeoutError:
            # It must not wake up later and make a second shim for the same socket.
            if self._process is not None:
                self._process.kill()
            self._lost()
            raise
        finally:
            self._calls.pop(call, None)

    def _answered(self) -> None:
        assert self._control is not None
        try:
            data, fds, _flags, _peer = socket.recv_fds(self._control, 1 << 16, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._lost()
            return
        (call,) = CALL.unpack_from(data)
        (pid,) = struct.unpack_from("i", data, CALL.size)
        future = self._calls.get(call)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        else:
            future.set_result((pid, fds[0]))

    def _lost(self) -> None:
        """It is gone, or is to go: the next shim starts another."""
        control, self._control = self._control, None
        if control is None:
            return
        asyncio.get_running_loop().remove_reader(control.fileno())
        control.close()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(Unavailable("it has ended"))
        if self._process is not None:
            self._stray.add(self._process)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Its end of the socket is closed, so it ends; if it does not, it is made to."""
    try:
        process.wait(ANSWER_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
