"""The library, the same tests over an engine in this process, our daemon, and Debian's containerd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import portside
from portside.client.labels import NAME
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PortsideError
from portside.sdk import Client, Volume
from portside.sdk.process import SETTLE_SECONDS
from tests.support import images, leftovers
from tests.support.containerd import containerd
from tests.support.peers import Daemon, need_root

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module", params=["engine", "daemon", "containerd"])
def kind(request: pytest.FixtureRequest) -> str:
    need_root()
    return str(request.param)


@pytest.fixture(scope="module")
def door(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[portside.connect | portside.Engine]:
    directory = tmp_path_factory.mktemp(kind)
    if kind == "engine":
        yield portside.Engine(root=directory / "root")
    elif kind == "daemon":
        daemon = Daemon(directory)
        daemon.start()
        yield portside.connect(str(daemon.socket))
        daemon.stop()
    else:
        with containerd(directory) as socket:
            yield portside.connect(f"unix://{socket}", namespace="library")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def c(door: portside.connect | portside.Engine) -> AsyncIterator[Client]:
    async with door as client:
        yield client
        left = await client.containers()
        assert left == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def image(c: Client, busybox: str) -> portside.sdk.Image:
    seen: list[str] = []
    found = await c.pull(busybox, progress=lambda progress: seen.append(progress.stage))
    assert {"resolving", "downloading", "downloaded", "extracting", "extracted", "done"} <= set(seen)
    return found


async def test_pull_again_is_quick_and_the_same(c: Client, image: portside.sdk.Image, busybox: str) -> None:
    stages: list[str] = []
    again = await c.pull(busybox, progress=lambda progress: stages.append(progress.stage))
    assert again.target == image.target
    assert "downloading" not in stages
    assert [summary.name for summary in await c.images()] == [busybox]


async def test_pulls_at_once(c: Client, busybox: str) -> None:
    pulled = await asyncio.gather(*(c.pull(busybox) for _ in range(5)))
    assert len({found.target.digest for found in pulled}) == 1


async def test_output_and_status(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sh", "-c", "echo out; echo err >&2; exit 7"]) as task:
        assert await task.output() == b"out\n"
        assert await task.stderr.read() == b"err\n"
        assert (task.returncode, await task.wait()) == (7, 7)
    with pytest.raises(NotFound):
        await c.get(task.id)


async def test_output_can_be_checked(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sh", "-c", "echo why >&2; exit 3"]) as task:
        with pytest.raises(FailedPrecondition, match=r"status 3.*why"):
            await task.output(check=True)


async def test_input(c: Client, image: portside.sdk.Image) -> None:
    data = os.urandom(300_000)
    async with c.run(image, ["sh", "-c", "cat; echo end >&2"], stdin=True) as task:
        assert await task.communicate(data) == (data, b"end\n")


async def test_lines_as_they_come(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sh", "-c", "while read line; do echo got $line; done"], stdin=True) as task:
        lines = task.lines()
        for word in ("one", "two"):
            await task.stdin.write(f"{word}\n")
            assert await anext(lines) == f"got {word}"
        await task.stdin.close()
        assert await task.wait() == 0


async def test_much_output_nobody_reads(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sh", "-c", "yes | head -c 8000000; echo end"]) as task:
        assert await task.wait() == 0
        assert (await task.stdout.read()).endswith(b"end\n")


async def test_environment_directory_user(c: Client, image: portside.sdk.Image) -> None:
    script = "echo $A; pwd; id -u; id -G; hostname; cat /proc/self/status | grep -E 'CapInh|CapAmb|NoNewPrivs'"
    async with c.run(image, ["sh", "-c", script], env={"A": "b c"}, cwd="/tmp", user="bob", hostname="box") as task:
        output = (await task.output()).decode().split("\n")
    assert output[:3] == ["b c", "/tmp", "1000"]
    assert set(output[3].split()) == {"1000", "2000"}
    assert output[4] == "box"
    assert {line.split()[0]: line.split()[1] for line in output[5:8]} == {
        "CapInh:": "0000000000000000",
        "CapAmb:": "0000000000000000",
        "NoNewPrivs:": "1",
    }


async def test_volumes_and_limits(c: Client, image: portside.sdk.Image, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("given")
    script = "cat /data/in; echo made > /data/out; echo x > /ro/x || echo refused; touch /y || echo refused"
    volumes = [Volume(str(tmp_path), "/data"), Volume(str(tmp_path), "/ro", ("ro",))]
    async with c.run(image, ["sh", "-c", script], volumes=volumes, read_only=True, pids=50, memory="64m") as task:
        assert await task.output() == b"givenrefused\nrefused\n"
    assert (tmp_path / "out").read_text() == "made\n"


async def test_terminal(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sh", "-c", "tty && stty size && read x && echo got $x"], tty=True, stdin=True) as task:
        await task.resize(90, 33)
        await task.stdin.write("word\n")
        output = await task.output()
    assert b"/dev/pts/0\r\n" in output
    assert b"got word\r\n" in output


async def test_exec(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sleep", "1000"], env={"A": "1"}) as task:
        async with task.exec(["sh", "-c", "echo $A$B; id -u; exit 5"], env={"B": "2"}, user="bob") as process:
            assert await process.output() == b"12\n1000\n"
            assert process.returncode == 5
        async with task.exec(["cat"], stdin=True) as process:
            assert await process.communicate("x" * 70_000) == (b"x" * 70_000, b"")
        async with task.exec(["sleep", "1000"]) as process:
            assert await process.pid() > 0
        with pytest.raises(PortsideError, match="nothing-there"):
            await task.exec(["/nothing-there"])
        outputs = await asyncio.gather(*(_exec_output(task, number) for number in range(8)))
        assert outputs == [f"{number}\n".encode() for number in range(8)]


async def test_output_ends_though_a_child_holds_it(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sleep", "1000"]) as task, task.exec(["sh", "-c", "sleep 500 & echo out"]) as process:
        assert await process.output() == b"out\n"
        assert process.returncode == 0


async def _exec_output(task: portside.sdk.Task, number: int) -> bytes:
    async with task.exec(["echo", str(number)]) as process:
        return await process.output()


SCRIPT = 'trap "exit 9" TERM; echo line; sleep 1000 & wait'


async def test_life_of_a_kept_container(c: Client, kind: str, image: portside.sdk.Image) -> None:
    task = await c.run(image, ["sh", "-c", SCRIPT], name="kept", detach=True)
    try:
        assert await task.status() == "running"
        assert (await c.get("kept")).id == task.id
        assert (await c.get(task.id[:10])).id == task.id
        assert [row.name for row in await c.containers(all=False)] == ["kept"]
        with pytest.raises(AlreadyExists):
            await c.run(image, ["true"], name="kept")
        with pytest.raises(FailedPrecondition):
            await task.remove()
        followed = task.logs(follow=True)
        assert (await anext(followed)).data == b"line\n"
        await task.pause()
        assert await task.status() == "paused"
        await task.resume()
        usage = await task.stats()
        assert usage.memory > 0
        assert usage.id == task.id
        document = await task.inspect()
        assert document["State"]["Status"] == "running"
        assert document["Spec"]["process"]["args"][0] == "sh"
        await task.stop(timeout=0)
        assert [entry async for entry in followed] == []
        assert await task.status() == "exited"
        assert task.returncode == 137
        await task.start()
        assert await task.status() == "running"
        followed = task.logs(follow=True)
        assert [(await anext(followed)).data for _ in range(2)] == [b"line\n", b"line\n"]
        await task.stop()
        assert await task.wait() == 9
        assert b"".join([entry.data async for entry in task.logs()]) == b"line\nline\n"
    finally:
        await task.remove(force=True)
    await task.remove()
    assert not exists(task.container.labels["portside.io/log"])


async def test_wait_with_a_limit(c: Client, image: portside.sdk.Image) -> None:
    async with c.run(image, ["sleep", "1000"]) as task:
        with pytest.raises(TimeoutError):
            await task.wait(timeout=0.05)
        await task.kill()
        assert await task.wait() == 137


async def test_a_failing_block_cleans_up(c: Client, image: portside.sdk.Image) -> None:
    with pytest.raises(ZeroDivisionError):
        async with c.run(image, ["sleep", "1000"]) as task:
            pid = await task.pid()
            raise ZeroDivisionError
    assert not exists(f"/proc/{pid}")
    with pytest.raises(NotFound):
        await c.get(task.id)


async def test_a_cancelled_block_cleans_up(c: Client, image: portside.sdk.Image) -> None:
    started: asyncio.Queue[portside.sdk.Task] = asyncio.Queue()

    async def use() -> None:
        async with c.run(image, ["sleep", "1000"]) as task:
            await started.put(task)
            await task.wait()

    using = asyncio.create_task(use())
    task = await started.get()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    async with asyncio.timeout(SETTLE_SECONDS):
        with pytest.raises(NotFound):
            while True:
                await c.get(task.id)
                await asyncio.sleep(0.01)


async def test_what_cannot_run_leaves_nothing(c: Client, image: portside.sdk.Image) -> None:
    attempts: list[tuple[type[PortsideError], dict[str, object]]] = [
        (PortsideError, {"args": ["/no/such/program"]}),
        (NotFound, {"args": ["true"], "user": "nobody-here"}),
        (InvalidArgument, {"args": ["true"], "user": "4294967296"}),
        (InvalidArgument, {"args": ["true"], "name": "a b"}),
        (InvalidArgument, {"args": ["true"], "network": "bridge"}),
        (InvalidArgument, {"args": [""], "entrypoint": ""}),
        (PortsideError, {"args": ["true"], "volumes": {"/no/such/directory": "/x"}}),
    ]
    before = await _snapshots(c)
    for error, arguments in attempts:
        with pytest.raises(error):
            await c.run(image, **arguments)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await c.run("no-such-image", ["true"])
    assert await c.containers() == []
    assert await _snapshots(c) == before
    assert not [path for path in leftovers.fifos(Path("/run/portside/fifo")) if f"/{os.getpid()}-" in path]


def exists(path: str) -> bool:
    return os.path.exists(path)


async def _snapshots(c: Client) -> set[str]:
    return {snapshot.name async for snapshot in c.services.snapshotter().walk()}


async def test_labels_of_the_image_are_taken_over_with_care(c: Client, registry: str) -> None:
    """CVE-2026-53488: an image must not tell the engine what to do."""
    given = {
        "containerd.io/restart.status": "running",
        "containerd.io/restart.loguri": "binary:///bin/sh?-c=touch /owned",
        "io.cri-containerd.kind": "container",
        "portside.io/auto-remove": "true",
        "long": "x" * 5000,
        "maintainer": "somebody",
    }
    made = images.busybox_image(Labels=given, StopSignal="SIGUSR1")
    image = await c.pull(images.push(registry, "test/labelled", "v1", made))
    task = await c.run(image, ["true"], labels={"mine": "1", "containerd.io/asked": "for"})
    try:
        labels = dict(task.container.labels)
        assert not set(given) & set(labels) - {"maintainer"}
        assert (labels["maintainer"], labels["mine"], labels["containerd.io/asked"]) == ("somebody", "1", "for")
        assert labels["io.containerd.image.config.stop-signal"] == "SIGUSR1"
        assert labels[NAME] == task.name
    finally:
        await task.remove(force=True)
        await c.remove_image(image)


async def test_tag_inspect_and_remove_an_image(c: Client, image: portside.sdk.Image) -> None:
    tagged = await c.tag(image, "example.org/other:v1")
    assert tagged.target == image.target
    document = await c.inspect("example.org/other:v1")
    assert document["Config"]["Cmd"] == ["sh"]
    task = await c.run(tagged, ["true"], detach=True)
    with pytest.raises(FailedPrecondition):
        await c.remove_image(tagged)
    await task.remove(force=True)
    await c.remove_image(tagged)
    with pytest.raises(NotFound):
        await c.image("example.org/other:v1")


async def test_push(c: Client, image: portside.sdk.Image, registry: str) -> None:
    name = f"{registry}/pushed/by-library:v1"
    await c.push(image, name)
    pulled = await c.pull(name)
    assert pulled.target.digest == image.target.digest
    await c.remove_image(pulled)


async def test_many_at_once(c: Client, image: portside.sdk.Image) -> None:
    async def one(number: int) -> bytes:
        async with c.run(image, ["echo", str(number)]) as task:
            return await task.output()

    assert await asyncio.gather(*(one(number) for number in range(10))) == [f"{n}\n".encode() for n in range(10)]


async def test_events(c: Client, image: portside.sdk.Image) -> None:
    topics: list[str] = []
    ended = asyncio.Event()

    async def watch() -> None:
        async for envelope in c.events():
            topics.append(envelope.topic)
            if envelope.topic == "/containers/delete":
                ended.set()

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(20):
        # Until the subscription stands, events pass unseen.
        while not ended.is_set():
            async with c.run(image, ["true"]) as task:
                await task.wait()
            await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    expected = ["/tasks/exit", "/tasks/delete", "/containers/delete"]
    assert [topic for topic in topics if topic in expected][-3:] == expected
