"""A shim under fire: garbage on its socket, calls that make no sense, peers that come and go."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from portside.errors import InvalidArgument, NotFound, PortsideError, ResourceExhausted, Unimplemented
from portside.supervisor.connection import METHODS
from portside.supervisor.task import ShimTask
from portside.wire.ttrpc.client import TtrpcClient
from portside.wire.ttrpc.connection import HEADER, REQUEST
from tests.supervisor.conftest import Engine, eventually

SERVICE = "containerd.task.v3.Task"


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def check_alive(engine: Engine, task: ShimTask) -> None:
    assert (await task.state()).status == 2
    await engine.exec(task, "probe", "true")
    assert (await task.wait("probe")).status == 0
    await task.delete("probe")


async def test_garbage_and_nonsense(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    shim = (await task.call("Connect"))["shim_pid"]
    before = fds(shim)
    for garbage in (os.urandom(10_000), HEADER.pack(0xFFFFFFFF, 1, REQUEST, 0) + bytes(50_000), b"\0" * 9):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(task.connection.address)
            peer.sendall(garbage)
    client = await TtrpcClient.connect(task.connection.address)
    for method in METHODS:
        for payload in (b"\xff\xff\xff", os.urandom(200), struct.pack("<Q", 7) * 9):
            with pytest.raises((InvalidArgument, NotFound)):
                await client.call(SERVICE, method, payload, timeout=10)
    for method in sorted(METHODS.keys() - {"Connect", "Shutdown"}):
        with pytest.raises((InvalidArgument, NotFound, Unimplemented)):
            await client.call(SERVICE, method, b"", timeout=10)
    with pytest.raises(Unimplemented):
        await client.call("no.such.Service", "Create", b"", timeout=10)
    with pytest.raises((ResourceExhausted, PortsideError)):
        await client.call(SERVICE, "State", bytes(5 << 20), timeout=10)
    await client.close()
    await check_alive(engine, task)
    await eventually(lambda: fds(shim) == before, "the end of all peers")
    await engine.remove("c")


async def test_shutdown_does_not_leave_a_container_alone(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    await task.call("Shutdown", {"now": True})
    await check_alive(engine, task)
    await engine.remove("c")


async def test_many_execs_and_waiters_leave_the_shim_as_it_was(engine: Engine) -> None:
    task = await engine.run("c", "sleep", "1000")
    shim = (await task.call("Connect"))["shim_pid"]
    await check_alive(engine, task)
    before = fds(shim)

    async def one(number: int) -> None:
        exec_id = f"e{number}"
        await engine.exec(task, exec_id, "true")
        await asyncio.gather(task.wait(exec_id), task.wait(exec_id))
        await task.delete(exec_id)

    for start in range(0, 60, 10):
        await asyncio.gather(*(one(number) for number in range(start, start + 10)))
    assert fds(shim) == before
    assert not [name for name in os.listdir(task.bundle.path) if name == "shim.log"]
    await engine.remove("c")
