"""Shims that sleep: nothing is lost, whatever wakes them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from portside.core.tasks import Status
from tests.shim.test_logfile import replay
from tests.supervisor.conftest import Client, Engine, eventually
from tests.supervisor.test_restart import gone, shim_pid, worker

ENDS = "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 1000 & wait; done"


async def asleep(keeper: int) -> None:
    await eventually(lambda: not worker(keeper), "the sleep of the shim")


async def test_calls_output_and_exits_wake_it(engine: Engine, tmp_path: Path) -> None:
    task = await engine.run("c", "sh", "-c", ENDS, io={"stdout": f"log://{tmp_path}/c.log"})
    keeper, pid = await shim_pid(engine, "c"), (await task.state()).pid
    waiting = [asyncio.create_task(task.wait()) for _ in range(3)]
    await asleep(keeper)
    assert (await task.state()).pid == pid
    client = Client(tmp_path)
    await engine.exec(task, "e", "sh", "-c", "sleep 1; cat; exit 4", io=client.io)
    exec_wait = asyncio.create_task(task.wait("e"))
    await asleep(keeper)
    await client.feed(b"typed while it slept")
    await task.call("CloseIO", {"exec_id": "e", "stdin": True})
    assert (await exec_wait).status == 4
    assert await client.output() == b"typed while it slept"
    await task.delete("e")
    os.kill(pid, signal.SIGTERM)
    assert {ended.status for ended in await asyncio.gather(*waiting)} == {3}
    assert replay(tmp_path / "c.log") == b"hello\nbye\n"
    assert (await task.state()).exit_status == 3
    await engine.supervisor.delete(task)
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]


async def test_a_terminal_and_a_pause_survive_sleep(engine: Engine, tmp_path: Path) -> None:
    client = Client(tmp_path)
    task = await engine.run("c", "sh", io={**client.io, "stderr": "", "terminal": True})
    keeper = await shim_pid(engine, "c")
    await task.call("Pause")
    await asleep(keeper)
    assert (await task.state()).status == Status.PAUSED
    await task.call("Resume")
    await task.call("ResizePty", {"width": 91, "height": 17})
    await asleep(keeper)
    await client.feed(b"stty size; exit 4\n")
    assert (await task.wait()).status == 4
    assert b"17 91" in await client.output()
    await engine.supervisor.delete(task)


async def test_a_created_task_and_a_dead_daemon_survive_sleep(engine: Engine) -> None:
    await engine.create("c", "sh", "-c", "exit 6")
    keeper = await shim_pid(engine, "c")
    await asleep(keeper)
    await engine.vanish()
    await asleep(keeper)
    await engine.restart()
    task = await engine.task("c")
    await task.start("")
    assert (await task.wait()).status == 6
    await asleep(keeper)
    await engine.restart()
    assert (await (await engine.task("c")).wait()).status == 6
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exit", "delete"]


@pytest.mark.parametrize("victim", ["worker", "keeper"])
async def test_one_goes_with_the_other(engine: Engine, victim: str) -> None:
    task = await engine.run("c", "sleep", "1000")
    keeper = await shim_pid(engine, "c")
    pid, at_work = (await task.state()).pid, worker(keeper)
    assert at_work
    os.kill(at_work if victim == "worker" else keeper, signal.SIGKILL)
    assert (await task.wait()).status == 137
    await eventually(lambda: gone(pid) and gone(keeper) and gone(at_work), "the end of all three")
    await engine.supervisor.delete(task)
