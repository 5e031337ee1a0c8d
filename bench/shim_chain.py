"""The chain from a request to a container that has come and gone, step by step, and what an idle shim weighs.

    python bench/shim_chain.py [--count N] [--external runc]

Medians over N containers (busybox's ``true`` over an overlay of its own, no network): what the daemon waits for at
each step. Then the PSS of each shim, and of zygote and shims together per container, with 1, 10 and 20 idle containers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from portside.core.events import Envelope  # noqa: E402
from portside.supervisor.supervisor import Supervisor  # noqa: E402
from portside.wire.codec import encode  # noqa: E402
from portside.wire.tables.containerd_runc_v1 import Options  # noqa: E402
from tests.support import bundles  # noqa: E402

STEPS = ("shim + create", "start", "exit told", "delete", "all")


def pss(pid: int) -> int:
    """Proportional set size in kB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


class Bench:
    """A supervisor on a private state, in memory where /dev/shm is, as /run is."""

    def __init__(self, external: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pb-", dir="/dev/shm"))
        self.disk = Path(tempfile.mkdtemp(prefix="portside-bench-"))
        self.rootfs = bundles.make_rootfs(self.disk / "rootfs")
        self.exits: dict[str, asyncio.Event] = {}
        self.options = {"type_url": "containerd.runc.v1.Options", "value": encode(Options, {"binary_name": external})}
        self.external = external
        self.supervisor = Supervisor(str(self.directory), str(self.disk / "root"), self.heard)

    def heard(self, envelope: Envelope) -> None:
        if envelope.topic == "/tasks/exit" and envelope.event is not None:
            for id, event in self.exits.items():
                if id.encode() in envelope.event.value:
                    event.set()

    async def create(self, id: str, *args: str) -> None:
        spec = bundles.dump(bundles.spec(*args, cgroup=f"/portside-bench/{id}"))
        fields: dict[str, Any] = {"rootfs": [bundles.overlay_mount(self.rootfs, self.disk / id)]}
        if self.external:
            fields["options"] = self.options
        await self.supervisor.create("bench", id, spec, fields)

    async def chain(self, id: str) -> list[float]:
        """Milliseconds of each step."""
        bundles.overlay_mount(self.rootfs, self.disk / id)
        exited = self.exits[id] = asyncio.Event()
        times = [time.perf_counter()]
        await self.create(id, "true")
        times.append(time.perf_counter())
        task = await self.supervisor.task("bench", id)
        await task.start("")
        times.append(time.perf_counter())
        await exited.wait()
        times.append(time.perf_counter())
        await self.supervisor.delete(task)
        times.append(time.perf_counter())
        del self.exits[id]
        steps = [(after - before) * 1000 for before, after in itertools.pairwise(times)]
        return [*steps, sum(steps)]

    async def weigh(self, count: int) -> None:
        shims = []
        for number in range(count):
            await self.create(f"i{number}", "sleep", "1000")
            task = await self.supervisor.task("bench", f"i{number}")
            await task.start("")
            shims.append((await task.call("Connect"))["shim_pid"])
        await asyncio.sleep(2.0)  # idle shims fall asleep
        sizes = [pss(pid) for pid in shims]
        shared = (sum(sizes) + pss(self.supervisor.zygote_pid)) / count
        print(
            f"{count:4} idle: {statistics.median(sizes):6.0f} kB PSS per shim, {shared:6.0f} kB with the zygote's share"
        )
        for task in await self.supervisor.tasks("bench"):
            await task.kill(9, "", True)
            await task.wait()
            await self.supervisor.delete(task)

    async def close(self) -> None:
        await asyncio.sleep(0.2)
        await self.supervisor.close()
        for path in Path("/sys/fs/cgroup").glob("*/portside-bench"):  # noqa: ASYNC240 - a benchmark at its end
            path.rmdir()
        shutil.rmtree(self.directory)
        shutil.rmtree(self.disk)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--external", default="", metavar="RUNTIME", help="an external OCI runtime, such as runc")
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("needs root")
    bench = Bench(options.external)
    await bench.supervisor.start()
    try:
        for number in range(5):
            await bench.chain(f"warm{number}")
        rows = []
        for number in range(options.count):
            rows.append(await bench.chain(f"c{number}"))
            await asyncio.sleep(0.01)  # the end of the last shim is off the path, here too
        print(f"{options.count} containers, ms:  " + "  ".join(f"{step:>13}" for step in STEPS))
        for name, pick in (
            ("median", statistics.median),
            ("min", min),
            ("p90", lambda x: sorted(x)[int(len(x) * 0.9)]),
        ):
            print(f"{name:>20}  " + "  ".join(f"{pick(column):13.2f}" for column in zip(*rows, strict=True)))
        for count in () if options.no_memory else (1, 10, 20):
            await bench.weigh(count)
    finally:
        await bench.close()


if __name__ == "__main__":
    asyncio.run(main())
