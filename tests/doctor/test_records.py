"""Reading a database that is in use, or that is broken, without touching it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from portside.doctor.records import database, read_records, salvage
from portside.errors import DataLoss, FailedPrecondition
from portside.metadata.database import Database
from portside.metadata.schema import CONTAINERS, IDENTITY, NAMESPACES
from tests.metadata.test_opening import fill

SCOPE = ("ns",)

WRITER = """
import asyncio, sys
from pathlib import Path
from portside.metadata.database import Database
from tests.metadata.test_opening import put
async def main():
    db = Database.open(Path(sys.argv[1]))
    number = 0
    while True:
        await asyncio.gather(*(db.write(put(f"c{number + each}", 3000)) for each in range(20)))
        number += 20
        print(number, flush=True)
asyncio.run(main())
"""


async def filled(root, count=200):
    db = await fill(database(root), count)
    await db.close()
    return database(root)


def test_beside_a_busy_writer(tmp_path):
    """Each copy is whole: it has all that was acknowledged before it was begun."""
    path = database(tmp_path)
    path.parent.mkdir()
    place = Path(__file__).parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=place)
    try:
        assert writer.stdout is not None
        for _ in range(8):
            for _ in range(10):
                acknowledged = int(writer.stdout.readline())
            records = read_records(tmp_path)
            assert records.problem is None and not records.missing
            found = set(records.state.rows(CONTAINERS, SCOPE))
            assert {f"c{number}" for number in range(acknowledged)} <= found
    finally:
        writer.kill()
        writer.communicate()


async def test_none_and_one_without_tables(tmp_path):
    assert read_records(tmp_path).missing
    path = database(tmp_path)
    path.parent.mkdir()
    path.touch()
    assert read_records(tmp_path).missing
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size and read_records(tmp_path).missing


async def test_what_cannot_be_read_is_told_and_left_alone(tmp_path):
    path = await filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + os.urandom(8192) + whole[16384:])
    before = path.read_bytes()
    records = read_records(tmp_path)
    assert isinstance(records.problem, DataLoss) and str(path) in str(records.problem)
    assert path.read_bytes() == before and not list(path.parent.glob("*-wal"))
    path.write_bytes(whole)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 77")
    connection.commit()
    connection.close()
    assert isinstance(read_records(tmp_path).problem, FailedPrecondition)


async def test_what_a_damaged_one_still_gives(tmp_path):
    """Rows up to the damage, and the names of tables that were read to the end."""
    path = await filled(tmp_path, 400)
    changes, whole = salvage(path)
    assert {"containers", "namespaces", "identity"} <= whole
    everything = {change.key for change in changes if change.table is CONTAINERS}
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'containers'").fetchone()
    connection.close()
    size, data = 4096, bytearray(path.read_bytes())
    for number in range(len(data) // size // 2, len(data) // size):
        if number != page - 1:
            data[number * size : (number + 1) * size] = os.urandom(size)
    path.write_bytes(data)
    changes, whole = salvage(path)
    some = {change.key for change in changes if change.table is CONTAINERS}
    assert some < everything and "containers" not in whole
    assert {change.table for change in changes} >= {NAMESPACES, IDENTITY}


async def test_a_wal_that_was_not_written_back_is_read(tmp_path):
    db = Database.open(database(tmp_path))
    await db.close()
    child = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", WRITER, str(database(tmp_path))],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.stdout is not None
    await asyncio.to_thread(child.stdout.readline)
    child.kill()
    await asyncio.to_thread(child.communicate)
    assert len(read_records(tmp_path).state.rows(CONTAINERS, SCOPE)) >= 20
