"""The library without asyncio, and two that share a root."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import portside
from portside.errors import NotFound
from tests.support.peers import Daemon, need_root

pytestmark = pytest.mark.root


def test_synchronous_face(tmp_path: Path, busybox: str) -> None:
    need_root()
    threads = threading.active_count()
    with portside.EngineSync(root=tmp_path / "root") as c:
        image = c.pull(busybox)
        with c.run(image, ["sh", "-c", "read x; echo got $x; sleep 1000"], stdin=True) as task:
            task.stdin.write("it\n")
            assert next(iter(task.stdout)) == b"got it\n"
            with task.exec(["echo", "hello"]) as process:
                assert process.output() == b"hello\n"
            assert task.status() == "running"
            assert [entry.data for entry in task.logs()] == [b"got it\n"]
        assert c.containers() == []
        with pytest.raises(NotFound):
            c.get(task.id)
    assert threading.active_count() <= threads + 8


def test_a_second_engine_on_the_root_is_a_client(tmp_path: Path, busybox: str) -> None:
    need_root()
    with portside.EngineSync(root=tmp_path / "root") as owner, portside.EngineSync(root=tmp_path / "root") as guest:
        image = owner.pull(busybox)
        with guest.run(image.name, ["echo", "from the guest"]) as task:
            assert [row.id for row in owner.containers()] == [task.id]
            assert task.output() == b"from the guest\n"


def test_containers_outlive_their_engine(tmp_path: Path, busybox: str) -> None:
    need_root()
    with portside.EngineSync(root=tmp_path / "root") as c:
        c.run(c.pull(busybox), ["sh", "-c", "sleep 1000"], name="stays", detach=True)
    with portside.EngineSync(root=tmp_path / "root") as c:
        task = c.get("stays")
        assert task.status() == "running"
        task.kill("KILL")
        assert task.wait() == 137
        task.remove()


def test_waiting_goes_on_while_the_daemon_is_killed(own_daemon: Daemon, busybox: str) -> None:
    with portside.connect_sync(str(own_daemon.socket)) as c:
        task = c.run(c.pull(busybox), ["sh", "-c", "echo before; read x; echo $x; exit 5"], stdin=True)
        assert next(iter(task.stdout)) == b"before\n"
        waited: list[int] = []
        waiter = threading.Thread(target=lambda: waited.append(task.wait()))
        waiter.start()
        own_daemon.kill()
        own_daemon.start()
        task.stdin.write("after\n")
        waiter.join(30)
        assert waited == [5]
        assert b"".join(entry.data for entry in task.logs()) == b"before\nafter\n"
        task.remove()
