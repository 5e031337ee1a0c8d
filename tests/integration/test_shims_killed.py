"""Shims, their workers, spares and the zygote are killed at random while containers come and go: nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

import portside
from portside.client.run_options import RunOptions
from portside.errors import PortsideError
from tests.support import leftovers
from tests.support.census import Census
from tests.support.peers import Daemon

pytestmark = pytest.mark.root

SECONDS = 300.0 if os.environ.get("PORTSIDE_SOAK") else 6.0
CLIENTS = 4
NAMESPACE = f"killed-{os.getpid()}"
WORDS = (f"portside-shim -namespace {NAMESPACE} ", "portside-shim (spare)", "portside-zygote")


def _is_of(pid: int, daemon: Daemon) -> bool:
    """Whether a process is the daemon's zygote or a shim of it, a spare one too: other daemons may run beside it."""
    assert daemon.process is not None
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith(f"{daemon.state}/"):
            return True
        for _ in range(3):
            if pid == daemon.process.pid:
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return False


async def _live(client: portside.Client, image: str, end: float, chance: random.Random) -> tuple[int, int]:
    """Containers that went their way, and those that were hit."""
    whole = hit = 0
    while time.monotonic() < end:
        code = chance.randrange(50)
        try:
            async with asyncio.timeout(60):
                task = await client.run(
                    image, ["sh", "-c", f"sleep 0.{chance.randrange(4)}; exit {code}"],
                    options=RunOptions(), detach=True, keep=True,
                )  # fmt: skip
                try:
                    if chance.random() < 0.5:
                        await task.exec(["true"])
                    whole += await task.wait() == code
                finally:
                    await task.remove(force=True)
        except PortsideError:
            hit += 1
    return whole, hit


async def _kill(daemon: Daemon, end: float, chance: random.Random) -> int:
    kills = 0
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.02, 0.3))
        word = chance.choice(WORDS)
        pids = [pid for pid in leftovers.processes(word) if _is_of(pid, daemon)]
        if pids:
            try:
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                continue
    return kills


async def test_shims_are_killed_at_any_moment(daemon: Daemon, busybox: str) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with portside.connect(f"unix://{daemon.socket}", namespace=NAMESPACE) as client:
        await client.pull(busybox)
        task = await client.run(busybox, ["true"], detach=True, keep=True)
        await task.wait()
        await task.remove()
        census = Census(daemon, NAMESPACE)
        end = time.monotonic() + SECONDS
        killing = asyncio.create_task(_kill(daemon, end, chance))
        lives = await asyncio.gather(
            *(_live(client, busybox, end, random.Random(chance.random())) for _ in range(CLIENTS))
        )
        assert await killing > 0
        assert sum(whole for whole, _ in lives) > 0
        await asyncio.to_thread(census.check, 20)
