"""Containers' records and content through the API, with 1 and 16 clients, against Debian's containerd.

Creates of a container of 10 kB with two labels, gets, lists of a hundred, updates of a label; writing and reading a
blob. The client is ours, in Python, and runs on the same machine; where the server is faster than it, the figures say
how fast the client is (``grpc_calls`` measures with a client in C). Usage: python -m bench.api [SECONDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row
from bench.stacks import Stack
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.content import read_blob
from portside.oci.digest import Digest
from portside.remote.backend import RemoteBackend, RemoteServices

SPEC_10K = AnyMessage(SPEC, b'{"padding": "' + b"x" * 10_000 + b'"}')
LISTED = 100
BLOB = 256 << 20
BUDGET = {("creates", 1): 2.0, ("creates", 32): 6.0}

_names = itertools.count()


def container() -> Container:
    """One that no other has the id of."""
    return Container(f"c{next(_names)}", "io.containerd.runc.v2", SPEC_10K, {"a": "b", "c": "d"})


async def create(services: RemoteServices) -> None:
    """One record."""
    await services.containers.create(container())


async def get(services: RemoteServices) -> None:
    """One of those that are there."""
    await services.containers.get("listed-0")


async def list_all(services: RemoteServices) -> None:
    """The hundred that are there."""
    found = await services.containers.list(['labels."listed"=="yes"'])
    if len(found) != LISTED:
        raise RuntimeError(f"{len(found)} containers listed")


async def update(services: RemoteServices) -> None:
    """One label."""
    record = Container("listed-0", "io.containerd.runc.v2", SPEC_10K, {"listed": "yes", "new": str(next(_names))})
    await services.containers.update(record, ["labels.new"])


WORK: dict[str, Callable[[RemoteServices], Awaitable[None]]] = {
    "creates": create, "gets": get, f"lists of {LISTED}": list_all, "label updates": update,
}  # fmt: skip


async def per_second(
    stack: Stack, work: Callable[[RemoteServices], Awaitable[None]], clients: int, seconds: float
) -> float:
    """How often ``clients`` with a connection each do ``work`` in a second."""
    async with contextlib.AsyncExitStack() as scope:
        backends = [
            await scope.enter_async_context(await RemoteBackend.connect(str(stack.reach))) for _ in range(clients)
        ]
        end = time.monotonic() + seconds

        async def one(services: RemoteServices) -> int:
            done = 0
            while time.monotonic() < end:
                await work(services)
                done += 1
            return done

        begin = time.monotonic()
        counts = await asyncio.gather(*(one(backend.bind("bench")) for backend in backends))
        return sum(counts) / (time.monotonic() - begin)


async def fill(stack: Stack) -> None:
    """The containers that are listed."""
    async with await RemoteBackend.connect(str(stack.reach)) as backend:
        store = backend.bind("bench").containers
        for number in range(LISTED):
            await store.create(Container(f"listed-{number}", "io.containerd.runc.v2", SPEC_10K, {"listed": "yes"}))


async def throughput(stack: Stack, data: bytes, digest: Digest) -> tuple[float, float]:
    """MB/s of writing a blob in pieces of a megabyte, and of reading it."""
    async with await RemoteBackend.connect(str(stack.reach)) as backend:
        services = backend.bind("bench")
        begin = time.monotonic()
        writer = await services.content.writer("bench", len(data), digest)
        for offset in range(0, len(data), 1 << 20):
            await writer.write(data[offset : offset + (1 << 20)])
        await writer.commit(len(data), digest)
        await writer.close()
        written = time.monotonic() - begin
        begin = time.monotonic()
        await read_blob(services.content, digest, len(data))
        read = time.monotonic() - begin
        await services.content.delete(digest)
    return len(data) / 1e6 / written, len(data) / 1e6 / read


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    data = os.urandom(BLOB)
    digest = Digest.of(data)
    with tempfile.TemporaryDirectory(prefix="portside-bench-") as name, contextlib.ExitStack() as scope:
        us = scope.enter_context(stacks.ours(Path(name) / "ours"))
        peer = scope.enter_context(stacks.debian(Path(name) / "debian"))
        print(HEAD)
        for stack in (us, peer):
            asyncio.run(fill(stack))
        for what, work in WORK.items():
            for clients in (1, 16, 32) if what == "creates" else (1, 16):
                ours, theirs = (asyncio.run(per_second(stack, work, clients, seconds)) for stack in (us, peer))
                budget = BUDGET.get((what, clients))
                row = Row(f"{what} of containers, {clients} at once", peer.name, ours, theirs, "/s", budget, more=True)
                print(row.markdown(), flush=True)
        mine, theirs_ = asyncio.run(throughput(us, data, digest)), asyncio.run(throughput(peer, data, digest))
        for what, ours, theirs in zip(("written", "read"), mine, theirs_, strict=True):
            print(Row(f"a blob of 256 MB {what}", peer.name, ours, theirs, "MB/s", 1.0, more=True).markdown())


if __name__ == "__main__":
    main()
