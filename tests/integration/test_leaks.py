"""Whatever happens to containers, clients, shims, zygote and daemon: in the end nothing of it is left anywhere."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.registry.conftest import Server
from tests.support import images, leftovers, peers
from tests.support.census import Census, descriptors, zygote_of
from tests.support.disks import fill_up, small_disk
from tests.support.peers import Daemon, wait_for

pytestmark = pytest.mark.root

KILLS = 60 if os.environ.get("PORTSIDE_SOAK") else 4
NAMESPACE = f"leaks-{os.getpid()}"


class House:
    """A daemon, an image in its namespace, and the commands for it."""

    def __init__(self, daemon: Daemon, image: str, runtime_directory: Path) -> None:
        self.daemon, self.image, self.runtime_directory = daemon, image, runtime_directory
        self.environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime_directory)}

    def portside(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.daemon.portside("-n", NAMESPACE, *words, check=check, env=self.environment)

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.daemon.ctr("-n", NAMESPACE, *words, check=check)

    def client(self, *words: str) -> subprocess.Popen[bytes]:
        """Our command in the background."""
        command = [sys.executable, "-m", "portside.cli.main", "-a", str(self.daemon.socket), "-n", NAMESPACE, *words]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environment
        )

    def shim_of(self, name: str) -> int:
        id = json.loads(self.portside("inspect", name).stdout)[0]["Id"]
        bundle = self.daemon.state / "io.containerd.runtime.v2.task" / NAMESPACE / id
        return int(json.loads((bundle / "state.json").read_text())["shim"]["pid"])

    def remove_fifos_of_the_dead(self) -> None:
        """A killed command cannot remove its fifos; the next one that has some does."""
        self.portside("run", "--rm", self.image, "true")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What there is before the block is what there is after it, soon."""
        census = Census(self.daemon, NAMESPACE, self.runtime_directory)
        yield
        census.check()


