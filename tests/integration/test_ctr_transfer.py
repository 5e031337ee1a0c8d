"""The ctr of containerd 2.1, whose images commands use Transfer, against our socket; and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from portside.core.transfer import ImageStore, OCIRegistry, Progress
from portside.errors import PortsideError
from portside.remote.backend import RemoteBackend
from portside.remote.caller import Caller
from portside.remote.transfer import SERVICE
from portside.wire.pb.containerd.services.transfer.v1 import transfer_pb2 as pb
from portside.wire.pb.containerd.types.transfer import imagestore_pb2, registry_pb2
from portside.wire.pb.google.protobuf import any_pb2, empty_pb2
from tests.support import images
from tests.support.newer import newer_ctr, start_newer_ctr
from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root


def test_pull_tag_push(daemon: Daemon, busybox: str, registry: str) -> None:
    pulled = newer_ctr(daemon.socket, "images", "pull", "--plain-http", busybox).stdout
    assert "saved" in pulled and "manifest" in pulled and "extracted" in pulled
    assert busybox in newer_ctr(daemon.socket, "images", "ls", "-q").stdout.split()
    assert newer_ctr(daemon.socket, "snapshots", "ls").stdout.count("Committed") == 1
    other = f"{registry}/test/by-transfer:v1"
    assert newer_ctr(daemon.socket, "images", "tag", busybox, other).stdout.split() == [other]
    assert "pushed content" in newer_ctr(daemon.socket, "images", "push", "--plain-http", other).stdout
    newer_ctr(daemon.socket, "images", "rm", other)
    newer_ctr(daemon.socket, "images", "pull", "--plain-http", other)
    out = daemon.ctr("run", "--rm", other, "by-transfer", "echo", "from what was pulled").stdout
    assert out == "from what was pulled\n"
    newer_ctr(daemon.socket, "images", "rm", other, busybox)
    assert newer_ctr(daemon.socket, "leases", "ls", "-q").stdout.split() == []


@pytest.mark.parametrize("flags", [(), ("--local",)], ids=["by transfer", "by ctr itself"])
def test_export_and_import(daemon: Daemon, busybox: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """What goes out comes in again, whoever writes and reads the archive."""
    newer_ctr(daemon.socket, "images", "pull", "--plain-http", busybox)
    archive = tmp_path / "image.tar"
    newer_ctr(daemon.socket, "images", "export", str(archive), busybox)
    with tarfile.open(archive) as tar:
        assert {"oci-layout", "index.json", "manifest.json"} <= set(tar.getnames())
    newer_ctr(daemon.socket, "images", "rm", "--sync", busybox)
    newer_ctr(daemon.socket, "images", "import", *flags, str(archive))
    assert busybox in newer_ctr(daemon.socket, "images", "ls", "-q").stdout.split()
    assert "complete" in newer_ctr(daemon.socket, "images", "check", f"name=={busybox}").stdout
    newer_ctr(daemon.socket, "images", "rm", "--sync", busybox)


def test_import_with_base_name_and_digests(daemon: Daemon, tmp_path: Path) -> None:
    made = images.make_image([images.tar_layer({"a": b"b"})])
    images.write_layout(made, tmp_path / "layout", "v1")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (tmp_path / "layout/index.json").write_text(json.dumps(index))
    with tarfile.open(tmp_path / "layout.tar", "w") as tar:
        for path in sorted((tmp_path / "layout").iterdir()):
            tar.add(path, path.name)
    base = (
        "--base-name",
        "example.org/based",
        "--digests",
        "--skip-digest-for-named",
        "--index-name",
        "example.org/i:1",
    )
    newer_ctr(daemon.socket, "images", "import", *base, str(tmp_path / "layout.tar"))
    names = {name for name in newer_ctr(daemon.socket, "images", "ls", "-q").stdout.split() if "example.org" in name}
    # ctr turns the meaning of that flag round; a name by digest it is.
    assert {"example.org/based:v1", "example.org/i:1"} <= names
    newer_ctr(daemon.socket, "images", "rm", "--sync", *names)


def test_registry_with_password(daemon: Daemon, closed: tuple[str, str]) -> None:
    host, image = closed
    user = ("--plain-http", "--user", "user:secret")
    newer_ctr(daemon.socket, "images", "pull", *user, image)
    newer_ctr(daemon.socket, "images", "push", *user, f"{host}/test/pushed:1", image)
    newer_ctr(daemon.socket, "images", "rm", "--sync", image)
    for wrong in (("--user", "user:wrong"), ()):
        refused = newer_ctr(daemon.socket, "images", "pull", "--plain-http", *wrong, image, check=False)
        assert refused.returncode and host in refused.stderr and "wrong" not in refused.stderr
    assert image not in newer_ctr(daemon.socket, "images", "ls", "-q").stdout.split()
    assert newer_ctr(daemon.socket, "leases", "ls", "-q").stdout.split() == []


def test_hosts_directory(daemon: Daemon, busybox: str, registry: str, tmp_path: Path) -> None:
    """A name of a registry that is another one in truth."""
    (tmp_path / "mirrored.example").mkdir()
    (tmp_path / "mirrored.example/hosts.toml").write_text(f'server = "http://{registry}"\n')
    name = busybox.replace(registry, "mirrored.example")
    newer_ctr(daemon.socket, "images", "pull", "--hosts-dir", str(tmp_path), name)
    newer_ctr(daemon.socket, "images", "rm", "--sync", name)


def test_what_goes_on_with_the_registry(daemon: Daemon, closed: tuple[str, str]) -> None:
    """``--http-dump`` shows it, without the password."""
    host, image = closed
    shown = newer_ctr(daemon.socket, "images", "pull", "--plain-http", "--user", "user:secret", "--http-dump", image)
    text = shown.stdout + shown.stderr
    assert f"> HEAD http://{host}/v2/test/closed/manifests/1" in text and "< 401 HEAD" in text and "< 200 HEAD" in text
    assert "secret" not in text and "dXNlcjpzZWNyZXQ" not in text and "Authorization: (not shown)" in text
    newer_ctr(daemon.socket, "images", "rm", "--sync", image)


@pytest.mark.parametrize("words", [("pull", "--plain-http"), ("push", "--plain-http"), ("export", "/tmp/none.tar")])
def test_what_is_missing(daemon: Daemon, registry: str, words: tuple[str, ...]) -> None:
    refused = newer_ctr(daemon.socket, "images", *words, f"{registry}/test/nothing:1", check=False)
    assert refused.returncode and "not found" in refused.stderr


class _Slow(BaseHTTPRequestHandler):
    """Passes on what a registry has, and keeps whoever asks for a blob waiting."""

    origin = ""
    asked = threading.Event()
    go_on = threading.Event()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        import urllib.request

        if "/blobs/" in self.path:
            self.asked.set()
            self.go_on.wait(60)
        request = urllib.request.Request(f"http://{self.origin}{self.path}", method=self.command)
        request.add_header("Accept", self.headers.get("Accept", "*/*"))
        with urllib.request.urlopen(request, timeout=30) as answer:
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Length", "Docker-Content-Digest"):
                if answer.headers.get(name):
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.read())

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture
def slow(registry: str) -> Iterator[tuple[str, type[_Slow]]]:
    """A registry whose blobs wait for ``go_on``; its ``host:port``."""
    handler = type("Slow", (_Slow,), {"origin": registry, "asked": threading.Event(), "go_on": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", handler
    handler.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_client_that_is_killed_leaves_nothing(
    own_daemon: Daemon, busybox: str, registry: str, slow: tuple[str, type[_Slow]]
) -> None:
    """ctr's own lease is its own, and ends by itself; ours, made where it gives none, is gone."""
    host, handler = slow
    client = start_newer_ctr(own_daemon.socket, "images", "pull", "--plain-http", busybox.replace(registry, host))
    try:
        wait_for(handler.asked.is_set, "the pull to ask for a blob")
    finally:
        client.kill()
        client.wait()
    handler.go_on.set()

    async def leave() -> None:
        async with await RemoteBackend.connect(str(own_daemon.socket)) as backend:
            for lease in await backend.bind("default").leases.list():
                await backend.bind("default").leases.delete(lease.id, sync=True)

    asyncio.run(leave())
    wait_for(lambda: _is_empty(own_daemon), "everything to go")


