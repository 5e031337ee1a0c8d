"""What a start that is cancelled leaves behind. The moment cannot be hit with a real shim, so its side is played."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from portside.client.exec import ExecOptions, exec_process
from portside.client.start import start
from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.core.tasks import Exit, Process, Status, TaskIO
from portside.errors import FailedPrecondition, NotFound


@dataclass
class _Tasks:
    """One process, whose start takes effect at once and is answered never."""

    status: Status | None = None
    running: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, *args: Any, **kwargs: Any) -> int:
        self.status = Status.CREATED
        return 1

    exec = create

    async def start(self, id: str, exec_id: str = "") -> int:
        self.status = Status.RUNNING
        self.running.set()
        return await asyncio.get_running_loop().create_future()

    async def get(self, id: str, exec_id: str = "") -> Process:
        if self.status is None:
            raise NotFound("gone")
        return Process(id, exec_id, 1, self.status, TaskIO())

    async def kill(self, id: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        assert all == (not exec_id)
        self.status = Status.STOPPED

    async def wait(self, id: str, exec_id: str = "") -> Exit:
        assert self.status is Status.STOPPED
        return Exit(1, 137, 0)

    async def delete(self, id: str, exec_id: str = "") -> None:
        if self.status is Status.RUNNING:
            raise FailedPrecondition("it runs")
        self.status = None


@dataclass
class _Services:
    tasks: _Tasks = field(default_factory=_Tasks)


@pytest.mark.parametrize("what", ["exec", "start"])
async def test_cancelled_when_the_process_runs_already(what: str) -> None:
    services: Any = _Services()
    spec = AnyMessage("spec", json.dumps({"process": {"args": ["sleep"], "cwd": "/"}}).encode())
    container = Container("c", "r", spec=spec)
    if what == "exec":
        call = asyncio.create_task(exec_process(services, container, ExecOptions(["true"])))
    else:
        call = asyncio.create_task(start(services, container, TaskIO(), rootfs=()))
    await services.tasks.running.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert services.tasks.status is None
