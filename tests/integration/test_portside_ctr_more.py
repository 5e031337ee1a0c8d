"""What ``portside ctr`` does beyond printing: files, mounts, networks, shims; our daemon's and Debian's containerd."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from portside.cli.ctr.mounting import mount_all
from portside.core.mount import Mount
from portside.errors import PortsideError
from tests.support import images, peers
from tests.support.ctr_server import Server, ctr_server
from tests.support.peers import wait_for
from tests.support.terminals import Terminal

pytestmark = pytest.mark.root

with_portside = pytest.mark.parametrize("server", ["portside"], indirect=True)
"""For what does not depend on whose server it is."""


@pytest.fixture(scope="module", params=["portside", "containerd"])
def server(request: pytest.FixtureRequest, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ctr_server(request.param, busybox, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def id(request: pytest.FixtureRequest) -> str:
    """Of a container, the test's own on this machine."""
    return f"m{re.sub('[^a-z0-9]', '-', request.node.name.lower())[:40].strip('-')}-{os.getpid()}"


def run(server: Server, *words: str) -> str:
    return server.ours("run", "--rm", *words).stdout


def test_files_that_run_writes(server: Server, id: str, tmp_path: Path) -> None:
    options = ["--pid-file", str(tmp_path / "pid"), "--dump-config", str(tmp_path / "spec.json")]
    limits = ["--rlimit-nofile", "100:200", "--device", "/dev/fuse", "--annotation", "a=b"]
    log = ["--log-uri", f"file://{tmp_path}/log"]
    script = "ulimit -Sn; ulimit -Hn; ls /dev/fuse"
    assert run(server, *options, *limits, *log, server.image, id, "sh", "-c", script) == ""
    assert (tmp_path / "log").read_text().split() == ["100", "200", "/dev/fuse"]
    assert int((tmp_path / "pid").read_text()) > 1
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert spec["annotations"] == {"a": "b"}
    assert spec["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}]


@with_portside
def test_a_whole_specification(server: Server, id: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    target = server.ours("images", "mount", "--rw", server.image, str(_made(root))).stdout.split()[-1]
    try:
        spec = json.loads(server.ours("oci", "spec").stdout)
        spec["process"] |= {"args": ["cat", "/etc/hostname"], "env": ["PATH=/bin"]}
        spec["root"] = {"path": target, "readonly": True}
        spec["linux"]["cgroupsPath"] = f"/default/{id}"
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] in ("/proc", "/dev")]
        spec["process"]["args"] = ["echo", "from a file"]
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        result = server.ours("run", "--rm", "--label", "l=m", "-c", str(tmp_path / "spec.json"), id)
        assert result.stdout == "from a file\n"
        rootfs = ["run", "--rm", "--read-only", "--rootfs", target, id, "/bin/echo", "from a directory"]
        assert server.ours(*rootfs).stdout == "from a directory\n"
        two = server.ours("run", "-c", str(tmp_path / "spec.json"), server.image, id, check=False)
        assert (two.returncode, len(two.stderr.splitlines())) == (1, 1)
    finally:
        server.ours("images", "unmount", "--rm", target)
    assert not os.listdir(root)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("second", [Mount("tmpfs", "tmpfs", "../other"), Mount("nosuchfs", "none", "inside")])
def test_mounts_that_fail_leave_none(tmp_path: Path, second: Mount) -> None:
    target = _made(tmp_path / "target")
    for name in ("other", "target/inside"):
        (tmp_path / name).mkdir()
    with pytest.raises(PortsideError):
        mount_all([Mount("tmpfs", "tmpfs", "inside"), second], str(target))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_image_mounts(server: Server, tmp_path: Path) -> None:
    target = _made(tmp_path / "m")
    chain, where = server.ours("images", "mount", "--rw", "-x", "1m", server.image, str(target)).stdout.split()
    try:
        assert (where, (target / "bin/busybox").stat().st_size) == (str(target), images.BUSYBOX.stat().st_size)
        (target / "new").write_text("written")
        assert server.theirs("snapshots", "info", str(target)).stdout.count(chain) == 1
        assert str(target) in server.theirs("leases", "ls", "-q").stdout
    finally:
        server.ours("images", "unmount", "--rm", str(target))
    assert os.listdir(target) == []
    assert f"{server.address.parent}/io.containerd.mount-manager" not in Path("/proc/mounts").read_text()
    assert str(target) not in server.theirs("snapshots", "ls").stdout + server.theirs("leases", "ls", "-q").stdout
    missing = server.ours("images", "unmount", str(target / "nobody"), check=False)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)


