"""Seccomp filters that ask an agent, through the whole way of a task."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from portside.errors import PortsideError
from tests.supervisor.conftest import DEADLINE, NAMESPACE, Engine
from tests.support.bundles import dump, overlay_mount


def seccomp(path: Path) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}],
    }


def take(server: socket.socket) -> tuple[int, str]:
    """Whose descriptor the agent gets, and what it is."""
    connection, _ = server.accept()
    with connection:
        data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
    fd = array.array("i", ancillary[0][2])[0]
    try:
        return json.loads(data)["pid"], os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


async def create(engine: Engine, path: Path) -> int:
    spec = json.loads(engine.spec("sleep", "1000", id="c"))
    spec["linux"]["seccomp"] = seccomp(path)
    mount = overlay_mount(engine.rootfs, engine.directory / "snapshots/c")
    return await engine.supervisor.create(NAMESPACE, "c", dump(spec), {"rootfs": [mount]})


async def test_the_agent_gets_the_descriptors_of_init_and_of_execs(engine: Engine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent"))
        server.listen()
        server.settimeout(DEADLINE)
        pid = await create(engine, tmp_path / "agent")
        task = await engine.task("c")
        taking = asyncio.create_task(asyncio.to_thread(take, server))
        assert await task.start("") == pid
        assert await taking == (pid, "anon_inode:seccomp notify")
        taking = asyncio.create_task(asyncio.to_thread(take, server))
        pid = await engine.exec(task, "e", "sleep", "1000")
        assert await taking == (pid, "anon_inode:seccomp notify")
    await engine.remove("c")


async def test_without_an_agent_the_start_fails(engine: Engine, tmp_path: Path) -> None:
    await create(engine, tmp_path / "nobody")
    task = await engine.task("c")
    with pytest.raises(PortsideError, match="hand the seccomp listener over"):
        await task.start("")
    assert (await task.wait()).status == 137
    await engine.supervisor.delete(task)
