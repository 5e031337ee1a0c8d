from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from portside.core.anymessage import LINUX_RESOURCES
from portside.core.tasks import Status
from portside.errors import AlreadyExists, FailedPrecondition, NotFound, PortsideError, Unimplemented
from portside.wire.codec import decode
from portside.wire.tables import io_containerd_cgroups_v1 as v1
from portside.wire.tables import io_containerd_cgroups_v2 as v2
from tests.shim.test_logfile import replay
from tests.supervisor.conftest import NAMESPACE, Client, Engine, eventually
from tests.support import leftovers
from tests.support.bundles import dump, overlay_mount


async def test_a_life_in_order(engine: Engine) -> None:
    pid = await engine.create("c", "sh", "-c", "exit 7")
    task = await engine.task("c")
    state = await task.state()
    assert (state.pid, state.status) == (pid, Status.CREATED)
    assert await task.start("") == pid
    ended = await task.wait()
    assert (ended.status, ended.pid) == (7, pid) and ended.exited_ns > 0
    assert (await task.state()).status == Status.STOPPED
    assert (await engine.supervisor.delete(task)).status == 7
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "exit", "delete"]
    with pytest.raises(NotFound):
        await engine.task("c")


async def test_errors_that_clients_branch_on(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    with pytest.raises(AlreadyExists):
        await engine.create("c", "true")
    with pytest.raises(FailedPrecondition):
        await task.start("")
    with pytest.raises(FailedPrecondition):
        await engine.supervisor.delete(task)
    with pytest.raises(NotFound):
        await task.state("nothing")
    await task.kill(9, "", False)
    assert (await task.wait()).status == 137
    with pytest.raises(NotFound, match="process already finished"):
        await task.kill(9, "", False)
    with pytest.raises(FailedPrecondition):
        await engine.exec(task, "late", "true")
    with pytest.raises(NotFound):
        await engine.supervisor.task(NAMESPACE, "missing")
    await engine.supervisor.delete(task)


async def test_streams_by_fifo_are_exact(engine: Engine, tmp_path: Path) -> None:
    data = os.urandom(2_000_000)
    client = Client(tmp_path)
    task = await engine.run("c", "cat", io=client.io)
    await client.feed(data)
    await task.call("CloseIO", {"stdin": True})
    assert (await task.wait()).status == 0
    assert await client.output() == data
    await engine.supervisor.delete(task)


async def test_a_failed_create_leaves_nothing_and_can_be_repeated(engine: Engine) -> None:
    with pytest.raises(PortsideError, match="nosuchprogram"):
        await engine.create("c", "/bin/nosuchprogram")
    await eventually(lambda: len(engine.shims()) == 1, "the end of the shim")
    assert not engine.topics("c")
    with pytest.raises(PortsideError, match="JSON"):
        await engine.supervisor.create(NAMESPACE, "c", b"{not json", {})
    with pytest.raises(NotFound):
        await engine.create("c", "true", io={"stdout": "/nowhere/fifo"})
    task = await engine.run("c", "true")
    assert (await task.wait()).status == 0


async def test_hooks_after_start_and_end(engine: Engine, tmp_path: Path) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"sleep 0.1; cat >> {tmp_path}/states"], "env": ["PATH=/bin"]}
    spec = json.loads(engine.spec("true"))
    spec["hooks"] = {"poststart": [hook], "poststop": [hook, {"path": "/bin/false"}]}
    mount = overlay_mount(engine.rootfs, engine.directory / "snapshots/c")
    await engine.supervisor.create(NAMESPACE, "c", dump(spec), {"rootfs": [mount]})
    task = await engine.task("c")
    await task.start("")
    assert (await task.wait()).status == 0
    assert (await engine.supervisor.delete(task)).status == 0
    first, second = (tmp_path / "states").read_text().replace("}{", "}\n{").splitlines()
    assert json.loads(first)["status"] == "running" and json.loads(second)["status"] == "stopped"


async def test_exec_and_its_events(engine: Engine, tmp_path: Path) -> None:
    task = await engine.run("c", "sleep", "1000")
    client = Client(tmp_path)
    pid = await engine.exec(task, "e1", "sh", "-c", "cat; echo error >&2; exit 3", io=client.io)
    await client.feed(b"typed")
    await task.call("CloseIO", {"exec_id": "e1", "stdin": True})
    ended = await task.wait("e1")
    assert (ended.status, ended.pid) == (3, pid)
    assert await client.output() == b"typed" and await client.errors() == b"error\n"
    with pytest.raises(AlreadyExists):
        await engine.exec(task, "e1", "true")
    assert (await task.delete("e1")).status == 3
    with pytest.raises(NotFound):
        await task.state("e1")
    with pytest.raises(PortsideError, match="nosuchprogram"):
        await engine.exec(task, "e2", "nosuchprogram")
    assert (await task.delete("e2")).status == 255
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exec-added",
        "exit",
        "delete",
    ]