@with_portside
def test_user_namespaces(server: Server, id: str) -> None:
    maps = ["--uidmap", "0:100000:1000", "--uidmap", "1000:200000:1000", "--gidmap", "0:300000:65536"]
    script = "cat /proc/self/uid_map; stat -c '%u %g' /etc/passwd; id -u"
    lines = run(server, *maps, server.image, id, "sh", "-c", script).splitlines()
    assert [line.split() for line in lines[:2]] == [["0", "100000", "1000"], ["1000", "200000", "1000"]]
    assert lines[2:] == ["0 0", "0"]
    outside = server.ours("run", "--rm", "--uidmap", "5:100000:10", "--gidmap", "0:1:65536", server.image, id, "true",
                          check=False)  # fmt: skip
    assert (outside.returncode, len(outside.stderr.splitlines())) == (1, 1)
    assert "remap" not in server.theirs("snapshots", "ls").stdout


def test_attach(server: Server, id: str, tmp_path: Path) -> None:
    """To a task whose client was killed: what it writes and how it ends is then ours."""
    script = "read line; echo got $line; exit 5"
    words = [*server.command, "run", "--fifo-dir", str(tmp_path / "fifos"), server.image, id, "sh", "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        wait_for(lambda: "RUNNING" in server.theirs("tasks", "ls").stdout, "the task")
        client.send_signal(signal.SIGKILL)
    result = server.ours("tasks", "attach", id, input="it\n", check=False)
    assert (result.stdout, result.returncode) == ("got it\n", 5)
    assert id not in server.theirs("tasks", "ls", "-q").stdout
    server.ours("containers", "rm", id)


def test_shims(server: Server, id: str, tmp_path: Path) -> None:
    server.ours("run", "-d", server.image, id, "sleep", "1000")
    try:
        state = json.loads(server.ours("shim", "--id", id, "state").stdout)
        assert (state["id"], state["status"]) == (id, 2)
        assert json.loads(server.ours("shim", "--id", id, "state", "--api-version", "2").stdout) == state
        process = {
            "args": ["sh", "-c", "echo hi $X; pwd"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        }
        (tmp_path / "process.json").write_text(json.dumps(process))
        fifos = ["--stdout", str(tmp_path / "out"), "--stderr", str(tmp_path / "err")]
        more = ["--spec", str(tmp_path / "process.json"), "-e", "X=there", "--cwd", "/tmp", "-a"]
        said = server.ours("shim", "--id", id, "exec", *fifos, *more, "e1").stdout.splitlines()
        assert re.fullmatch(r"exec running with pid \d+", said[0])
        assert said[1:] == ["hi there", "/tmp"]
        busy = server.ours("shim", "--id", id, "delete", check=False)
        assert (busy.returncode, len(busy.stderr.splitlines())) == (1, 1)
        server.ours("shim", "--id", id, "shutdown")
        assert json.loads(server.ours("shim", "--id", id, "state").stdout)["status"] == 2
    finally:
        server.ours("tasks", "rm", "-f", id)
        server.ours("containers", "rm", id)


@pytest.mark.parametrize("words", [("state",), ("--id", "nobody", "state"), ("--shim-address", "/nowhere", "shutdown"),
                                   ("--id", "nobody", "pprof", "heap"), ("pprof", "heap")])  # fmt: skip
@with_portside
def test_no_such_shim(server: Server, words: tuple[str, ...]) -> None:
    result = server.ours("shim", *words, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


def test_install(server: Server, tmp_path: Path) -> None:
    server.ours("install", "--path", str(tmp_path), server.image)
    assert (tmp_path / "bin/busybox").read_bytes() == images.BUSYBOX.read_bytes()
    assert os.readlink(tmp_path / "bin/sh") == "busybox"
    assert sorted(os.listdir(tmp_path)) == ["bin"]
    again = server.ours("install", "--path", str(tmp_path), server.image, check=False)
    assert (again.returncode, "cannot replace" in again.stderr) == (1, True)
    server.ours("install", "-r", "-l", "--path", str(tmp_path), server.image)
    assert not [name for name in os.listdir(tmp_path / "bin") if name.startswith(".")]


@with_portside
def test_install_keeps_to_its_directory(server: Server, registry: str, tmp_path: Path) -> None:
    """Names and links of an archive lead nowhere else."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    files: dict[str, bytes | str] = {
        "bin/": b"", "bin/evil": str(victim), "../bin/up": b"x", "bin/../../up": b"x", "etc/passwd": b"x",
        "bin/deep/er": b"x", "bin/good": b"good",
    }  # fmt: skip
    reference = images.push(registry, "test/evil", "v1", images.make_image([
        images.tar_layer(files), images.tar_layer({"bin/evil": b"overwritten"})]))  # fmt: skip
    server.ours("content", "fetch", "--plain-http", reference)
    server.ours("install", "-r", "--path", str(tmp_path / "opt"), reference)
    assert victim.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["opt", "victim"]
    assert sorted(os.listdir(tmp_path / "opt/bin")) == ["evil", "good"]
    assert (tmp_path / "opt/bin/evil").read_bytes() == b"overwritten"


@pytest.fixture(scope="module")
def two_platforms(registry: str) -> tuple[str, dict[str, str]]:
    """An index for this machine and for s390x; digests of the other's parts."""
    mine = images.busybox_image()
    other = images.make_image([images.tar_layer({"etc/": b"", "etc/other": b"other"})])
    documents = {}
    for name, image, architecture in (("amd64", mine, _architecture()), ("other", other, "s390x")):
        images.push(registry, "test/both", name, image)
        documents[name] = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest,
            "size": len(image.manifest), "platform": {"os": "linux", "architecture": architecture},
        }  # fmt: skip
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [*documents.values()],
    }
    images._request(
        f"http://{registry}/v2/test/both/manifests/v1", "PUT", json.dumps(index).encode(), index["mediaType"]
    )
    manifest = json.loads(other.manifest)
    parts = {"manifest": other.digest, "config": manifest["config"]["digest"], "layer": manifest["layers"][0]["digest"]}
    return f"{registry}/test/both:v1", parts


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["images", "pull"], {"manifest", "config"}),
        (["images", "pull", "--skip-metadata"], set()),
        (["images", "pull", "--all-platforms"], {"manifest", "config", "layer"}),
        (["images", "pull", "--platform", "linux/s390x", "--print-chainid"], {"manifest", "config", "layer"}),
        (["content", "fetch", "--metadata-only"], {"manifest", "config"}),
        (["content", "fetch", "--skip-metadata"], set()),
        (["content", "fetch", "--all-platforms"], {"manifest", "config", "layer"}),
    ],
)
@with_portside
def test_what_of_an_index_is_fetched(
    server: Server, two_platforms: tuple[str, dict[str, str]], words: list[str], there: set[str]
) -> None:
    reference, parts = two_platforms
    namespace = ["-n", f"of-{'-'.join(word.strip('-').replace('/', '-') for word in words)}"]
    said = server.ours(*namespace, *words, "--plain-http", reference).stdout
    assert ("image chain ID: sha256:" in said) == ("--print-chainid" in words)
    found = server.theirs(*namespace, "content", "ls", "-q").stdout.split()
    assert {name for name, digest in parts.items() if digest in found} == there
    row = server.ours(*namespace, "images", "ls", "-q").stdout.split()
    assert row == [reference]
    assert "linux/s390x" in server.ours(*namespace, "images", "ls").stdout
    server.ours(*namespace, "images", "rm", "--sync", reference)


