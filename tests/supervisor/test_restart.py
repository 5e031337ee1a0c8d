"""What must survive: the daemon's end, the zygote's, the shim's, and shims that say nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portside.core.tasks import Status
from portside.errors import NotFound
from tests.shim.test_logfile import replay
from tests.supervisor.conftest import NAMESPACE, Client, Engine, eventually
from tests.support import leftovers


async def shim_pid(engine: Engine, id: str) -> int:
    return int((await (await engine.task(id)).call("Connect"))["shim_pid"])


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    assert all(pids)  # 0 would be ourselves
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


def worker(keeper: int) -> int:
    """The pid of a shim's worker; 0 while it sleeps."""
    for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        try:
            # Not a container's first process, which has our name until it is started.
            ours = os.readlink(f"/proc/{child}/ns/pid") == os.readlink("/proc/self/ns/pid")
            if ours and Path(f"/proc/{child}/comm").read_text() == "portside-shim\n":
                return int(child)
        except FileNotFoundError:
            continue
    return 0


async def test_containers_go_on_without_daemon_and_zygote(engine: Engine, tmp_path: Path) -> None:
    uri = f"log://{tmp_path}/c.log"
    client = Client(tmp_path)
    ends = "trap 'echo end; exit 3' TERM; while :; do sleep 0.01; done"
    await engine.run("logged", "sh", "-c", ends, io={"stdout": uri})
    await engine.run("piped", "cat", io=client.io)
    before = await (await engine.task("logged")).state()
    os.kill(engine.supervisor.zygote_pid, signal.SIGKILL)
    await engine.restart()
    assert await (await engine.task("logged")).state() == before
    await client.feed(b"through two daemons")
    await (await engine.task("piped")).call("CloseIO", {"stdin": True})
    assert await client.output() == b"through two daemons"
    await (await engine.task("logged")).kill(15, "", False)
    assert (await (await engine.task("logged")).wait()).status == 3
    assert replay(tmp_path / "c.log") == b"end\n"
    await engine.remove("piped")
    await engine.remove("logged")