async def test_many_execs_at_once_each_with_its_own_output(engine: Engine, tmp_path: Path) -> None:
    task = await engine.run("c", "sleep", "1000")

    async def one(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        client = Client(tmp_path / str(number))
        await engine.exec(task, f"e{number}", "sh", "-c", f"echo {number}; exit {number}", io=client.io)
        assert (await task.wait(f"e{number}")).status == number
        assert await client.output() == f"{number}\n".encode()
        await task.delete(f"e{number}")

    await asyncio.gather(*(one(number) for number in range(40)))
    await engine.remove("c")


async def test_a_terminal(engine: Engine, tmp_path: Path) -> None:
    client = Client(tmp_path)
    task = await engine.run("c", "sh", io={**client.io, "stderr": "", "terminal": True})
    await task.call("ResizePty", {"width": 91, "height": 17})
    await client.feed(b"stty size; tty; exit 4\n")
    assert (await task.wait()).status == 4
    output = await client.output()
    assert b"17 91" in output and b"/dev/" in output
    await engine.supervisor.delete(task)


async def test_kill_before_start_and_delete_before_start(engine: Engine) -> None:
    await engine.create("c", "true")
    task = await engine.task("c")
    assert (await engine.supervisor.delete(task)).status == 137
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "exit", "delete"]
    await engine.create("d", "true")
    task = await engine.task("d")
    await task.kill(15, "", False)
    await task.kill(9, "", False)
    assert (await task.wait()).status in (137, 143)
    await engine.supervisor.delete(task)


async def test_pause_resume_pids_stats_update(engine: Engine) -> None:
    task = await engine.run("c", "sh", "-c", "sleep 1000 & sleep 1001; true")
    await eventually(lambda: "sleep 1001 " in leftovers.processes("sleep 1001").values(), "the container's processes")
    await task.call("Pause")
    assert (await task.state()).status == Status.PAUSED
    with pytest.raises(FailedPrecondition):
        await task.call("Pause")
    with pytest.raises(FailedPrecondition, match="paused"):
        await engine.exec(task, "e", "true")
    await task.call("Resume")
    assert (await task.state()).status == Status.RUNNING
    pids = [entry["pid"] for entry in (await task.call("Pids"))["processes"]]
    assert len(pids) == 3 and (await task.state()).pid in pids
    stats = (await task.call("Stats"))["stats"]
    version = stats["type_url"].split(".")[3]
    figures = decode({"v1": v1, "v2": v2}[version].Metrics, stats["value"])
    assert figures["pids"]["current"] == 3
    limit = dump({"pids": {"limit": 99}})
    await task.call("Update", {"resources": {"type_url": LINUX_RESOURCES, "value": limit}})
    stats = (await task.call("Stats"))["stats"]
    assert decode({"v1": v1, "v2": v2}[version].Metrics, stats["value"])["pids"]["limit"] == 99
    with pytest.raises(Unimplemented):
        await task.call("Checkpoint")
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    assert engine.topics("c") == ["create", "start", "paused", "exec-added", "resumed", "exit", "delete"]


async def test_out_of_memory_is_told(engine: Engine) -> None:
    limit = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    task = await engine.run("c", "sh", "-c", "tail /dev/zero", resources=limit)
    assert (await task.wait()).status in (1, 137)
    await engine.remove("c")
    await engine.heard_of("c", "delete")
    if "oom" not in engine.topics("c"):
        pytest.skip("the memory controller does not tell of out of memory here")
    assert engine.topics("c")[:3] == ["create", "start", "oom"]


async def test_a_log_with_a_vanished_reader_and_rotation(engine: Engine, tmp_path: Path) -> None:
    uri = f"log://{tmp_path}/c.log?max-size=64k&attach-stdout={tmp_path}/live"
    os.mkfifo(tmp_path / "live")
    task = await engine.run("c", "sh", "-c", "seq 1 20000; printf end", io={"stdout": uri, "stderr": uri})
    assert (await task.wait()).status == 0
    kept = replay(tmp_path / "c.log.1") + replay(tmp_path / "c.log")
    whole = b"".join(b"%d\n" % number for number in range(1, 20001)) + b"end"
    assert whole.endswith(kept) and len(kept) > 8_000
    assert (tmp_path / "c.log").stat().st_size <= 64 << 10
    await engine.supervisor.delete(task)


async def test_without_a_pid_namespace_everything_dies_with_init(engine: Engine) -> None:
    task = await engine.run(
        "c", "sh", "-c", "sleep 2345 & exit 5", namespaces=("ipc", "uts", "mount", "network")
    )  # fmt: skip
    assert (await task.wait()).status == 5
    await eventually(lambda: not leftovers.processes("sleep 2345"), "the end of the child")
    await engine.supervisor.delete(task)


async def test_the_bundle_is_where_tools_look_and_private(engine: Engine) -> None:
    await engine.run("c", "sleep", "1000")
    check_bundle(engine, engine.directory / "state/io.containerd.runtime.v2.task" / NAMESPACE / "c")
    shim = (await (await engine.task("c")).call("Connect"))["shim_pid"]
    assert os.getsid(shim) == shim and os.getpgid(shim) == shim
    assert leftovers.processes("-id c")[shim].startswith(f"portside-shim -namespace {NAMESPACE} -id c")
    assert not [point for point in leftovers.mounts() if str(engine.directory) in point]
    await engine.remove("c")


def check_bundle(engine: Engine, bundle: Path) -> None:
    assert (bundle / "config.json").read_bytes() == engine.spec("sleep", "1000", id="c")
    address = (bundle / "address").read_text()
    assert json.loads((bundle / "bootstrap.json").read_text()) == {
        "version": 3,
        "address": address,
        "protocol": "ttrpc",
    }
    socket = Path(address.removeprefix("unix://"))
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    for directory in (socket.parent, bundle, bundle.parent, bundle.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (bundle / "work").is_dir()
    names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()]
    assert str(socket) in names and not [name for name in names if name.startswith("@") and "portside" in name]
