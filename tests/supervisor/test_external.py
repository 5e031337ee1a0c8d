"""An external OCI runtime, by ``BinaryName``: Debian's runc."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from portside.core.tasks import Status
from portside.errors import FailedPrecondition, NotFound, PortsideError
from portside.wire.codec import encode
from portside.wire.tables.containerd_runc_v1 import Options
from tests.supervisor.conftest import Client, Engine, eventually
from tests.support import leftovers
from tests.support.peers import need_program

pytestmark = pytest.mark.peer("runc")


@pytest.fixture
def runc(engine: Engine) -> dict[str, object]:
    need_program("runc")
    options = {"binary_name": "runc", "root": str(engine.directory / "runc")}
    return {"type_url": "containerd.runc.v1.Options", "value": encode(Options, options)}


async def test_a_life_with_runc(engine: Engine, runc: dict[str, object], tmp_path: Path) -> None:
    client = Client(tmp_path)
    task = await engine.run("c", "sh", "-c", "cat; echo problem >&2; exit 7", io=client.io, options=runc)
    await client.feed(b"data")
    await task.call("CloseIO", {"stdin": True})
    assert (await task.wait()).status == 7
    assert await client.output() == b"data" and await client.errors() == b"problem\n"
    await engine.supervisor.delete(task)
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exit", "delete"]


async def test_exec_pause_stats_and_kill_with_runc(engine: Engine, runc: dict[str, object], tmp_path: Path) -> None:
    task = await engine.run("c", "sleep", "1000", options=runc)
    client = Client(tmp_path)
    await engine.exec(task, "e", "sh", "-c", "echo inside; exit 2", io={"stdout": client.io["stdout"]})
    assert (await task.wait("e")).status == 2
    assert await client.output() == b"inside\n"
    await task.delete("e")
    await task.call("Pause")
    assert (await task.state()).status == Status.PAUSED
    await task.call("Resume")
    assert len((await task.call("Pids"))["processes"]) == 1
    assert (await task.call("Stats"))["stats"]["type_url"].startswith("io.containerd.cgroups.v")
    with pytest.raises(FailedPrecondition):
        await engine.supervisor.delete(task)
    await task.kill(9, "", True)
    assert (await task.wait()).status == 137
    with pytest.raises(NotFound):
        await task.kill(9, "", False)
    await engine.supervisor.delete(task)


async def test_a_slow_runtime_holds_nobody_up(engine: Engine, runc: dict[str, object], tmp_path: Path) -> None:
    gate, script = tmp_path / "gate", tmp_path / "runtime"
    os.mkfifo(gate)
    verbs = f'*" pause "*) read line < {gate};; *" ps "*) echo a warning >&2;;'
    script.write_text(f'#!/bin/sh\ncase "$*" in {verbs} esac\nexec runc "$@"\n')
    script.chmod(0o755)
    options = {"binary_name": str(script), "root": str(engine.directory / "runc")}
    task = await engine.run("c", "sleep", "1000", options={**runc, "value": encode(Options, options)})
    pausing = asyncio.create_task(task.call("Pause"))
    assert len((await task.call("Pids"))["processes"]) == 1
    assert (await task.call("State"))["status"] == Status.RUNNING and not pausing.done()
    await asyncio.to_thread(gate.write_text, "go\n")
    await pausing
    assert (await task.state()).status == Status.PAUSED
    await task.call("Resume")
    with pytest.raises(PortsideError):
        await task.call("Resume")
    assert engine.topics("c")[-2:] == ["paused", "resumed"]
    await engine.remove("c")


async def test_a_terminal_with_runc(engine: Engine, runc: dict[str, object], tmp_path: Path) -> None:
    client = Client(tmp_path)
    io = {**client.io, "stderr": "", "terminal": True}
    task = await engine.run("c", "sh", io=io, options=runc)
    await task.call("ResizePty", {"width": 91, "height": 17})
    await client.feed(b"stty size; exit 4\n")
    assert (await task.wait()).status == 4
    assert b"17 91" in await client.output()
    await engine.supervisor.delete(task)


async def test_what_runc_says_is_the_error(engine: Engine, runc: dict[str, object]) -> None:
    with pytest.raises(PortsideError, match=r"runc create c: .*nosuchprogram"):
        await engine.create("c", "nosuchprogram", options=runc)
    await eventually(lambda: not leftovers.cgroups(engine.cgroup + "/"), "the end of the control groups")
    missing = {"type_url": "containerd.runc.v1.Options", "value": encode(Options, {"binary_name": "no-such-runtime"})}
    with pytest.raises(NotFound, match="no-such-runtime"):
        await engine.create("c", "true", options=missing)


async def test_a_dead_shim_of_runc_leaves_nothing(engine: Engine, runc: dict[str, object]) -> None:
    task = await engine.run("c", "sleep", "1000", options=runc)
    shim = (await task.call("Connect"))["shim_pid"]
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    os.kill(shim, 9)
    assert (await waiting).status == 137
    await engine.supervisor.delete(task)
    task = await engine.run("c", "true", options=runc)
    assert (await task.wait()).status == 0
    await engine.supervisor.delete(task)