@with_portside
def test_convert(server: Server, registry: str, id: str) -> None:
    plain = f"{registry}/test/plain:v1"
    server.ours("images", "convert", "--uncompress", server.image, plain)
    tree = server.ours("images", "inspect", "--content", plain).stdout
    assert "application/vnd.oci.image.layer.v1.tar @" in tree
    assert "+gzip" not in tree
    assert run(server, plain, id, "echo", "converted") == "converted\n"
    server.ours("images", "push", "--plain-http", plain)
    server.ours("images", "rm", plain)
    server.ours("images", "pull", "--plain-http", plain)
    assert server.ours("images", "check", f"name=={plain}").stdout.split()[-1] == "true"


@with_portside
def test_convert_from_docker(server: Server, registry: str, id: str) -> None:
    image = images.busybox_image()
    docker = image.manifest
    for oci, other in (
        (b"application/vnd.oci.image.manifest.v1+json", b"application/vnd.docker.distribution.manifest.v2+json"),
        (b"application/vnd.oci.image.config.v1+json", b"application/vnd.docker.container.image.v1+json"),
        (b"application/vnd.oci.image.layer.v1.tar+gzip", b"application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ):
        docker = docker.replace(oci, other)
    source = images.push(registry, "test/docker", "v1", images.TestImage(docker, image.blobs))
    server.ours("images", "pull", "--plain-http", source)
    assert "vnd.oci" not in server.ours("images", "inspect", source).stdout
    target = f"{registry}/test/docker:oci"
    digest = server.ours("images", "convert", "--oci", source, target).stdout.strip()
    assert json.loads(server.theirs("content", "get", digest).stdout) == json.loads(image.manifest)
    assert run(server, target, id, "echo", "converted") == "converted\n"
    both = f"{registry}/test/docker:both"
    server.ours("images", "convert", "--oci", "--uncompress", source, both)
    tree = server.ours("images", "inspect", both).stdout
    assert "application/vnd.oci.image.layer.v1.tar @" in tree
    assert "docker." not in tree.replace("test/docker", "")
    half = f"{registry}/test/docker:half"
    server.ours("images", "convert", "--uncompress", source, half)
    assert "application/vnd.docker.image.rootfs.diff.tar @" in server.ours("images", "inspect", half).stdout


@with_portside
def test_archives(server: Server, tmp_path: Path, id: str) -> None:
    archive = tmp_path / "a.tar"
    server.ours("images", "export", str(archive), server.image)
    peers.need_program("skopeo")
    found = json.loads(peers.run("skopeo", "inspect", f"oci-archive:{archive}").stdout)
    assert found["Layers"]
    server.ours("-n", "elsewhere", "images", "import", "--local", str(archive))
    assert server.ours("-n", "elsewhere", "images", "check", "-q").stdout.split() == [server.image]
    data = server.ours("images", "export", "-", server.image, text=False).stdout
    assert data == archive.read_bytes()
    names = server.ours("-n", "named", "images", "import", "--digests", "--base-name", "example.com/x", "-", input=data,
                        text=False).stdout.decode()  # fmt: skip
    assert re.fullmatch(r"unpacking example\.com/x@(sha256:[0-9a-f]{64}) \(\1\)\.\.\.done\n", names)
    broken = server.ours("images", "import", "-", input="not an archive", check=False)
    assert (broken.returncode, len(broken.stderr.splitlines())) == (1, 1)
    full = server.ours("images", "export", "/dev/full", server.image, check=False)
    assert (full.returncode, os.path.exists("/dev/full")) == (1, True)


def test_checkpoints(server: Server, id: str) -> None:
    """What does not need criu: the image, and what was written."""
    server.ours("run", "-d", server.image, id, "sh", "-c", "echo written >/written; sleep 1000")
    try:
        name = f"example.com/checkpoint:{id}"
        wait_for(lambda: server.ours("tasks", "exec", id, "cat", "/written", check=False).returncode == 0, "the file")
        server.ours("containers", "checkpoint", "--rw", "--image", id, name)
        assert "RUNNING" in server.theirs("tasks", "ls").stdout
        digest = server.theirs("images", "ls", f"name=={name}").stdout.splitlines()[1].split()[2]
        index = json.loads(server.theirs("content", "get", digest).stdout)
        assert index["annotations"]["org.opencontainers.image.ref.name"] == server.image
        types = [part["mediaType"] for part in index["manifests"]]
        assert types == ["application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"]
        restored = server.ours("containers", "restore", f"{id}-2", name, check=False)
        assert (restored.returncode, len(restored.stderr.splitlines())) == (1, 1)  # without --task there is no spec
        server.ours("images", "rm", name)
    finally:
        server.ours("tasks", "rm", "-f", id)
        server.ours("containers", "rm", id)


@with_portside
def test_cni(server: Server, id: str, tmp_path: Path) -> None:
    if not Path("/usr/lib/cni/bridge").exists():
        pytest.skip("needs containernetworking-plugins")
    bridge = f"pt{os.getpid() % 100000}"
    plugin = {"type": "bridge", "bridge": bridge, "ipam": {
        "type": "host-local", "subnet": "10.231.7.0/24", "dataDir": str(tmp_path / "ipam")}}  # fmt: skip
    (tmp_path / "10-test.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": f"net-{os.getpid()}", "plugins": [plugin]})
    )
    environment = {**os.environ, "NETCONFPATH": str(tmp_path), "CNI_PATH": "/usr/lib/cni"}
    try:
        said = server.ours("run", "--rm", "--cni", server.image, id, "ip", "address", env=environment).stdout
        assert "inet 10.231.7.2/24" in said
        assert not [name for name in os.listdir(tmp_path / f"ipam/net-{os.getpid()}") if name.startswith("10.231")]
    finally:
        peers.run("ip", "link", "delete", bridge, check=False)
    none = server.ours("run", "--rm", "--cni", server.image, id, "true", check=False,
                       env=environment | {"NETCONFPATH": str(tmp_path / "ipam")})  # fmt: skip
    assert (none.returncode, len(none.stderr.splitlines())) == (1, 1)
    assert id not in server.theirs("containers", "ls", "-q").stdout


