"""Activated mounts and a daemon that is killed: what was acknowledged is there, nothing else is."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.core.mount import Mount
from portside.errors import PortsideError
from portside.remote.backend import RemoteBackend
from tests.contracts.mounts import below
from tests.support.peers import Daemon, need_root, wait_for

pytestmark = pytest.mark.root

ROUNDS = 4


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    need_root()
    with tempfile.TemporaryDirectory(prefix="portside") as place:
        daemon = Daemon(Path(place))
        yield daemon
        daemon.stop()
        assert below(daemon.state) == []


async def churn(daemon: Daemon, number: int, until: float) -> tuple[set[str], set[str]]:
    """Activate and deactivate until the daemon is gone; the names that must be there, and those that may be."""
    sure: set[str] = set()
    maybe: set[str] = set()

    async def client(index: int) -> None:
        async with await RemoteBackend.connect(str(daemon.socket)) as backend:
            mounts = backend.bind("default", "holder").mounts
            for step in range(10_000):
                name = f"{number}-{index}-{step}"
                maybe.add(name)
                await mounts.activate(name, [Mount("tmpfs", "tmpfs", options=("size=64k",))] * 2, temporary=True)
                maybe.discard(name)
                sure.add(name)
                if step % 2:
                    sure.discard(name)
                    maybe.add(name)
                    await mounts.deactivate(name)
                    maybe.discard(name)

    tasks = [asyncio.create_task(client(index)) for index in range(4)]
    await asyncio.sleep(until)
    daemon.kill()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, PortsideError | OSError)
    return sure, maybe


def wait_for_no_others(daemon: Daemon, places: set[str]) -> None:
    wait_for(lambda: set(below(daemon.state)) == places, "what has no record to be undone")


async def test_killed_and_started_again(daemon: Daemon) -> None:
    chance = random.Random(7)
    known: set[str] = set()
    for number in range(ROUNDS):
        daemon.start()
        async with await RemoteBackend.connect(str(daemon.socket)) as backend:
            services = backend.bind("default")
            if not number:
                await services.leases.create("holder")
            found = {activation.name: activation for activation in await services.mounts.list()}
            assert known <= set(found)
            wait_for_no_others(daemon, {active.mount_point for made in found.values() for active in made.active})
        sure, maybe = await churn(daemon, number, chance.uniform(0.1, 0.5))
        known = (set(found) | sure) - maybe
        known -= {name for name in found if name in maybe}
    daemon.start()
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        services = backend.bind("default")
        assert known <= {activation.name for activation in await services.mounts.list()}
        await services.leases.delete("holder", sync=True)
        assert list(await services.mounts.list()) == []
    wait_for(lambda: below(daemon.state) == [], "all mounts to be undone")
