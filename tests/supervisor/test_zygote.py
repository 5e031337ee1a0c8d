from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import socket
from pathlib import Path

from portside.shim.main import Config
from portside.supervisor.zygote import MAX_ASKED, Zygote
from tests.support.peers import SLOWNESS


def ended(pidfd: int) -> None:
    """Such a shim ends at once, for it has no directory."""
    try:
        assert select.select([pidfd], [], [], 20 * SLOWNESS)[0]
        assert fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(pidfd)


async def test_more_asked_than_a_socket_buffers_are_all_forked_by_the_same_zygote(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path))
    before = os.listdir("/proc/self/fd")
    config = Config(*["no such directory" * 40] * 6)
    with socket.socket(socket.AF_UNIX) as listener:
        await zygote.start()
        pid = zygote.pid
        assert zygote._control is not None
        zygote._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # room for two or three
        os.kill(pid, signal.SIGSTOP)
        calls = [asyncio.create_task(zygote.spawn(config, listener)) for _ in range(2 * MAX_ASKED)]
        await asyncio.sleep(0)
        while not zygote._calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGCONT)
        shims = await asyncio.gather(*calls)
        assert zygote.pid == pid and len({shim for shim, _ in shims}) == len(calls)
        for _, pidfd in shims:
            ended(pidfd)
    await zygote.close()
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 4  # those of the loop itself


async def test_one_that_is_dropped_is_killed_and_another_takes_its_place(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        await zygote.start()
        first = zygote.pid
        watch = os.pidfd_open(first)
        os.kill(first, signal.SIGSTOP)  # It will not answer, and its socket is taken for broken.
        call = asyncio.create_task(zygote.spawn(Config(*["none"] * 6), listener))
        while not zygote._calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        zygote._lost(zygote._control)
        _, pidfd = await call
        ended(watch)
        assert zygote.pid not in (0, first)
        ended(pidfd)
    await zygote.close()
