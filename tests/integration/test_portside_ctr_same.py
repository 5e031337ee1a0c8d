"""``portside ctr`` beside the real one: the same command lines, the same output and the same exit status.

One row for each command and each option that shows. Both commands run the whole table, row by row, each in a namespace
of its own of the same server, so that each finds what its own rows before have made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from portside.cli.ctr.tree import TREE, Group, Leaf
from tests.support import images, peers
from tests.support.containerd import containerd
from tests.support.newer_shared import ROOT, newer
from tests.support.peers import Daemon

pytestmark = pytest.mark.root

NAMESPACES = ("n-ours", "n-peer")
"""As long as each other, so that tables have the same columns."""


@dataclass
class Pair:
    """Both commands for one server, with what their rows have in common."""

    address: str
    peer: list[str]
    words: dict[str, str]
    modern: bool
    """Whether the peer is of containerd 2.x."""
    server: str

    def arguments(self, namespace: str, text: str) -> list[str]:
        """Of one row for one of them; blanks within a word are written ``~``."""
        words = [word.replace("~", " ").format(namespace=namespace, **self.words) for word in text.split()]
        return ["-a", self.address, "-n", namespace, *filter(None, words)]

    def clean(self) -> None:
        """End what runs, so that no shim outlives its server."""
        for namespace in NAMESPACES:
            ctr = [*self.peer, "-a", self.address, "-n", namespace, "tasks"]
            for id in peers.run(*ctr, "ls", "-q", check=False).stdout.split():
                peers.run(*ctr, "rm", "-f", id, check=False)


def ours_says(argv: list[str], data: str | None) -> subprocess.CompletedProcess[str]:
    """Our command, in a process of its own."""
    kwargs = {} if data is None else {"input": data}
    return peers.run(sys.executable, "-m", "portside.cli.main", *argv, check=False, errors="replace", **kwargs)


ALL = ("portside, ctr 1.6", "portside, ctr 2.1", "containerd 1.6", "containerd 2.1")
NEWER = (ROOT / ".complete").exists()
USUAL = ("portside, ctr 2.1" if NEWER else "portside, ctr 1.6", "containerd 1.6")
"""Both servers and both clients once; PORTSIDE_SOAK=1 takes every pair."""


@pytest.fixture(scope="module", params=ALL if os.environ.get("PORTSIDE_SOAK") else USUAL)
def pair(
    request: pytest.FixtureRequest, registry: str, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    peers.need_root()
    peers.need_program("ctr")
    directory = tmp_path_factory.mktemp("same")
    shared = tmp_path_factory.mktemp("shared")
    kind: str = request.param
    with ExitStack() as stack:
        client = ["ctr"]
        if kind.startswith("portside"):
            daemon = Daemon(directory)
            daemon.start()
            stack.callback(daemon.stop)
            address = daemon.socket
            if kind.endswith("2.1"):
                client = list(stack.enter_context(newer(directory / "newer", directory, shared, serve=False)).ctr)
        elif kind.endswith("1.6"):
            address = stack.enter_context(containerd(directory))
        else:
            found = stack.enter_context(newer(directory, shared))
            address, client = found.socket, list(found.ctr)
        words = _words(registry, busybox, shared) | {"local": "--local" if kind.endswith("2.1") else ""}
        found_pair = Pair(str(address), client, words, kind.endswith("2.1"), kind.partition(",")[0])
        stack.callback(found_pair.clean)
        yield found_pair


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    """All modules of the tree, imported once for all forks."""

    def load(group: Group) -> None:
        for node in group.children.values():
            if isinstance(node, Leaf):
                import_module(f"portside.cli.ctr.{node.place.partition(':')[0]}")
            else:
                load(node)

    load(TREE)
    import_module("portside.remote.backend")


def _words(registry: str, busybox: str, shared: Path) -> dict[str, str]:
    image = images.busybox_image()
    (shared / "env").write_text("FROM_FILE=yes\n")
    process = {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"}
    spec = {"ociVersion": "1.1.0", "process": process, "root": {"path": "/nowhere"}}
    (shared / "spec.json").write_text(json.dumps(spec))
    labelled = images.push(registry, "test/labelled", "v1", images.busybox_image(
        Labels={"color": "blue"}, StopSignal="SIGUSR1", Entrypoint=["sh", "-c"], Cmd=["echo hello"], WorkingDir="/tmp",
        User="bob", Env=["PATH=/bin", "A=1"]))  # fmt: skip
    manifest = json.loads(image.manifest)
    return {
        "image": busybox, "oci": "application/vnd.oci.image", "labelled": labelled, "host": registry,
        "dir": str(shared), "pid": str(os.getpid()),
        "digest": image.digest, "config": manifest["config"]["digest"], "layer": manifest["layers"][0]["digest"],
        "chain": json.loads(image.blobs[manifest["config"]["digest"]])["rootfs"]["diff_ids"][0],
    }  # fmt: skip


Normal = Callable[[str], object]


def exact(text: str) -> object:
    """Nothing is left out but what no two runs have in common."""
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text


_VOLATILE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("n-(ours|peer)", "NAMESPACE"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)", "TIME"),
        (r"/snapshots/\d+/", "/snapshots/N/"),
        (r"(distribution\.source\.[0-9.]+):\d+", r"\1"),  # ours tells the ports of registries apart
        (r"(\d+ seconds?|Less than a second|About a minute)", "AGE"),
    )
)


def rows(text: str) -> object:
    """Cells of lines in any order, for lists that a server gives in no order, and numbers of different lengths."""
    return sorted(tuple(line.split()) for line in str(exact(text)).splitlines())


def first_column(text: str) -> object:
    """What the lines begin with."""
    return sorted(line.split()[0] for line in text.splitlines() if line.strip())


def heads(text: str) -> object:
    """The names of the columns."""
    return text.splitlines()[0].split()


def status_only(text: str) -> object:
    """Nothing: what it prints is not a result."""
    return None


def document(text: str) -> object:
    """JSON, whatever the order of its fields."""
    return _plain(json.loads(str(exact(text))))


def _plain(value: object) -> object:
    """Without what versions of containerd differ in: masked paths, the version of the specification, empty fields."""
    if isinstance(value, dict):
        left_out = ("ociVersion", "maskedPaths", "SandboxID", "seccomp")
        fields = {key: _plain(field) for key, field in value.items() if key not in left_out}
        return {key: field for key, field in fields.items() if field not in (None, {}, [], "")}
    if isinstance(value, list):
        return sorted((_plain(entry) for entry in value), key=lambda entry: json.dumps(entry, sort_keys=True))
    return value


def labels(text: str) -> object:
    """In any order; where a blob comes from is told apart by port in ours."""
    parts = str(exact(text)).strip().split(",")
    return sorted(part for part in parts if not part.startswith(("containerd.io/distribution.source.", "test/")))


def blobs(text: str) -> object:
    """As ``rows``, with ``labels``."""
    lines = [[cell for cell in line.split("\t") if cell] for line in str(exact(text)).splitlines()]
    return sorted((*cells[:3], labels(cells[3])) for cells in lines)


@dataclass(frozen=True)
class Row:
    """``text`` is the command line; of what it prints ``normal`` is compared."""

    text: str
    normal: Normal = exact
    data: str | None = None
    modern: bool = False
    """Only ctr 2.x has it."""
    servers: tuple[str, ...] = ()
    """Only with these servers."""
    any_status: bool = False
    """For what cleans up."""


NOT_16 = ("portside", "containerd 2.1")

TABLE = [
    # Images and content: pull, list, labels, names
    Row("images pull {local} --plain-http {image}", status_only),
    Row("images pull {local} --plain-http --platform linux/amd64 --snapshotter overlayfs {labelled}", status_only),
    Row("images ls"),
    Row("i ls -q"),
    Row("image list name=={image}"),
    Row("images check"),
    Row("images check -q"),
    Row("images inspect {image}", modern=True),
    Row("images inspect --content {labelled}", rows, modern=True),
    Row("images usage {image}", modern=True),
    Row("images usage --snapshotter overlayfs {image}", modern=True),
    Row("images usage nobody", modern=True),
    Row("images tag {local} {image} example.com/copy:v1"),
    Row("images tag {local} {image} example.com/copy:v1"),
    Row("images tag {local} --force {image} example.com/copy:v1"),
    Row("images tag --local {image} example.com/more:v1 example.com/more:v2", modern=True),
    Row("images tag {local} nobody example.com/more:v3"),
    Row("images tag {image}"),
    Row("images label example.com/copy:v1 mood=good weather=bad", labels),
    Row("images label example.com/copy:v1 mood=", labels),
    Row("images label --replace-all example.com/copy:v1 only=this", labels),
    Row("images label nobody a=b"),
    Row("images ls labels.only==this"),
    Row("images push {local} --plain-http {host}/test/by-ctr:v1 {image}", status_only),
    Row("images push {local} --plain-http --manifest {digest}"
        " --manifest-type application/vnd.oci.image.manifest.v1+json {host}/test/by-digest:v1", status_only),
    Row("images push {local} --plain-http {host}/test/nothing:v1 nobody", status_only),
    Row("images pull {local} --plain-http --label a=b {host}/test/by-ctr:v1", status_only),
    Row("images pull {local} --plain-http {host}/test/nothing:v9", status_only),
    Row("images convert --uncompress --oci {image} example.com/plain:v1"),
    Row("images convert --oci --all-platforms {image} example.com/oci:v1"),
    Row("images convert nobody example.com/none:v1"),
    Row("images export {local} {dir}/{pid}.tar {image} example.com/copy:v1", status_only),
    Row("images export {local} --platform linux/amd64 --skip-manifest-json {dir}/{pid}-1.tar {labelled}", status_only),
    Row("images export {local} {dir}/none.tar nobody", status_only),
    Row("images rm example.com/copy:v1 nobody"),
    Row("images import {local} {dir}/{pid}.tar", status_only),
    Row("images import {local} --base-name example.com/copy --digests --skip-digest-for-named"
        " {dir}/{pid}.tar", status_only),
    Row("images import {local} --no-unpack --index-name example.com/index:v1 {dir}/{pid}-1.tar", status_only),
    Row("images import {local} --no-unpack --label made=here {dir}/{pid}-1.tar", status_only, modern=True),
    Row("images import {local} {dir}/nobody.tar", status_only),
    Row("images ls -q"),
    Row("images ls labels.made==here"),
    Row("images label {labelled} made=", labels),
    Row("images delete --sync example.com/copy:v1 example.com/plain:v1 example.com/oci:v1 example.com/index:v1"),
    Row("content ls", blobs),
    Row("content ls -q", rows),
    Row("content ls labels.no"),
    Row("content get {digest}"),
    Row("content get {config}"),
    Row("content get sha256:00", status_only),
    Row("content get nonsense", status_only),
    Row("content active"),
    Row("content active nobody"),
    Row("content ingest by-hand", data="by hand\n"),
    Row("content ingest --expected-size 3 by-size", data="by hand\n"),
    Row("content ingest --expected-digest {digest} wrong", data="by hand\n"),
    Row("content ingest --expected-digest nonsense wrong", data=""),
    Row("content label {config} a=b c=d", labels),
    Row("content label {config} a=", labels),
    Row("content label {config}", labels),
    Row("content label sha256:00 a=b"),
    Row("content edit --editor true {config}"),
    Row("content edit --editor sed~-i~s/amd64/arm64/ {config}", modern=True),
    Row("content edit --editor false {config}"),
    Row("content edit --validate json --editor true {config}"),
    Row("content fetch --plain-http {labelled}", status_only),
    Row("content fetch --plain-http --metadata-only --label x=y {labelled}", status_only),
    Row("content fetch --plain-http {host}/test/nothing:v9", status_only),
    Row("content fetch-object --plain-http {image}"),
    Row("content fetch-object --plain-http {host}/test/nothing:v9", status_only),
    Row("content fetch-blob --plain-http {image} {config}", modern=True),
    Row("content fetch-blob --plain-http {image}", status_only, modern=True),
    Row("content push-object --plain-http {host}/test/{namespace}:v1 {layer} {oci}.layer.v1.tar+gzip"),
    Row("content push-object --plain-http {host}/test/{namespace}:v1 {config} {oci}.config.v1+json"),
    Row("content push-object --plain-http {host}/test/{namespace}:v1 {config} {oci}.config.v1+json"),
    Row("content push-object --plain-http {host}/test/{namespace}:v1 {digest} {oci}.manifest.v1+json", status_only),
    Row("content rm nonsense"),
    Row("content rm sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    Row("content prune references --dry", status_only),
    # Snapshots
    Row("snapshots ls", rows),
    Row("snapshots --snapshotter overlayfs ls", rows),
    Row("snapshots --snapshotter nobody ls", status_only),
    Row("snapshots prepare s1"),
    Row("snapshots prepare -t {dir} s2 {chain}"),
    Row("snapshots prepare --mounts s3 {chain}", lambda text: list(json.loads(text)[0]), modern=True),
    Row("snapshots prepare s2 {chain}"),
    Row("snapshots prepare s9 nobody"),
    Row("snapshots mounts {dir} s2"),
    Row("snapshots mounts {dir} nobody"),
    Row("snapshots info {chain}", lambda text: [json.loads(text).get(key) for key in ("Kind", "Name", "Parent")]),
    Row("snapshots info s1", document),
    Row("snapshots info nobody"),
    Row("snapshots usage", rows),
    Row("snapshots usage -b {chain} s2", rows),
    Row("snapshots usage nobody"),
    Row("snapshots tree", rows),
    Row("snapshots label s1 a=b", labels),
    Row("snapshots label s1 a=", labels),
    Row("snapshots label nobody a=b"),
    Row("snapshots diff {chain}", lambda text: len(text) > 1000),
    Row("snapshots diff --media-type application/vnd.oci.image.layer.v1.tar s2", len),
    Row("snapshots diff nobody"),
    Row("snapshots commit s4 s1"),
    Row("snapshots commit s4 s2"),
    # ctr does not keep its views from being collected: they are of a snapshot of their own, and may go at any time.
    Row("snapshots view v1 s4"),
    Row("snapshots view -t {dir} v2 s4"),
    Row("snapshots rm v1", any_status=True),
    Row("snapshots rm v2", any_status=True),
    Row("snapshots rm s2"),
    Row("snapshots rm {chain}"),
    Row("snapshots rm nobody"),
    Row("snapshots unpack {digest}"),
    Row("snapshots unpack sha256:0000000000000000000000000000000000000000000000000000000000000000", status_only),
    # Containers
    Row("containers create {image} c1 sleep 1000"),
    Row("containers create {image} c1 true"),
    Row("containers create nobody c2 true"),
    Row("containers create --label x=y --annotation k=v --env B=2 --env-file {dir}/env --cwd /bin {labelled} c2"),
    Row("containers create --privileged --read-only --tty --allow-new-privs {image} c3 sh"),
    Row("containers create --net-host --memory-limit 10000000 --cpu-quota 5000 --cpu-period 100000 {image} c4 sh"),
    Row("containers create --cap-add CAP_SYS_ADMIN --cap-drop CAP_KILL --device /dev/fuse {image} c5 sh"),
    Row("containers create --mount type=bind,src=/tmp,dst=/host,options=rbind:ro --mount type=tmpfs,dst=/run"
        " --with-ns network:/proc/1/ns/net --rootfs-propagation shared {image} c6 sh"),
    Row("containers create --seccomp --apparmor-profile unconfined --rdt-class some {image} c7 sh"),
    Row("containers create --user bob --hostname wendy --runc-binary runc --runc-root /run/x {image} c8 sh",
        modern=True),
    Row("containers create --user 1000:2000 --snapshotter-label s=t {image} c9 sh", modern=True),
    Row("containers create --rootfs --snapshotter native /nowhere c10 sh"),
    Row("containers create --cap-add SYS_ADMIN {image} bad sh"),
    Row("containers create --seccomp-profile x {image} bad sh"),
    Row("containers create --with-ns x:y {image} bad sh"),
    Row("containers create --mount nonsense {image} bad sh"),
    Row("containers create --config {dir}/nobody.json bad"),
    Row("containers create --config {dir}/spec.json --label l=m c11"),
    Row("containers create --config {dir}/spec.json {image} bad"),
    Row("containers info c11", document),
    Row("containers create {image}"),
    *(Row(f"containers info c{number}", document) for number in (1, 3, 4, 5, 7, 10)),
    Row("containers info c2", document, modern=True),
    Row("containers info c6", document, modern=True),
    Row("containers info c8", document, modern=True),
    Row("containers info c9", document, modern=True),
    Row("c info --spec c2", document),
    Row("containers info nobody"),
    Row("containers ls"),
    Row("container list -q"),
    Row("c ls labels.x==y"),
    Row("c ls -q id~=c[12]$"),
    Row("c ls nonsense=="),
    Row("containers label c1 a=b c=d", labels),
    Row("containers label c1 a=", labels),
    Row("containers label nobody a=b"),
    Row("containers rm --keep-snapshot c3"),
    Row("snapshots rm c3", any_status=True),  # it may have been collected
    Row("containers rm c4 c5 c6 c7 c10 c11"),
    Row("containers rm c8 c9", modern=True),
    Row("containers rm nobody"),
    Row("containers rm"),
    # Tasks
    Row("tasks ls"),
    Row("tasks start -d c1"),
    Row("tasks start -d c1"),
    Row("tasks start nobody"),
    Row("tasks ls", lambda text: [line.split()[::2] for line in text.splitlines()]),
    Row("t ls -q"),
    Row("tasks ps c1", lambda text: [line.split()[1:] for line in text.splitlines()]),
    Row("tasks ps nobody"),
    Row("tasks exec --exec-id e1 c1 echo from exec"),
    Row("tasks exec --exec-id e1 --cwd /tmp c1 pwd"),
    Row("tasks exec --exec-id e1 --user bob c1 id -un"),
    Row("tasks exec --exec-id e1 --user 1000:2000 c1 id -g"),
    Row("tasks exec --exec-id e1 c1 sh -c exit~7"),
    Row("tasks exec --exec-id e1 --log-uri file://{dir}/exec-log c1 echo hello"),
    Row("tasks exec --exec-id e1 c1 no-such-command"),
    Row("tasks exec --exec-id e1 nobody true"),
    Row("tasks exec --exec-id e2 -d c1 sleep 1000"),
    Row("tasks ps c1", lambda text: sorted(line.split(None, 1)[1] for line in text.splitlines()),
        modern=True),
    Row("tasks kill -s KILL --exec-id e2 c1"),
    Row("tasks kill -a --exec-id e2 c1"),
    Row("tasks pause c1"),
    Row("tasks resume c1"),
    Row("tasks pause nobody"),
    Row("tasks resume nobody"),
    Row("tasks metrics c1", first_column),
    Row("tasks metrics --format json c1", lambda text: bool(json.loads(text)["pids"])),
    Row("tasks metrics --format xml c1"),
    Row("tasks metrics nobody"),
    Row("tasks checkpoint nobody"),
    Row("containers checkpoint nobody example.com/checkpoint:v1"),
    Row("containers restore c20 nobody", status_only),
    Row("containers rm c1"),
    Row("tasks kill -s NOSUCH c1"),
    Row("tasks kill nobody"),
    Row("tasks rm c1"),
    Row("tasks rm -f c1"),
    Row("tasks rm nobody"),
    Row("containers rm c1 c2"),
    # Run
    Row("run --rm {image} r1 echo hello"),
    Row("run --rm {image} r1 sh -c echo~out;~echo~err~>&2;~exit~7"),
    Row("run --rm {image} r1 no-such-command"),
    Row("run --rm {labelled} r1"),
    Row("run --rm --cwd / --env A=b {labelled} r1 echo~$A;~pwd;~id~-un"),
    Row("run --rm --env-file {dir}/env {image} r1 sh -c echo~$FROM_FILE"),
    Row("run --rm --hostname wendy --user bob {image} r1 sh -c hostname;~id", modern=True),
    Row("run --rm --mount type=bind,src={dir},dst=/mnt,options=rbind:ro {image} r1 ls /mnt", status_only),
    Row("run --rm --read-only {image} r1 touch /file"),
    Row("run --rm --null-io {image} r1 echo hello"),
    Row("run --rm --log-uri file://{dir}/log {image} r1 echo hello"),
    Row("run --rm --fifo-dir {dir}/fifos {image} r1 echo hello"),
    Row("run --rm --cpus 0.5 --cpu-shares 512 --memory-limit 30000000 {image} r1 true"),
    Row("run --rm --cpuset-cpus 0 --cpuset-mems 0 {image} r1 true", modern=True),
    Row("run --rm --cgroup /{pid}-same {image} r1 true"),
    Row("run --rm --cgroup= {image} r1 cat /proc/1/comm"),
    Row("run --rm --net-host {image} r1 hostname"),
    Row("run --rm --privileged --privileged-without-host-devices {image} r1 true", modern=True),
    Row("run --rm --privileged-without-host-devices {image} r1 true", modern=True),
    Row("run --rm --cpus 1 --cpu-quota 5 {image} r1 true"),
    Row("run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 {image} r1 sh -c"
        " id~-u;~stat~-c~%u~/bin;~cat~/proc/self/uid_map", rows),
    Row("run --rm --uidmap nonsense --gidmap 0:1:1 {image} r1 true"),
    Row("run --rm --with-ns uts:/proc/1/ns/uts {image} r1 hostname"),
    Row("run --rm --platform linux/amd64 {image} r1 true"),
    Row("run --rm --platform linux/s390x {image} r1 true", status_only),
    Row("run --rm --no-pivot {image} r1 true", status_only),
    Row("run --rm --detach {image} r1 true"),
    Row("run --rm --runtime io.containerd.nobody.v2 {image} r1 true"),
    Row("run --rm --runc-binary /nowhere/runc {image} r1 true"),
    Row("run -d --pid-file {dir}/{pid}.pid {image} r2 sleep 1000"),
    Row("tasks kill -s 9 r2"),
    Row("tasks attach nobody"),
    Row("tasks rm -f r2"),
    Row("containers ls"),
    Row("snapshots ls", lambda text: [line.split() for line in text.splitlines() if line.startswith("r")]),
    # Leases, namespaces and the server
    Row("leases ls"),
    Row("leases create --id l1 -x 1h owner=me"),
    Row("leases create --id l1"),
    Row("leases create --id l2 --expires 0"),
    Row("leases ls", rows),
    Row("leases ls -q", rows),
    Row("leases ls id==l1", rows),
    Row("leases rm l1"),
    Row("leases rm --sync l2"),
    Row("leases rm nobody"),
    Row("namespaces ls", first_column),
    Row("namespaces label {namespace} team=b"),
    Row("namespaces rm default-nobody"),
    Row("version", lambda text: text.partition("Server:")[2]),
    Row("version extra", modern=True),
    Row("plugins ls", rows),
    Row("plugins ls -q", rows),
    Row("plugins ls -d type==io.containerd.content.v1", rows),
    Row("plugins ls id==nobody"),
    Row("info", document, modern=True),
    Row("deprecations list", rows, modern=True),
    Row("deprecations list --format json", status_only, modern=True),
    Row("sandboxes ls", status_only, modern=True, servers=NOT_16),
    Row("sandboxes rm nobody", status_only, modern=True, servers=NOT_16),
    Row("oci spec", document),
    Row("oci spec --platform windows/amd64", document, modern=True),
    Row("pprof -d /nowhere/debug.sock goroutines"),
    Row("shim --shim-address /nowhere/shim.sock state"),
    Row("shim state"),
    Row("install nobody"),
    Row("images mount {image} {dir}/{namespace}", rows),
    Row("images unmount --rm {dir}/{namespace}", rows),
    Row("images mount nobody {dir}/nobody", status_only),
    Row("images prune", status_only, modern=True),
    Row("images prune --all", status_only, modern=True),
    # The grammar
    Row("nobody"),
    Row("tasks nobody"),
    Row("images ls --nobody", status_only),
    Row("tasks kill"),
    Row("tasks", status_only),
    Row("", status_only),
    Row("run --memory-limit nonsense {image} r1", status_only),
    Row("leases create --expires nonsense", status_only),
]  # fmt: skip
"""In order: what a row makes, the rows after it find."""


@pytest.mark.parametrize("row", TABLE, ids=[f"{number} {row.text}"[:60] for number, row in enumerate(TABLE)])
def test_same(pair: Pair, row: Row) -> None:
    if row.modern and not pair.modern:
        pytest.skip("the peer is ctr 1.6, which does not have it")
    if row.servers and pair.server not in row.servers:
        pytest.skip(f"not with {pair.server}")
    for namespace in NAMESPACES:
        (Path(pair.words["dir"]) / namespace).mkdir(exist_ok=True)
    ours = ours_says(["ctr", *pair.arguments(NAMESPACES[0], row.text)], row.data)
    kwargs = {} if row.data is None else {"input": row.data}
    peer = peers.run(*pair.peer, *pair.arguments(NAMESPACES[1], row.text), check=False, errors="replace", **kwargs)
    assert row.any_status or ours.returncode == peer.returncode, f"{_said(ours)}\n{_said(peer)}"
    if ours.returncode == 0 and not row.any_status:
        found, wanted = row.normal(ours.stdout), row.normal(peer.stdout)
        assert found == wanted, f"{_said(ours)}\n{_said(peer)}"


def _said(result: subprocess.CompletedProcess[str]) -> str:
    return f"status {result.returncode}, {result.stdout[:400]!r}, {result.stderr[:400]!r}"
