"""A process for test_crash.py: makes, commits and deletes things for ever and prints each when it is acknowledged.

A line is ``<verb> <what> <name>``, written with one write(2) before the next step begins, so that what the parent
reads before it kills us is a prefix of what was acknowledged, and at most one step per worker is in doubt.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.oci.digest import Digest
from tests.contracts.local import LocalBackend


def blob(worker, number):
    return f"{worker}-{number} ".encode() * (1 + number % 3000)


def write(directory, text):
    Path(directory, "file").write_text(text)


def say(*words):
    os.write(1, (" ".join(words) + "\n").encode())


async def containers(services, worker):
    for number in itertools.count():
        name = f"c{worker}-{number}"
        say("try+", "container", name)
        await services.containers.create(Container(name, "rt", AnyMessage(SPEC, name.encode() * 500)))
        say("made", "container", name)
        if number % 3:
            say("try-", "container", name)
            await services.containers.delete(name)
            say("gone", "container", name)


async def blobs(services, worker):
    for number in itertools.count():
        data = blob(worker, number)
        digest = Digest.of(data)
        say("try+", "blob", digest)
        writer = await services.content.writer(f"ref-{worker}-{number}", len(data), digest)
        await writer.write(data)
        await writer.commit(len(data), digest)
        say("made", "blob", digest)
        if number % 3:
            say("try-", "blob", digest)
            await services.content.delete(digest)
            say("gone", "blob", digest)


async def snapshots(services, worker):
    store = services.snapshotter("native")
    for number in itertools.count():
        name = f"layer-{worker}-{number}"
        say("try+", "snapshot", name)
        (mount,) = await store.prepare(f"making {name}")
        write(mount.source, name)
        await store.commit(name, f"making {name}")
        say("made", "snapshot", name)
        if number % 3:
            say("try-", "snapshot", name)
            await store.remove(name)
            say("gone", "snapshot", name)


async def collections(backend):
    while True:
        await backend.metadata.collect()
        await asyncio.sleep(0.01)


async def main(root, run):
    backend = LocalBackend(Path(root))
    await backend.metadata.reconcile()
    services = backend.bind("ns", "lease")
    if not await services.leases.list():
        await services.leases.create("lease")
    workers = [work(services, f"{run}.{number}") for number in range(2) for work in (containers, blobs, snapshots)]
    await asyncio.gather(*workers, collections(backend))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
