"""Processes added by exec go when they have ended, whoever listens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from portside.core.anymessage import PROCESS, AnyMessage
from portside.core.tasks import TaskIO
from portside.engine.autoremove import AutoRemove
from portside.errors import NotFound
from tests.engine.test_tasks import World, engine, rootfs, world  # noqa: F401
from tests.support import bundles


class Services:
    """As much of a namespace's services as an exec needs."""

    namespace = "ns"

    def __init__(self, world: World) -> None:  # noqa: F811
        self.tasks = world.tasks


async def test_an_exec_that_nobody_waits_for(world: World) -> None:  # noqa: F811
    services: Any = Services(world)
    await world.run("c", "sleep", "1000")
    watching = AutoRemove()
    spec = AnyMessage(PROCESS, bundles.dump(bundles.process("sh", "-c", "exit 6")))
    await world.tasks.exec("c", "e", spec, TaskIO())
    await world.tasks.start("c", "e")
    ending = watching.watch_exec(services, "c", "e")
    assert watching.watch_exec(services, "c", "e") is ending
    async with asyncio.timeout(20):
        assert (await ending).status == 6
    with pytest.raises(NotFound):
        await world.tasks.get("c", "e")
    await watching.close()
    await world.tasks.kill("c", 9)
    await world.tasks.wait("c")
    await world.tasks.delete("c")
