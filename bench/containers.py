"""Running containers: whole runs, exec, and lives of containers per second through the API with 1 and 8 workers.

Each figure is a median over rounds in which all engines take turns. Usage: python -m bench.containers [ROUNDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench import stacks
from bench.measure import HEAD, Row, alternate, command
from bench.stacks import Stack
from portside.client.closure import config_of, manifest_of
from portside.client.run_options import RunOptions
from portside.client.spec import make_spec
from portside.client.users import User
from portside.core.anymessage import RUNC_OPTIONS, SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.tasks import TaskIO
from portside.oci.digest import chain_id
from portside.remote.backend import RemoteBackend, RemoteServices
from portside.wire.pb.containerd.types.runc.options import oci_pb2
from tests.support import images, peers

_names = itertools.count()


def run_rm(stack: Stack, image: str) -> None:
    """``ctr run --rm … true``."""
    stack.call("run", "--rm", *stack.run_flags, image, f"r{next(_names)}", "true")


def idle(stack: Stack) -> str:
    """The id of its idle container: ids are names of control groups, which all engines share."""
    return "idle-" + "".join(letter for letter in stack.name if letter.isalnum())


def exec_true(stack: Stack) -> None:
    """``ctr t exec … true``."""
    stack.call("tasks", "exec", "--exec-id", f"e{next(_names)}", idle(stack), "true")


async def _life(services: RemoteServices, chain: str, spec: AnyMessage, options: AnyMessage | None) -> None:
    """Record, snapshot, task, exit, and everything removed again."""
    id = f"l{next(_names)}"
    container = Container(id, "io.containerd.runc.v2", spec, runtime_options=options, snapshotter="overlayfs")
    await services.containers.create(replace(container, snapshot_key=id))
    mounts = await services.snapshotter("overlayfs").prepare(id, chain)
    await services.tasks.create(id, mounts, TaskIO(), options=options)
    await services.tasks.start(id)
    await services.tasks.wait(id)
    await services.tasks.delete(id)
    await services.snapshotter("overlayfs").remove(id)
    await services.containers.delete(id)


async def _lives(stack: Stack, image: str, workers: int, seconds: float) -> float:
    async with await RemoteBackend.connect(str(stack.reach)) as backend:
        services = backend.bind("default")
        _, manifest = await manifest_of(services, (await services.images.get(image)).target)
        config = await config_of(services, manifest)
        chain = chain_id(list(config.diff_ids))
        document = make_spec("life", "bench", config, RunOptions(args=["true"], seccomp=False), User())
        options = None
        if "crun" in stack.name:
            binary = oci_pb2.Options(binary_name="/usr/bin/crun").SerializeToString()
            options = AnyMessage(RUNC_OPTIONS, binary)
        end = time.monotonic() + seconds

        async def work() -> int:
            done = 0
            while time.monotonic() < end:
                document["linux"]["cgroupsPath"] = f"/bench/{next(_names)}"
                spec = AnyMessage(SPEC, json.dumps(document).encode())
                await _life(services, chain, spec, options)
                done += 1
            return done

        begin = time.monotonic()
        counts = await asyncio.gather(*(work() for _ in range(workers)))
        return sum(counts) / (time.monotonic() - begin)


def per_second(stack: Stack, image: str, workers: int, seconds: float = 6) -> float:
    """Whole lives of containers per second, ``workers`` at once, asked for by one client of the API."""
    return asyncio.run(_lives(stack, image, workers, seconds))


def measure(directory: Path, registry: str, newer_root: Path | None, rounds: int) -> list[Row]:
    """All rows of this module."""
    image = images.push(registry, "bench/busybox", "latest", images.busybox_image())
    with contextlib.ExitStack() as scope:
        us = scope.enter_context(stacks.ours(directory / "ours"))
        others = [scope.enter_context(stacks.debian(directory / "debian"))]
        if newer_root:
            first = scope.enter_context(stacks.newer(newer_root))
            crun = Stack(first.name.replace("runc", "crun"), first.socket, first.pid, first.reach, first.ctr)
            crun.run_flags = ["--runc-binary", "/usr/bin/crun"]
            others += [first, crun]
        for stack in (us, *others):
            stack.call("images", "pull", "--plain-http", image)
        return _rows(us, others, image, rounds)


def _rows(us: Stack, others: list[Stack], image: str, rounds: int) -> list[Row]:
    rows = []
    portside = str(Path(sys.executable).parent / "portside")
    own_run = command(portside, "-a", str(us.socket), "run", "--rm", image, "true")
    runs = [lambda stack=stack: run_rm(stack, image) for stack in (us, *others)]
    ours, own, *theirs = alternate([runs[0], own_run, *runs[1:]], rounds)
    for stack, figure in zip(others, theirs, strict=True):
        crun = "crun" in stack.name
        rows.append(Row("`ctr run --rm … true`", stack.name, ours, figure, "ms", 0.35 if crun else 0.30))
        rows.append(
            Row("`portside run --rm … true` / `ctr run --rm`", stack.name, own, figure, "ms", 0.30 if crun else 0.25)
        )
    idlers = [us, *(stack for stack in others if "crun" not in stack.name)]
    for stack in idlers:
        stack.call("run", "-d", image, idle(stack), "sleep", "100000")
    own_exec = command(portside, "-a", str(us.socket), "exec", idle(us), "true")
    ours, own, *theirs = alternate(
        [lambda: exec_true(us), own_exec, *(lambda stack=stack: exec_true(stack) for stack in idlers[1:])], rounds
    )
    for stack, figure in zip(idlers[1:], theirs, strict=True):
        rows.append(Row("`ctr t exec … true`", stack.name, ours, figure, "ms", 0.50))
        rows.append(Row("`portside exec … true` / `ctr t exec`", stack.name, own, figure, "ms", 0.40))
    for stack in idlers:
        stack.call("tasks", "rm", "-f", idle(stack))
        stack.call("containers", "rm", idle(stack))
    for workers in (1, 8):
        mine = per_second(us, image, workers)
        for stack in others:
            rows.append(
                Row(
                    f"lives per second, {workers} at once",
                    stack.name,
                    mine,
                    per_second(stack, image, workers),
                    "/s",
                    more=True,
                )
            )
    return rows


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    found = subprocess.run(["script/peers"], capture_output=True, text=True)
    newer_root = Path(found.stdout.strip()) if found.returncode == 0 else None
    with (
        tempfile.TemporaryDirectory(prefix="portside-bench-") as name,
        peers.registry(Path(name) / "registry") as registry,
    ):
        print(HEAD)
        for row in measure(Path(name), registry, newer_root, rounds):
            print(row.markdown(), flush=True)


if __name__ == "__main__":
    main()
