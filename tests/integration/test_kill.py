"""kill -9 of the daemon at random points of pull, import, delete, collection, run and namespace removal.

``PORTSIDE_KILL_POINTS`` is how many (the long form, script/soak: 500); a failure prints the seed to repeat it with
(``PORTSIDE_KILL_SEED``), though the moments are the machine's.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images, leftovers
from tests.support.kills import NAMESPACE, Material, Promises, check, connected, work_until_killed
from tests.support.peers import Daemon

pytestmark = pytest.mark.root

POINTS = int(os.environ.get("PORTSIDE_KILL_POINTS", "500" if os.environ.get("PORTSIDE_SOAK") else "15"))
SEED = int(os.environ.get("PORTSIDE_KILL_SEED", random.randrange(1 << 32)))
LONGEST = 0.8
"""Seconds of work before a kill; most things here take a tenth of that."""


def layer(name: str) -> bytes:
    """A layer with a file that tells which it is, and some others."""
    files: dict[str, bytes | str] = {f"marker-{name}": f"marker-{name}".encode() * 500}
    return images.tar_layer(files | {f"{name}/{number}": os.urandom(2000) for number in range(30)})


@pytest.fixture
def material(registry: str, busybox: str, tmp_path: Path) -> Iterator[Material]:
    shared = layer("shared")
    references = [
        images.push(registry, "kill/image", f"v{n}", images.make_image([shared, layer(f"v{n}")])) for n in range(3)
    ]
    archives = {}
    for number in range(2):
        name = f"example.com/kill/archive:v{number}"
        place = tmp_path / f"layout{number}"
        images.write_layout(images.make_image([shared, layer(f"archive{number}")]), place, name)
        archives[name] = tmp_path / f"archive{number}.tar"
        subprocess.run(["tar", "-C", place, "-cf", archives[name], "."], check=True)
    yield Material(busybox, references, archives)
    leftovers.remove_empty_cgroups(NAMESPACE)


async def start(daemon: Daemon) -> None:
    await asyncio.to_thread(daemon.start)


async def test_killed_at_random_points(own_daemon: Daemon, material: Material) -> None:
    print(f"PORTSIDE_KILL_SEED={SEED}")
    dice, promises = random.Random(SEED), Promises()
    async with connected(own_daemon) as client:
        await promises.step("image", material.base, client.pull(material.base), makes=True)
    for point in range(POINTS):
        await work_until_killed(own_daemon, promises, material, dice, dice.uniform(0, LONGEST))
        await start(own_daemon)
        try:
            await check(own_daemon, promises)
        except BaseException as error:
            error.add_note(f"at kill {point + 1} of {POINTS}, seed {SEED}, daemon's log {own_daemon.log}")
            raise
    print(f"{POINTS} kills, {promises.kept} acknowledged steps")
    assert promises.kept > POINTS
