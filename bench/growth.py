"""Growth: the daemon's memory after ten thousand containers' records were created and deleted over the API.

Usage: python -m bench.growth [CYCLES] (default 10000)

The first tenth is taken as warming up: allocators, caches and the writer's queue reach their size there. What the rest
adds is growth; the budget is that a daemon which makes a container every second does not gain a megabyte in a day.
The same against Debian's containerd, for comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from bench import stacks
from bench.measure import pss
from bench.stacks import Stack
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.remote.backend import RemoteBackend

CLIENTS = 16
BUDGET_BYTES = 12.0
"""Per cycle: 86,400 of them are a megabyte."""


async def cycles(stack: Stack, count: int) -> None:
    """Create and delete ``count`` records, by ``CLIENTS`` at once."""
    spec = AnyMessage(SPEC, b'{"ociVersion":"1.1.0","process":{"args":["' + b"x" * 8000 + b'"]}}')
    async with contextlib.AsyncExitStack() as scope:
        backend = await RemoteBackend.connect(str(stack.socket))
        scope.push_async_callback(backend.close)
        containers = backend.bind("growth").containers

        async def work(worker: int) -> None:
            for number in range(worker, count, CLIENTS):
                name = f"w{worker}-{number}"
                await containers.create(Container(name, "io.containerd.runc.v2", spec, {"a": "b"}))
                await containers.delete(name)

        await asyncio.gather(*(work(worker) for worker in range(CLIENTS)))


def measure(stack: Stack, count: int) -> None:
    """Print one row."""
    fresh = pss(stack.pid)
    asyncio.run(cycles(stack, max(1, count // 10)))
    warm = pss(stack.pid)
    begin = time.perf_counter()
    asyncio.run(cycles(stack, count))
    rate = count / (time.perf_counter() - begin)
    after = pss(stack.pid)
    growth = (after - warm) * 1024 * 1024 / count
    verdict = "holds" if growth <= BUDGET_BYTES else "**grows**"
    print(
        f"| {stack.name} | {fresh:.1f} | {warm:.1f} | {after:.1f} | {growth:+.1f} | {rate:.0f} | {verdict} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(
        f"| daemon, PSS in MB | fresh | warm | after {count} cycles | bytes a cycle | cycles/s | ≤ {BUDGET_BYTES:g} |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="portside-bench-") as directory:
        with stacks.ours(Path(directory) / "ours") as stack:
            measure(stack, count)
        with stacks.debian(Path(directory) / "debian") as stack:
            measure(stack, count)


if __name__ == "__main__":
    main()