async def test_an_exit_while_nobody_was_there_is_told_once(engine: Engine) -> None:
    await engine.run("c", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.01; done")
    await engine.heard_of("c", "start")
    pid = (await (await engine.task("c")).state()).pid
    await engine.vanish()
    os.kill(pid, signal.SIGTERM)
    await eventually(lambda: gone(pid), "the end of the container")
    await engine.restart()
    (event,) = await engine.heard_of("c", "exit")
    assert (event["exit_status"], event["pid"]) == (9, pid)
    task = await engine.task("c")
    assert (await task.wait()).status == 9 and (await task.state()).exit_status == 9
    await engine.restart()
    assert (await (await engine.task("c")).wait()).status == 9
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exit", "delete"]


async def test_who_waits_survives_a_shim_that_is_killed(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    await engine.heard_of("c", "start")
    pid = (await task.state()).pid
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    os.kill(await shim_pid(engine, "c"), signal.SIGKILL)
    ended = await waiting
    assert (ended.status, ended.pid) == (137, pid)
    (event,) = await engine.heard_of("c", "exit")
    assert event["exit_status"] == 137
    await eventually(lambda: gone(pid), "the end of the container")
    assert (await task.state()).status == Status.STOPPED
    with pytest.raises(NotFound):
        await task.kill(9, "", False)
    assert (await engine.supervisor.delete(task)).status == 137
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exit", "delete"]


async def test_an_exec_of_a_shim_that_is_killed_has_an_end(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    pid = await engine.exec(task, "e", "sleep", "1000")
    os.kill(await shim_pid(engine, "c"), signal.SIGKILL)
    ended = await task.wait("e")
    assert (ended.status, ended.pid) == (137, pid)
    first, second = await engine.heard_of("c", "exit", 2)
    assert (first["id"], first["pid"], second["id"]) == ("e", pid, "c")
    assert (await task.delete("e")).status == 137


async def test_who_waits_for_an_exec_hears_of_the_end_of_its_task(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    process = {"type_url": "Process", "value": b'{"args": ["true"], "cwd": "/"}'}
    await task.call("Exec", {"exec_id": "never started", "spec": process})
    waiting = asyncio.create_task(task.wait("never started"))
    await asyncio.sleep(0)
    await engine.remove("c")
    with pytest.raises(NotFound):
        await waiting


async def test_nothing_is_remembered_of_execs_that_are_deleted(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    for _ in range(3):
        await engine.exec(task, "again", "true")
        assert (await task.wait("again")).status == 0
        await engine.heard_of("c", "exit")
        engine.events.clear()
        await task.delete("again")
    assert not task.told and not task._waits and not task._ended


async def test_a_shim_that_died_with_the_daemon_leaves_a_task_that_can_be_deleted(engine: Engine) -> None:
    task = await engine.run("c", "sh", "-c", "sleep 1000 & sleep 1000; true")
    shim, pid = await shim_pid(engine, "c"), (await task.state()).pid
    await engine.vanish()
    os.kill(shim, signal.SIGKILL)
    await engine.restart()
    task = await engine.task("c")
    assert (await task.wait()).status == 137
    await eventually(lambda: not leftovers.cgroups(f"{engine.cgroup}/c"), "the end of the control group")
    assert gone(pid)
    assert (await engine.supervisor.delete(task)).pid == pid
    await engine.heard_of("c", "delete")


async def test_an_exit_that_the_dead_shim_had_recorded_is_known(engine: Engine) -> None:
    task = await engine.run("c", "sh", "-c", "exit 5")
    await task.wait()
    shim = await shim_pid(engine, "c")
    await engine.vanish()
    os.kill(shim, signal.SIGKILL)
    await engine.restart()
    assert (await (await engine.task("c")).wait()).status == 5
    assert (await engine.remove("c")).status == 5


async def test_a_shim_that_says_nothing_holds_nobody_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALL_TIMEOUT", "STATE_TIMEOUT", "DELETE_TIMEOUT", "SHUTDOWN_TIMEOUT"):
        monkeypatch.setattr(f"portside.supervisor.task.{name}", 0.2)
    monkeypatch.setattr("portside.supervisor.supervisor.ADOPT_TIMEOUT", 0.2)
    await engine.run("mute", "sleep", "1000")
    await engine.run("other", "sleep", "1000")
    keeper = await shim_pid(engine, "mute")
    with stopped(keeper, worker(keeper)):
        await engine.restart()
        assert (await (await engine.task("other")).state()).status == Status.RUNNING
        mute = await engine.task("mute")
        state = await mute.state()
        assert state.status == Status.RUNNING and not gone(state.pid)
        await mute.kill(9, "", False)
        await eventually(lambda: gone(state.pid), "the end of the container")
        assert (await mute.state()).status == Status.STOPPED
        assert (await engine.supervisor.delete(mute)).status == 137
        with pytest.raises(NotFound):
            await engine.task("mute")
    await engine.heard_of("mute", "delete")
    await engine.remove("other")


def gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


async def test_leftovers_that_make_no_sense_are_cleaned_away(engine: Engine) -> None:
    await engine.vanish()
    plugin = engine.directory / "state/io.containerd.runtime.v2.task" / NAMESPACE
    make_nonsense(plugin)
    await engine.restart()
    await eventually(lambda: not os.listdir(plugin), f"the end of nonsense: {os.listdir(plugin)}")


def make_nonsense(plugin: Path) -> None:
    plugin.mkdir(parents=True, exist_ok=True)
    contents = {
        "empty": {},
        "no-shim": {"address": f"unix://{plugin}/nowhere", "config.json": "{}"},
        "bad-record": {"state.json": "{", "address": "\0"},
        "wrong-record": {"state.json": '{"version":1,"processes":{"":{"pid":"x"}}}'},
        ".gone-abc": {"config.json": "{}"},
    }
    for name, files in contents.items():
        (plugin / name).mkdir()
        for file, text in files.items():
            (plugin / name / file).write_text(text)


async def test_shims_are_made_when_the_zygote_was_killed_or_cannot_be_had(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(engine.supervisor.zygote_pid, signal.SIGKILL)
    assert (await (await engine.run("after-kill", "true")).wait()).status == 0
    await engine.remove("after-kill")
    monkeypatch.setattr("portside.supervisor.zygote.ANSWER_TIMEOUT", 0.3)
    with stopped(engine.supervisor.zygote_pid):
        assert (await (await engine.run("without", "sh", "-c", "exit 4")).wait()).status == 4
        await engine.remove("without")


async def test_sixty_containers_at_once_leave_nothing(engine: Engine) -> None:
    async def one(number: int) -> None:
        task = await engine.run(f"c{number}", "sh", "-c", f"exit {number}")
        assert (await task.wait()).status == number
        await engine.supervisor.delete(task)

    for start in range(0, 60, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    for number in range(60):
        await engine.heard_of(f"c{number}", "delete")
        assert engine.topics(f"c{number}") == ["create", "start", "exit", "delete"]


async def test_a_daemon_that_dies_again_and_again(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    pid = (await task.state()).pid
    for round_number in range(9):
        await engine.restart()
        task = await engine.task("c")
        assert (await task.state()).pid == pid
        exec_id = f"e{round_number}"
        await engine.exec(task, exec_id, "sh", "-c", f"exit {round_number}")
        if round_number % 3 == 0:
            await engine.restart()
            task = await engine.task("c")
        assert (await task.wait(exec_id)).status == round_number
        await task.delete(exec_id)
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    exits = [event["id"] for topic, event in engine.events if topic == "/tasks/exit"]
    assert exits == [f"e{number}" for number in range(9)] + ["c"]