@with_portside
def test_sandboxes(server: Server, id: str, tmp_path: Path) -> None:
    (tmp_path / "pod.json").write_text(server.ours("oci", "spec").stdout)
    assert server.ours("sandboxes", "run", str(tmp_path / "pod.json"), id).stdout == f"{id}\n"
    assert server.ours("sandbox", "ls").stdout.splitlines()[1].split()[0] == id
    found = json.loads(server.ours("sb", "info", id).stdout)
    assert (found["ID"], found["Runtime"]["Name"]) == (id, "io.containerd.runc.v2")
    assert len(server.ours("sandboxes", "ls", "--filters", "id==nobody").stdout.splitlines()) == 1
    server.ours("sandboxes", "rm", "-f", id)
    assert id not in server.ours("sandboxes", "ls").stdout
    assert "nobody" in server.ours("sandboxes", "rm", "nobody").stderr


def test_terminals(server: Server, id: str) -> None:
    server.ours("containers", "create", "-t", server.image, id, "sh")
    try:
        with Terminal(*server.command, "tasks", "start", id, rows=25, columns=90) as first:
            first.type(b"tty; echo $((6*7))\n")
            first.wait_for(b"42")
            with Terminal(*server.command, "tasks", "exec", "-t", id, "sh", rows=30, columns=70) as second:
                second.type(b"stty size; exit 4\n")
                assert second.finish() == 4
            assert b"30 70" in second.output
            first.type(b"exit 3\n")
            assert first.finish() == 3
    finally:
        server.ours("containers", "rm", id)


