"""containerd's schema in bolt, read: what is there, what is left out and why, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.core.leases import Resource
from portside.core.snapshots import Kind
from portside.doctor.upstream import METADATA, go_time, read, uvarint, varint
from portside.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, PortsideError
from portside.wire.pb.google.protobuf.any_pb2 import Any as AnyPb
from tests.doctor.bolt_files import Writer

DIGEST = "sha256:" + "ab" * 32
SECOND = 1_700_000_000
TIME = struct.pack(">Bqih", 1, SECOND + 62_135_596_800, 5, -1)
TIMES = {b"createdat": TIME, b"updatedat": TIME}
SPEC = AnyPb(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}").SerializeToString()


def number(value: int) -> bytes:
    """A signed varint."""
    value <<= 1
    data = b""
    while value >= 0x80:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def namespace() -> dict:
    return {
        b"labels": {b"team": b"a"},
        b"content": {
            b"blob": {DIGEST.encode(): {**TIMES, b"size": number(300), b"labels": {b"x": b"y"}}},
            b"ingests": {b"half": {b"ref": b"ns/1/half"}},
        },
        b"images": {
            b"host/name:tag": {
                **TIMES,
                b"target": {b"digest": DIGEST.encode(), b"mediatype": b"text/plain", b"size": number(300)},
            }
        },
        b"containers": {
            b"box": {
                **TIMES,
                b"image": b"host/name:tag",
                b"runtime": {b"name": b"io.containerd.runc.v2", b"options": b""},
                b"snapshotter": b"overlayfs",
                b"snapshotKey": b"box",
                b"sandboxid": b"",
                b"spec": SPEC,
                b"extensions": {b"ext": SPEC},
                b"labels": {b"shape": b"round"},
            }
        },
        b"sandboxes": {b"pod": {**TIMES, b"sandboxer": b"shim", b"runtime": {b"name": b"r"}, b"spec": SPEC}},
        b"leases": {
            b"mine": {
                b"createdat": TIME,
                b"labels": {b"l": b"m"},
                b"content": {DIGEST.encode(): b""},
                b"snapshots": {b"overlayfs": {b"base": b""}},
                b"ingests": {b"half": b""},
            }
        },
        b"snapshots": {
            b"overlayfs": {
                b"base": {**TIMES, b"name": b"ns/1/base", b"children": {b"box": b""}, b"labels": {b"k": b"v"}},
                b"box": {**TIMES, b"name": b"ns/2/box", b"parent": b"base"},
                b"ghost": {**TIMES, b"name": b"ns/9/ghost"},
            },
            b"devmapper": {b"other": {**TIMES, b"name": b"ns/3/other"}},
        },
    }


STORE = {
    b"v1": {
        b"snapshots": {
            b"ns/1/base": {b"id": b"\x01", b"kind": b"\x03", b"inodes": number(7), b"size": number(4096)},
            b"ns/2/box": {b"id": b"\xac\x02", b"kind": b"\x02", b"parent": b"ns/1/base"},
        }
    }
}


def make(root: Path, content: dict, store: dict = STORE) -> Path:
    for name, document in (
        (f"{METADATA}/meta.db", content),
        ("io.containerd.snapshotter.v1.overlayfs/metadata.db", store),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(Writer().file(document))
    return root


def whole(**changes: object) -> dict:
    return {b"v1": {b"version": number(4), b"ns": namespace(), **changes}}


def test_everything_is_read(tmp_path):
    found = read(make(tmp_path, whole()))
    assert found.version == 4 and found.namespaces == {"ns": {"team": "a"}}
    [(_, info)] = found.content
    assert (info.digest, info.size, info.labels, info.created_ns) == (DIGEST, 300, {"x": "y"}, SECOND * 10**9 + 5)
    [(_, image)] = found.images
    assert (image.name, image.target.digest, image.target.size) == ("host/name:tag", DIGEST, 300)
    [(_, box)] = found.containers
    assert box.runtime == "io.containerd.runc.v2" and box.runtime_options is None and box.labels == {"shape": "round"}
    assert box.spec is not None and box.spec.value == b"{}" and box.extensions["ext"] == box.spec
    assert (box.snapshotter, box.snapshot_key, box.image) == ("overlayfs", "box", "host/name:tag")
    [(_, pod)] = found.sandboxes
    assert (pod.id, pod.sandboxer, pod.runtime) == ("pod", "shim", "r")
    [(_, lease, resources)] = found.leases
    assert lease.labels == {"l": "m"}
    assert set(resources) == {
        Resource("content", DIGEST), Resource("ingests", "half"), Resource("snapshots/overlayfs", "base")
    }  # fmt: skip
    snapshots = {each.info.name: each for each in found.snapshots}
    assert set(snapshots) == {"base", "box"}
    assert snapshots["base"].info.kind == Kind.COMMITTED and snapshots["base"].info.labels == {"k": "v"}
    assert snapshots["base"].usage is not None and snapshots["base"].usage.inodes == 7
    assert snapshots["box"].info.parent == "base" and snapshots["box"].files is not None
    assert snapshots["box"].files.parts[-3:] == ("snapshots", "300", "fs")


def test_what_is_left_out_is_told(tmp_path):
    told = "\n".join(read(make(tmp_path, whole())).left_out)
    assert "ingest ns/half: a download that was not finished" in told
    assert "snapshot ns/devmapper/other: snapshots of devmapper cannot be taken over" in told
    assert "snapshot ns/overlayfs/ghost: overlayfs's own database does not know it" in told


@pytest.mark.parametrize("version", [0, 1, 5, 99])
def test_versions_that_are_not_known(tmp_path, version):
    content = whole()
    content[b"v1"][b"version"] = number(version)
    with pytest.raises(FailedPrecondition, match=rf"schema v1\.{version} is not known"):
        read(make(tmp_path, content))


def test_roots_that_are_none(tmp_path):
    with pytest.raises(NotFound, match="not the root of a containerd"):
        read(tmp_path)
    with pytest.raises(FailedPrecondition, match="found v2"):
        read(make(tmp_path, {b"v2": {}}))


def spoiled(*path: bytes, value: object) -> dict:
    content = whole()
    place = content[b"v1"][b"ns"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    "content",
    [
        spoiled(b"content", b"blob", b"sha256:xyz", value={**TIMES, b"size": number(1)}),
        spoiled(b"content", b"blob", DIGEST.encode(), b"size", value=b"\xff\xff"),
        spoiled(b"content", b"blob", DIGEST.encode(), b"size", value=b"\x03"),
        spoiled(b"content", b"blob", DIGEST.encode(), b"createdat", value=b"now"),
        spoiled(b"containers", b"box", b"spec", value=b"\xff\xff\xff"),
        spoiled(b"images", b"host/name:tag", b"target", value={}),
        spoiled(b"images", b"host/name:tag", value={**TIMES}),
    ],
    ids=["digest", "size", "negative", "time", "spec", "target", "no target"],
)
def test_fields_that_make_no_sense(tmp_path, content):
    with pytest.raises(DataLoss, match=r"meta\.db: damaged"):
        read(make(tmp_path, content))


def test_a_snapshot_of_no_kind(tmp_path):
    store = {b"v1": {b"snapshots": {b"ns/1/base": {b"id": b"\x01", b"kind": b"\x07"}}}}
    with pytest.raises(DataLoss, match=r"overlayfs/metadata\.db: damaged: .* of kind"):
        read(make(tmp_path, whole(), store))
    store = {b"v1": {b"snapshots": {b"ns/1/base": {b"id": b"\xff", b"kind": b"\x03"}}}}
    with pytest.raises(DataLoss, match=r"overlayfs/metadata\.db: damaged: snapshot ns/1/base"):
        read(make(tmp_path, whole(), store))


def test_numbers_and_times():
    assert varint(number(0)) == 0 and varint(number(1 << 40)) == 1 << 40 and uvarint(b"\xac\x02") == 300
    for data in (b"", b"\xff" * 11):
        with pytest.raises(InvalidArgument):
            uvarint(data)
    assert go_time(b"") == 0 and go_time(struct.pack(">Bqih", 1, 0, 0, -1)) == 0
    assert go_time(struct.pack(">BqihB", 2, SECOND + 62_135_596_800, 0, 60, 30)) == SECOND * 10**9
    assert go_time(struct.pack(">Bqih", 1, (1 << 62), 0, 0)) == (1 << 63) - 1


BYTES = Writer(512, 4).file(whole())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1024, len(BYTES) - 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=5)
)
def test_any_bytes_anywhere_end_in_an_answer(tmp_path_factory, changes):
    root = make(tmp_path_factory.mktemp("root"), whole())
    data = bytearray(BYTES)
    for at, new in changes:
        data[at : at + len(new)] = new[: len(data) - at]
    (root / METADATA / "meta.db").write_bytes(data)
    try:
        read(root)
    except PortsideError as error:
        assert str(root) in str(error)