@pytest.fixture(scope="module")
def house(daemon: Daemon, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(daemon, busybox, tmp_path_factory.mktemp("run"))
    house.portside("pull", "-q", busybox)
    # What is made once and stays: directories of the namespace, the parents of its cgroups.
    house.portside("run", "--rm", busybox, "true")
    house.ctr("run", "--rm", busybox, "first", "true")
    yield house
    leftovers.remove_empty_cgroups(NAMESPACE)


def test_normal_lives(house: House) -> None:
    with house.unchanged():
        house.portside("run", "--rm", house.image, "echo", "x")
        house.portside("run", "--name", "n1", house.image, "echo", "x")
        house.portside("run", "-d", "--name", "n2", "-m", "32m", "-v", "/usr:/x:ro", house.image, "sleep", "1000")
        house.portside("exec", "n2", "true")
        house.portside("exec", "-d", "n2", "sleep", "1000")
        house.portside("rm", "-f", "n1", "n2")
        house.ctr("run", "--rm", house.image, "c1", "true")
        house.ctr("run", "-d", house.image, "c2", "sleep", "1000")
        house.ctr("tasks", "exec", "--exec-id", "e", "c2", "true")
        house.ctr("tasks", "rm", "-f", "c2")
        house.ctr("containers", "rm", "c2")
        if Path("/usr/sbin/runc").exists():
            house.portside("run", "--rm", "--runtime", "runc", house.image, "true")


def test_descriptors_of_daemon_and_zygote(house: House) -> None:
    assert house.daemon.process is not None
    daemon = house.daemon.process.pid
    zygote = zygote_of(daemon)

    def some() -> None:
        house.portside("run", "--rm", house.image, "true")
        house.portside("run", "--rm", house.image, "no-such-command", check=False)
        house.portside("run", "-d", "--name", "fd", house.image, "sleep", "1000")
        house.portside("exec", "fd", "true")
        house.portside("logs", "fd")
        house.portside("rm", "-f", "fd")
        house.ctr("run", "--rm", house.image, "c", "true")
        house.ctr("images", "ls")

    some()
    before = descriptors(daemon), descriptors(zygote)
    for _ in range(3):
        some()
    for pid, had in zip((daemon, zygote), before, strict=True):
        # Of what is closed in the background some may still have been open then.
        wait_for(lambda pid=pid, had=had: len(descriptors(pid)) <= len(had), f"no more descriptors than {had}")


@pytest.mark.parametrize(
    "words",
    [
        ("{image}", "no-such-command"),
        ("{image}", "/etc"),
        ("-u", "nobody-here", "{image}", "true"),
        ("-v", "/no/such/place:/x", "{image}", "true"),
        ("-w", "/etc/passwd", "{image}", "true"),
        ("--runtime", "/no/such/runtime", "{image}", "true"),
        ("--runtime", "runc", "{image}", "no-such-command"),
        ("--cap-add", "FLY", "{image}", "true"),
        ("--tmpfs", "relative", "{image}", "true"),
        ("--stop-signal", "HOWL", "{image}", "true"),
        ("--snapshotter", "nothing", "{image}", "true"),
        ("-m", "1k", "{image}", "true"),
    ],
)
def test_what_cannot_be_made(house: House, words: tuple[str, ...]) -> None:
    with house.unchanged():
        for option in ("--rm", "-d"):
            result = house.portside("run", option, *[word.format(image=house.image) for word in words], check=False)
            assert result.returncode
            # runc says it itself as well, on the container's standard error.
            assert len(result.stderr.splitlines()) <= (2 if "runc" in words and option != "-d" else 1)


@pytest.mark.parametrize(
    "change",
    [
        {"root": {"path": "/no/such/root"}},
        {"process": None},
        {"process": {"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}},
        {"mounts": [{"destination": "/proc", "type": "no-such-fs", "source": "x"}]},
        {"linux": {"namespaces": [{"type": "network", "path": "/no/such/netns"}]}},
        {"hooks": {"createRuntime": [{"path": "/bin/false"}]}},
        {"hooks": {"poststart": [{"path": "/no/such/hook"}]}},
    ],
)
def test_specs_that_cannot_be_made(house: House, tmp_path: Path, change: dict[str, object]) -> None:
    peers.need_program("runc")
    peers.run("runc", "spec", "-b", str(tmp_path))
    spec = json.loads((tmp_path / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/true"]}
    spec["root"] = {"path": "/tmp", "readonly": True}
    config = tmp_path / "spec.json"
    config.write_text(json.dumps(spec | change))
    with house.unchanged():
        house.ctr("run", "--rm", "--config", str(config), "bad", check=False)
        # ctr removes the container only if the run went well.
        house.ctr("tasks", "rm", "-f", "bad", check=False)
        house.ctr("containers", "rm", "bad", check=False)


def test_client_killed_while_its_container_runs(house: House) -> None:
    with house.unchanged():
        client = house.client("run", "--rm", "--name", "orphan", house.image, "sh", "-c", "echo ready; sleep 1000")
        with client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            wait_for(lambda: "orphan" in house.portside("ps").stdout, "the start to be known")
            client.kill()
        house.portside("kill", "orphan")
        house.remove_fifos_of_the_dead()


def test_client_of_an_exec_killed(house: House) -> None:
    house.portside("run", "-d", "--name", "host", house.image, "sleep", "1000")
    with house.unchanged():
        with house.client("exec", "host", "sh", "-c", "echo ready; sleep 1000") as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            client.kill()
        house.remove_fifos_of_the_dead()
        house.portside("exec", "host", "sh", "-c", "kill -9 -1", check=False)
        wait_for(lambda: _processes_in(house, "host") <= 1, "the exec to end")
    house.portside("rm", "-f", "host")


def _processes_in(house: House, name: str) -> int:
    id = json.loads(house.portside("inspect", name).stdout)[0]["Id"]
    return len(house.ctr("tasks", "ps", id).stdout.splitlines()) - 1


def test_shim_killed(house: House) -> None:
    with house.unchanged():
        house.portside("run", "-d", "--name", "shimless", house.image, "sleep", "1000")
        os.kill(house.shim_of("shimless"), signal.SIGKILL)
        assert house.portside("wait", "shimless").stdout == "137\n"
        assert "Exited (137)" in house.portside("ps", "-a").stdout
        house.portside("rm", "shimless")


def test_shim_of_a_container_that_removes_itself_killed(house: House) -> None:
    with house.unchanged():
        house.portside("run", "-d", "--rm", "--name", "shimless", house.image, "sleep", "1000")
        os.kill(house.shim_of("shimless"), signal.SIGKILL)


def test_zygote_killed(house: House) -> None:
    assert house.daemon.process is not None
    with house.unchanged():
        house.portside("run", "-d", "--name", "before", house.image, "sleep", "1000")
        os.kill(zygote_of(house.daemon.process.pid), signal.SIGKILL)
        assert house.portside("run", "--rm", house.image, "echo", "after").stdout == "after\n"
        assert house.portside("exec", "before", "echo", "alive").stdout == "alive\n"
        house.portside("rm", "-f", "before")


def test_init_killed_from_outside(house: House) -> None:
    with house.unchanged():
        house.portside("run", "-d", "--name", "shot", house.image, "sleep", "1000")
        house.portside("run", "-d", "--rm", "--name", "shot-too", house.image, "sleep", "1000")
        for name in ("shot", "shot-too"):
            os.kill(json.loads(house.portside("inspect", name).stdout)[0]["State"]["Pid"], signal.SIGKILL)
        assert house.portside("wait", "shot").stdout == "137\n"
        house.portside("rm", "shot")


# Pulls


class Registry(Server):
    """Serves one image, but of its layer only the first half; then it waits for ``go_on``, or hangs up."""

    def __init__(self, image: images.TestImage, *, hangs: bool) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.asked = threading.Event()
        layer = json.loads(image.manifest)["layers"][0]["digest"]
        media_type = json.loads(image.manifest)["mediaType"]
        for reference in ("v1", image.digest):
            self.routes[f"/v2/half/manifests/{reference}"] = lambda handler: handler.reply(
                200, image.manifest, Content_Type=media_type, Docker_Content_Digest=image.digest
            )
        for digest, blob in image.blobs.items():
            self.routes[f"/v2/half/blobs/{digest}"] = lambda handler, blob=blob: handler.reply(200, blob)

        def half(handler: object) -> None:
            blob = image.blobs[layer]
            handler.send_response(200)  # type: ignore[attr-defined]
            handler.send_header("Content-Length", str(len(blob)))  # type: ignore[attr-defined]
            handler.end_headers()  # type: ignore[attr-defined]
            handler.wfile.write(blob[: len(blob) // 2])  # type: ignore[attr-defined]
            handler.wfile.flush()  # type: ignore[attr-defined]
            self.asked.set()
            if hangs:
                self.go_on.wait(60)
            handler.hang_up()  # type: ignore[attr-defined]

        self.routes[f"/v2/half/blobs/{layer}"] = half

    def close(self) -> None:
        self.go_on.set()
        self.http.shutdown()
        self.http.server_close()


@contextmanager
def half_a_registry(*, hangs: bool) -> Iterator[Registry]:
    files = images.busybox_files() | {"random": os.urandom(400_000)}
    registry = Registry(images.make_image([images.tar_layer(files)]), hangs=hangs)
    try:
        yield registry
    finally:
        registry.close()


def test_client_killed_in_a_pull(house: House) -> None:
    with half_a_registry(hangs=True) as registry, house.unchanged():
        with house.client("pull", f"{registry.host}/half:v1") as client:
            assert registry.asked.wait(20)
            client.kill()
        registry.go_on.set()


def test_client_killed_in_the_pull_of_a_run(house: House) -> None:
    with half_a_registry(hangs=True) as registry, house.unchanged():
        with house.client("run", "--rm", f"{registry.host}/half:v1") as client:
            assert registry.asked.wait(20)
            client.kill()
        house.remove_fifos_of_the_dead()
        registry.go_on.set()


def test_registry_that_stops_in_a_pull(house: House) -> None:
    with half_a_registry(hangs=False) as registry, house.unchanged():
        result = house.portside("pull", "-q", f"{registry.host}/half:v1", check=False)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert registry.host in result.stderr


# The daemon


def test_daemon_killed_while_containers_are_made(own_daemon: Daemon, busybox: str, tmp_path: Path) -> None:
    """At whatever point: what can be seen afterwards can be removed, and then nothing is left."""
    runtime_directory = tmp_path / "run"
    runtime_directory.mkdir()
    house = House(own_daemon, busybox, runtime_directory)
    house.portside("pull", "-q", busybox)
    house.portside("run", "--rm", busybox, "true")
    census = Census(own_daemon, NAMESPACE, runtime_directory)
    for _ in range(KILLS):
        clients = [
            house.client("run", *options, busybox, "sleep", "1000") for options in (("-d",), ("--rm",), ("-d", "--rm"))
        ]
        # A command's start takes some 50 to 100 ms, what follows as long.
        threading.Event().wait(0.05 + 0.1 * random.random())
        own_daemon.kill()
        for client in clients:
            with client:
                client.kill()
        own_daemon.start()
        ids = house.portside("ps", "-a", "-q", "--no-trunc").stdout.split()
        assert set(house.ctr("tasks", "ls", "-q").stdout.split()) <= set(ids)
        if ids:
            house.portside("rm", "-f", *ids, check=False)
    house.remove_fifos_of_the_dead()
    census.check(20)
    leftovers.remove_empty_cgroups(NAMESPACE)


# A full disk


def test_a_full_disk(busybox: str, tmp_path: Path) -> None:
    peers.need_root()
    with small_disk(tmp_path / "disk", "16m") as disk:
        daemon = Daemon(tmp_path)
        daemon.root = disk / "root"
        daemon.start()
        try:
            _fill_and_free(daemon, busybox, disk)
        finally:
            daemon.stop()


def _fill_and_free(daemon: Daemon, image: str, disk: Path) -> None:
    filler = fill_up(disk)
    refused = daemon.portside("pull", "-q", image, check=False)
    assert refused.returncode == 1
    _says_that_the_disk_is_full(refused)
    by_ctr = daemon.ctr("images", "pull", "--plain-http", image, check=False)
    assert by_ctr.returncode
    filler.unlink()
    assert daemon.ctr("images", "ls", "-q").stdout == ""
    assert len(daemon.ctr("snapshots", "ls").stdout.splitlines()) == 1
    daemon.portside("pull", "-q", image)
    assert daemon.portside("run", "--rm", image, "echo", "space").stdout == "space\n"

    daemon.portside("run", "-d", "--name", "goes-on", image, "sh", "-c", "while :; do sleep 0.1; done")
    filler = fill_up(disk)
    refused = daemon.portside("run", "--rm", "--name", "no-space", image, "true", check=False)
    if refused.returncode:  # A small write may have found room in what is allocated already.
        assert refused.returncode == 125
        _says_that_the_disk_is_full(refused)
    assert "no-space" not in daemon.portside("ps", "-a").stdout
    writes = daemon.portside("exec", "goes-on", "sh", "-c", "yes >/full", check=False)
    assert writes.returncode
    assert "goes-on" in daemon.portside("ps").stdout
    filler.unlink()
    assert daemon.portside("exec", "goes-on", "rm", "/full").returncode == 0
    assert daemon.portside("run", "--rm", image, "echo", "space").stdout == "space\n"
    daemon.portside("rm", "-f", "goes-on")
    assert len(daemon.ctr("snapshots", "ls").stdout.splitlines()) == 2
    assert daemon.portside("ps", "-a", "-q").stdout == ""


def _says_that_the_disk_is_full(result: subprocess.CompletedProcess[str]) -> None:
    assert len(result.stderr.splitlines()) == 1
    assert re.search(r"no space left|disk is full", result.stderr, re.I), result.stderr