async def test_a_call_without_a_lease_that_is_cancelled(
    own_daemon: Daemon, busybox: str, registry: str, slow: tuple[str, type[_Slow]]
) -> None:
    host, handler = slow
    async with await RemoteBackend.connect(str(own_daemon.socket)) as backend:
        services = backend.bind("default")
        call = asyncio.create_task(_plain_pull(backend, busybox.replace(registry, host), ""))
        await asyncio.to_thread(handler.asked.wait, 20)
        assert len(await services.leases.list()) == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        handler.go_on.set()
    await asyncio.to_thread(wait_for, lambda: _is_empty(own_daemon), "everything to go")


async def test_progress_that_nobody_reads(daemon: Daemon, busybox: str) -> None:
    """Nor may it hold up the transfer, nor what is told be lost that was in time."""
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        services = backend.bind("unread")
        stream = await services.streaming.create("unread")
        await _plain_pull(backend, busybox, "unread", "unread")
        assert [image.name for image in await services.images.list()] == [busybox]
        events = []
        while (message := await stream.recv()) is not None:
            events.append(message.type_name)
        assert set(events) == {"containerd.types.transfer.Progress"}
        await services.images.delete(busybox, sync=True)


async def test_credentials_that_nobody_gives(daemon: Daemon, closed: tuple[str, str]) -> None:
    """A stream whose maker says nothing and goes: the transfer ends with it."""
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        stream = await backend.bind("default").streaming.create("silent")
        resolver = registry_pb2.RegistryResolver(auth_stream="silent", default_scheme="http")
        call = asyncio.create_task(_transfer(backend, registry_pb2.OCIRegistry(reference=closed[1], resolver=resolver)))
        question = await stream.recv()
        assert question is not None
        asked = registry_pb2.AuthRequest.FromString(question.value)
        assert (asked.host, asked.reference) == closed
        await stream.fail("no answer")
        with pytest.raises(PortsideError, match="went away"):
            await call