@with_portside
def test_profiles(server: Server) -> None:
    """Ours has no profiles of Go's, and says so, but shows what runs in place of goroutines."""
    debug = ["pprof", "-d", str(server.address.parents[1] / "debug.sock")]
    assert "http connection" in server.ours(*debug, "goroutines").stdout
    heap = server.ours(*debug, "heap", check=False)
    assert (heap.returncode, heap.stderr.count("404"), len(heap.stderr.splitlines())) == (1, 1, 1)
    none = server.ours("pprof", "-d", "/nowhere.sock", "profile", "-s", "1s", check=False)
    assert (none.returncode, "/nowhere.sock" in none.stderr, len(none.stderr.splitlines())) == (1, True, 1)


@with_portside
def test_limits_of_time(server: Server, id: str, tmp_path: Path) -> None:
    late = server.ours("--timeout", "2s", "events", check=False)
    assert (late.returncode, late.stderr) == (1, "portside ctr: not done within the 2 s of --timeout\n")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        for words in (("--connect-timeout", "300ms"), ("--timeout", "300ms")):
            result = server.ours("-a", str(tmp_path / "deaf"), *words, "containers", "ls", check=False)
            assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
        assert server.ours("-a", str(tmp_path / "deaf"), "--timeout", "300ms", "version", check=False).returncode == 1


