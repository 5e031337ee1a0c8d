"""Manifests, indexes and configurations: what would mean two things is refused (CVE-2021-41190)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import InvalidArgument
from portside.oci.descriptor import CONFIG, DOCKER_MANIFEST, INDEX, LAYER_GZIP, MANIFEST
from portside.oci.image import Index, Manifest, parse_config, parse_document

DIGEST = "sha256:" + "a" * 64
CHILD = {"mediaType": MANIFEST, "digest": DIGEST, "size": 5}


def manifest(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": LAYER_GZIP, "digest": DIGEST, "size": 3}],
    }
    return document | changes


def parse(document: Any, media_type: str = MANIFEST) -> Manifest | Index:
    return parse_document(json.dumps(document).encode(), media_type)


def test_round_trip() -> None:
    parsed = parse(manifest(annotations={"a": "b"}))
    assert isinstance(parsed, Manifest)
    assert parsed.to_json() == manifest(annotations={"a": "b"})
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [CHILD | {"platform": {"os": "linux", "architecture": "arm64"}}],
    }
    assert parse(index, INDEX).to_json() == index


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(manifests=[CHILD]), MANIFEST),
        (manifest(manifests=[CHILD], mediaType=INDEX), INDEX),
        (manifest(), DOCKER_MANIFEST),
        (manifest(), INDEX),
        (manifest(mediaType=INDEX), MANIFEST),
        (manifest(schemaVersion=1), MANIFEST),
        (manifest(fsLayers=[{}]), MANIFEST),
        (manifest(config=None), MANIFEST),
        (manifest(layers={}), MANIFEST),
        (manifest(layers=["x"]), MANIFEST),
        (manifest(layers=[{"mediaType": LAYER_GZIP, "digest": "md5:1", "size": 3}]), MANIFEST),
        (manifest(layers=[{"mediaType": LAYER_GZIP, "digest": DIGEST, "size": -1}]), MANIFEST),
        (manifest(annotations={"a": 1}), MANIFEST),
        (manifest(layers=[{}] * 5000), MANIFEST),
        ([], MANIFEST),
        ("text", INDEX),
        (manifest(), "application/json"),
    ],
)
def test_refused(document: Any, media_type: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(document, media_type)


def test_not_json_and_too_deep() -> None:
    for data in (b"{", b"", b"[" * 100_000):
        with pytest.raises(InvalidArgument):
            parse_document(data, MANIFEST)


def test_config() -> None:
    document = {
        "os": "linux", "architecture": "x86_64", "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "config": {
            "User": "bob", "Env": ["A=1"], "Cmd": None, "Entrypoint": ["/x"], "Labels": {"a": "b"},
            "Volumes": {"/v": {}},
        },
    }  # fmt: skip
    config = parse_config(json.dumps(document).encode())
    assert (str(config.platform), config.user, config.cmd, config.volumes) == ("linux/amd64", "bob", (), ("/v",))
    assert config.diff_ids == (DIGEST,)
    for bad in (
        {"config": [1]},
        {"rootfs": {"diff_ids": [1]}},
        {"config": {"Env": [1]}},
        {"config": {"User": 5}},
        {"os": 1},
    ):
        with pytest.raises(InvalidArgument):
            parse_config(json.dumps(document | bad).encode())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(
        ["config", "layers", "manifests", "mediaType", "digest", "size", "platform", "rootfs", "os", "annotations"]
    ), children, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(_json)
def test_any_document_parses_or_is_refused(document: Any) -> None:
    data = json.dumps(document).encode()
    for media_type in (MANIFEST, INDEX):
        try:
            parse_document(data, media_type)
        except InvalidArgument:
            pass
    try:
        parse_config(data)
    except InvalidArgument:
        pass