async def test_a_stream_has_one_user(daemon: Daemon, registry: str) -> None:
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        stream = await backend.bind("default").streaming.create("shared")
        resolver = registry_pb2.RegistryResolver(
            auth_stream="shared", logs_stream="shared", http_debug=registry_pb2.BOTH
        )
        with pytest.raises(PortsideError, match="in use"):
            await _transfer(backend, registry_pb2.OCIRegistry(reference=f"{registry}/a/b:1", resolver=resolver))
        assert await stream.recv() is None  # it ended with the call that had it


async def test_more_than_one_transfer_at_a_time(daemon: Daemon, busybox: str) -> None:
    async with await RemoteBackend.connect(str(daemon.socket)) as backend:
        services, told = backend.bind("parallel"), list[Progress]()
        source = OCIRegistry(busybox, default_scheme="http")
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(services.transfer.transfer(source, ImageStore(f"image-{number}"), told.append))
        assert len(await services.images.list()) == 8
        for image in await services.images.list():
            await services.images.delete(image.name, sync=True)


async def _plain_pull(backend: RemoteBackend, reference: str, progress: str, namespace: str = "default") -> None:
    resolver = registry_pb2.RegistryResolver(default_scheme="http")
    source = registry_pb2.OCIRegistry(reference=reference, resolver=resolver)
    await _transfer(backend, source, reference, progress, namespace)


async def _transfer(
    backend: RemoteBackend, source: registry_pb2.OCIRegistry, name: str = "x", progress: str = "",
    namespace: str = "default",
) -> None:  # fmt: skip
    destination = imagestore_pb2.ImageStore(name=name)
    request = pb.TransferRequest(
        source=any_pb2.Any(type_url=source.DESCRIPTOR.full_name, value=source.SerializeToString()),
        destination=any_pb2.Any(type_url=destination.DESCRIPTOR.full_name, value=destination.SerializeToString()),
        options=pb.TransferOptions(progress_stream=progress),
    )
    await Caller(backend.channel, SERVICE, namespace).call("Transfer", request, empty_pb2.Empty)


def _is_empty(daemon: Daemon) -> bool:
    listings = (("images", "ls", "-q"), ("leases", "ls", "-q"), ("snapshots", "ls"), ("content", "ls", "-q"))
    texts = [daemon.ctr(*words).stdout.splitlines() for words in (*listings, ("content", "active"))]
    return all(len([line for line in lines if not line.startswith(("KEY", "REF", "ID"))]) == 0 for lines in texts)
