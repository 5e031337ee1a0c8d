from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import socket
from pathlib import Path

from portside.shim.config import Config
from portside.supervisor.zygote import MAX_ASKED, Zygote
from tests.support.peers import SLOWNESS


def ends(pidfd: int) -> None:
    try:
        assert select.select([pidfd], [], [], 20 * SLOWNESS)[0]
        assert fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(pidfd)


def config(directory: Path, number: int = 0) -> Config:
    """Of a shim that does nothing but wait."""
    bundle = directory / str(number)
    bundle.mkdir()
    return Config("test", "c", str(bundle), "", "", "long " * 800)


async def test_more_asked_than_a_socket_buffers_are_all_forked_by_the_same_zygote(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        await zygote.start()
        pid = zygote.pid
        assert zygote._shims is not None
        zygote._shims.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # room for few
        os.kill(pid, signal.SIGSTOP)
        calls = [
            asyncio.create_task(zygote.spawn(config(tmp_path, number), listener)) for number in range(MAX_ASKED + 8)
        ]
        while len(zygote._calls) < MAX_ASKED:  # noqa: ASYNC110
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGCONT)
        shims = await asyncio.gather(*calls)
        for _, pidfd in shims:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ends(pidfd)
        assert zygote.pid == pid and len({shim for shim, _ in shims}) == len(calls)
    await zygote.close()


async def test_one_that_is_dropped_is_killed_and_another_takes_its_place(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        await zygote.start()
        first = zygote.pid
        watch = os.pidfd_open(first)
        os.kill(first, signal.SIGSTOP)  # It will not answer, and its socket is taken for broken.
        call = asyncio.create_task(zygote.spawn(config(tmp_path), listener))
        while not zygote._calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        zygote._lost(zygote._control)
        _, pidfd = await call
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ends(pidfd)
        ends(watch)
        assert zygote.pid not in (0, first)
    await zygote.close()