@with_portside
def test_the_environment(server: Server) -> None:
    environment = {**os.environ, "CONTAINERD_ADDRESS": str(server.address), "CONTAINERD_NAMESPACE": "n7"}
    command = [*server.command[:3], "ctr"]
    peers.run(*command, "namespaces", "create", "n7", env=environment)
    peers.run(*command, "leases", "create", "--id", "by-environment", env=environment)
    assert server.theirs("-n", "n7", "leases", "ls", "-q").stdout == "by-environment\n"
    assert peers.run(*command, "-n", "default", "leases", "ls", "-q", env=environment).stdout == ""
    wrong = peers.run(*command, "snapshots", "ls", check=False, env=environment | {"CONTAINERD_SNAPSHOTTER": "nobody"})
    assert (wrong.returncode, "nobody" in wrong.stderr) == (1, True)
    other = peers.run(*command, "-a", "/nowhere.sock", "leases", "ls", check=False, env=environment)
    assert (other.returncode, "/nowhere.sock" in other.stderr) == (1, True)


@with_portside
@pytest.mark.parametrize(
    "words",
    [
        ("run", "--gpus", "0"), ("run", "--blockio-class", "x"), ("run", "--device", "vendor.com/class=name"),
        ("run", "--uidmap", "1:2"), ("run", "--cap-add", "NET_RAW"), ("run", "--rlimit-nofile", "many"),
        ("run", "--annotation", "nonsense"), ("run", "--runtime", "io.containerd.x.v2", "--runc-binary", "runc"),
        ("run", "--runc-systemd-cgroup"), ("run", "--mount", "type=bind,colour=blue"), ("run", "-t", "--null-io"),
        ("run", "--dump-config", ""), ("run", "--seccomp", "--seccomp-profile", "/etc/passwd"),
        ("run", "--env-file", "/nowhere"), ("run", "--platform", "nonsense//"), ("run", "--cpus", "many"),
        ("run", "--user", "nobody-here"), ("run", "--apparmor-default-profile", "nobody-here"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(server: Server, words: tuple[str, ...], id: str) -> None:
    arguments = () if "--null-io" not in words else ("sh",)
    result = server.ours(*words, "--rm", server.image, "refused", *arguments, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert "refused" not in server.theirs("containers", "ls", "-q").stdout
    assert "refused" not in server.theirs("snapshots", "ls").stdout


@with_portside
def test_debug_shows_where(server: Server) -> None:
    result = server.ours("--debug", "containers", "info", "nobody", check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (1, True)
