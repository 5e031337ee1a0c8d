"""kill -9 at random points: what was acknowledged is there, what was not is wholly there or not at all."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from portside.core.content import read_blob
from portside.core.snapshots import Kind
from portside.oci.digest import Digest
from tests.contracts.local import LocalBackend

POINTS = int(os.environ.get("PORTSIDE_CRASH_POINTS", "30"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")


class Account:
    """What must be there, and what may or may not."""

    def __init__(self):
        self.there = {"container": set(), "blob": set(), "snapshot": set()}
        self.doubtful = {"container": set(), "blob": set(), "snapshot": set()}

    def read(self, lines):
        for line in lines:
            verb, what, name = line.split()
            there, doubtful = self.there[what], self.doubtful[what]
            if verb in ("try+", "try-"):
                there.discard(name)
                doubtful.add(name)
            else:
                doubtful.discard(name)
                (there.add if verb == "made" else there.discard)(name)

    def settle(self, what, found):
        """``found`` are there now: all that must be, nothing that must not."""
        missing = self.there[what] - found
        extra = found - self.there[what] - self.doubtful[what]
        assert not missing and not extra, (what, missing, extra)
        self.there[what], self.doubtful[what] = set(found), set()


def run_and_kill(root, run, milliseconds):
    """The acknowledged steps of a run that was killed; a last line without an end was not acknowledged."""
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.metadata.crash_writer", str(root), str(run)],
        stdout=writer,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(writer)
    with open(reader, "rb") as stream:
        lines = [stream.readline()]
        killer = subprocess.Popen(["sh", "-c", f"sleep {milliseconds / 1000}; kill -9 {child.pid}"])
        lines += stream.readlines()
    killer.wait()
    assert child.wait() == -signal.SIGKILL
    return [line.decode() for line in lines if line.endswith(b"\n")]


async def check(root, account):
    backend = LocalBackend(root)
    try:
        services = backend.bind("ns", "lease")
        account.settle("container", {container.id for container in await services.containers.list()})
        for container in await services.containers.list():
            assert container.spec.value == container.id.encode() * 500
        account.settle("blob", {str(info.digest) async for info in services.content.list()})
        async for info in services.content.list():
            data = await read_blob(services.content, info.digest)
            assert len(data) == info.size and Digest.of(data) == info.digest
        await check_snapshots(backend, services, account)
        await backend.metadata.reconcile()
        await check_disk(backend, services)
    finally:
        await backend.close()


def read(directory):
    return Path(directory, "file").read_text()


async def check_snapshots(backend, services, account):
    store = services.snapshotter("native")
    committed = set()
    async for info in store.walk():
        if info.kind == Kind.COMMITTED:
            committed.add(info.name)
            (mount,) = await store.view(f"look at {info.name}", info.name)
            assert read(mount.source) == info.name
            await store.remove(f"look at {info.name}")
        else:
            await store.remove(info.name)
    account.settle("snapshot", committed)


async def check_disk(backend, services):
    """After reconciling, the disk holds what the records say and no more."""
    recorded = {info.digest async for info in services.content.list()}
    assert {digest for digest, _ in backend.blobs.digests()} == recorded
    refs = sorted(status.ref for status in await services.content.list_statuses())
    assert sorted(key.rpartition("/")[2] for key in backend.blobs.keys()) == refs  # noqa: SIM118
    count = len([info async for info in services.snapshotter("native").walk()])
    assert len(backend.drivers["native"].ids()) == count


async def test_killed_at_random_points(tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    account = Account()
    steps = 0
    for run in range(POINTS):
        lines = await asyncio.to_thread(run_and_kill, tmp_path, run, dice.uniform(0, 120))
        steps += sum(line.startswith("made") for line in lines)
        account.read(lines)
        await check(tmp_path, account)
    assert steps > POINTS
