"""What is asked of a database before it is believed, who holds one, and copies made while it is written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.errors import DataLoss, InvalidArgument, ResourceExhausted, Unavailable
from portside.metadata import backups, opening
from portside.metadata.backups import Backups
from portside.metadata.database import Database
from portside.metadata.holders import holders
from portside.metadata.schema import CONTAINERS
from tests.support.disks import small_disk

SCOPE = ("ns",)


def put(id, size=100):
    box = Container(id, "io.containerd.runc.v2", AnyMessage(SPEC, b"x" * size))
    return lambda tx: tx.put(CONTAINERS, SCOPE, id, box)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "meta.db"


async def fill(path, count=20, size=2000):
    db = Database.open(path)
    for number in range(count):
        await db.write(put(f"c{number}", size))
    return db


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is about files
            await asyncio.sleep(0.005)


def ids(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {id for (id,) in connection.execute("SELECT id FROM containers")}


def other(path):
    """A process that has the database open and has written to it; it stays until its input ends."""
    code = f"""
import asyncio, sys
from pathlib import Path
from tests.metadata.test_opening import fill
async def main():
    await fill(Path({str(path)!r}), 3)
    print("ready", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    return child


async def test_who_has_it_open_is_told(path):
    child = await asyncio.to_thread(other, path)
    try:
        with pytest.raises(Unavailable, match=rf"another process has it open: process {child.pid} \(python"):
            Database.open(path)
        assert holders(path) and holders(path.parent / "nothing") == []
    finally:
        child.kill()
        child.communicate()


async def test_after_an_unclean_stop_it_is_looked_at_as_a_whole(path, caplog, monkeypatch):
    asked = []
    check = opening.check
    monkeypatch.setattr(
        opening, "check", lambda *args, **kwargs: asked.append(kwargs["thorough"]) or check(*args, **kwargs)
    )
    child = await asyncio.to_thread(other, path)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with caplog.at_level(logging.WARNING):
        db = Database.open(path)
    assert asked == [True] and "last stop was not clean" in caplog.text
    assert set(db.state.rows(CONTAINERS, SCOPE)) == {"c0", "c1", "c2"}
    await db.close()
    db = Database.open(path)
    assert asked == [True, False]
    await db.close()


async def test_an_index_that_lies_is_found_after_an_unclean_stop(path):
    """What a quick check passes over."""
    db = await fill(path, 200)
    await db.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_containers_1'"
        ).fetchone()
        leaf = connection.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(path.read_bytes())
    spot = data.index(b"nsc", (page - 1) * leaf, page * leaf)
    data[spot + 2 : spot + 3] = b"b"
    path.write_bytes(data)
    path.with_name("meta.db-wal").write_bytes(b"x" * 32)
    with pytest.raises(DataLoss, match="portside doctor --repair"):
        Database.open(path)


async def test_a_check_has_a_time_limit(path, caplog):
    db = await fill(path, 300, 20_000)
    await db.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        opening._STEPS, steps = 1, opening._STEPS
        try:
            opening.check(connection, path, thorough=True, seconds=0)
        finally:
            opening._STEPS = steps
    assert "not checked to the end" in caplog.text


async def test_none_is_made_where_there_is_content(path):
    with pytest.raises(DataLoss, match="it is gone, but the root has content"):
        Database.open(path, iter(["sha256:…"]))
    with pytest.raises(DataLoss, match="it is gone"):
        Database.open(path, iter(["sha256:…"]))
    db = Database.open(path)
    await db.close()
    await Database.open(path, iter(["sha256:…"])).close()


async def test_a_copy_while_it_is_written(path):
    """Whole, with all that was acknowledged before it was asked for, and nobody waited for it."""
    db = await fill(path, 300, 20_000)
    copying = asyncio.create_task(Backups(db, path).make())
    written = 0
    while not copying.done():
        await db.write(put(f"later{written}"))
        written += 1
    copy = await copying
    assert {f"c{number}" for number in range(300)} <= ids(copy)
    assert written > 1
    await db.close()
    opened = Database.open(copy)
    assert len(opened.state.rows(CONTAINERS, SCOPE)) >= 300
    await opened.close()


async def test_copies_are_rotated_and_leftovers_removed(path):
    db = await fill(path)
    made = [await Backups(db, path, keep=2).make() for _ in range(4)]
    assert backups.found(path) == [made[3], made[2]]
    (backups.directory(path) / ".new-old").write_bytes(b"")
    await Backups(db, path, keep=2).make()
    assert sorted(entry.name[:5] for entry in backups.directory(path).iterdir()) == ["meta-", "meta-"]
    await db.close()


async def test_a_copy_that_cannot_be_read_back_is_none(path, monkeypatch):
    db = await fill(path)
    copies = Backups(db, path)

    def spoil(connection, target, between):
        target.write_bytes(b"garbage " * 1000)

    monkeypatch.setattr("portside.metadata.database.copy_database", spoil)
    with pytest.raises(DataLoss):
        await copies.make()
    assert list(backups.directory(path).iterdir()) == []
    await db.write(put("still"))
    await db.close()
    with pytest.raises(Unavailable):
        await copies.make()


async def test_copies_come_by_the_clock_and_only_after_changes(path):
    db = await fill(path)
    copies = Backups(db, path, interval=0.01)
    copies.start()
    await until(lambda: backups.found(path))
    assert not copies._changed
    await db.write(put("more"))
    await until(lambda: len(backups.found(path)) == 2)
    await copies.close()
    assert "more" in ids(backups.found(path)[0])
    await db.close()


@pytest.mark.parametrize("table", [{"backups": 0}, {"backups": "many"}, {"backup_interval": "often"}])
async def test_what_the_configuration_may_not_say(path, table):
    db = Database.open(path)
    with pytest.raises(InvalidArgument, match=next(iter(table))):
        Backups.from_config(db, path, table)
    await db.close()


async def test_no_room_for_a_copy(tmp_path):
    with small_disk(tmp_path / "small", "24m") as disk:
        path = disk / "meta.db"
        db = await fill(path, 200, 20_000)
        with pytest.raises(ResourceExhausted, match="no room"):
            await Backups(db, path).make()
        await db.write(put("after"))
        await db.close()


async def test_a_copy_is_finished_before_the_end(path):
    """Closing waits for a copy that was asked for before."""
    db = await fill(path, 100)
    gate = threading.Event()
    blocker = asyncio.ensure_future(db.write(lambda tx: gate.wait(10)))
    copying = asyncio.ensure_future(Backups(db, path).make())
    await until(backups.directory(path).exists)
    gate.set()
    await asyncio.gather(blocker, copying)
    await db.close()
    assert backups.found(path) == [copying.result()]
