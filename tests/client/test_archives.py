"""Import and export over an engine's own stores: layouts, docker's form, and archives that are not what they say."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from portside.client.closure import manifest_of
from portside.client.image_export import ExportOptions, export_images
from portside.client.image_import import ImportOptions, import_images
from portside.core.content import read_blob
from portside.core.services import Services
from portside.errors import DataLoss, InvalidArgument, NotFound, PortsideError, ResourceExhausted
from portside.oci.descriptor import DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, INDEX, MANIFEST, Descriptor
from tests.support import images

NO_UNPACK = ImportOptions(unpack=False)


def archive(files: dict[str, bytes | str]) -> bytes:
    return images.tar_layer(files)


async def chunks(data: bytes, size: int = 70_001) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def layout(image: images.TestImage, annotations: dict[str, str], **more: bytes) -> dict[str, bytes | str]:
    blobs = image.blobs | {image.digest: image.manifest}
    files: dict[str, bytes | str] = {"blobs/" + digest.replace(":", "/"): blob for digest, blob in blobs.items()}
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    child = {"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest), "annotations": annotations}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()
    return files | more


def small_image(word: str = "x", **config: Any) -> images.TestImage:
    return images.make_image([images.tar_layer({"a": word.encode(), "b": b"y" * 200_000})], config=config)


async def test_layout_and_back(services: Services) -> None:
    image = small_image()
    data = archive(layout(image, {"io.containerd.image.name": "docker.io/library/x:v1"}))
    (imported,) = await import_images(services, chunks(data), NO_UNPACK)
    assert imported.name == "docker.io/library/x:v1"
    assert imported.target.digest == image.digest
    labels = (await services.content.info(imported.target.digest)).labels
    assert set(labels) == {"containerd.io/gc.ref.content.config", "containerd.io/gc.ref.content.l.0"}
    exported = b"".join([chunk async for chunk in export_images(services, [imported])])
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        docker = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        for digest, blob in image.blobs.items():
            assert tar.extractfile("blobs/" + digest.replace(":", "/")).read() == blob  # type: ignore[union-attr]
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "v1"
    assert docker[0]["RepoTags"] == ["x:v1"]
    assert len(docker[0]["Layers"]) == 1
    assert await services.leases.list() == []
    again = await import_images(services, chunks(gzip.compress(exported)), NO_UNPACK)
    assert again[0].target.digest == image.digest


@pytest.mark.parametrize(
    ("annotations", "base", "expected"),
    [
        ({"org.opencontainers.image.ref.name": "v2"}, "example.org/base", "example.org/base:v2"),
        ({"org.opencontainers.image.ref.name": "example.org/a/b:v2"}, "", "example.org/a/b:v2"),
        ({"org.opencontainers.image.ref.name": "example.org/a/b:v2"}, "example.org/base", "example.org/base:v2"),
        ({"io.containerd.image.name": "busybox"}, "", "docker.io/library/busybox:latest"),
    ],
)
async def test_names(services: Services, annotations: dict[str, str], base: str, expected: str) -> None:
    data = archive(layout(small_image(), annotations))
    (imported,) = await import_images(services, chunks(data), ImportOptions(base_name=base, unpack=False))
    assert imported.name == expected


async def test_nameless_and_badly_named(services: Services) -> None:
    image = small_image()
    with pytest.raises(InvalidArgument, match="names no image"):
        await import_images(services, chunks(archive(layout(image, {}))), NO_UNPACK)
    (imported,) = await import_images(
        services, chunks(archive(layout(image, {}))), ImportOptions(base_name="example.org/x", unpack=False)
    )
    assert imported.name == f"example.org/x@{image.digest}"
    for name in ("../../etc", "a b", "x/UPPER", "x:" + "t" * 200):
        with pytest.raises(InvalidArgument):
            data = archive(layout(image, {"io.containerd.image.name": name}))
            await import_images(services, chunks(data), NO_UNPACK)


def docker_save(image: images.TestImage, *, old: bool) -> dict[str, bytes | str]:
    """The two forms: layers by id, the second one a link to the first; or the same as a newer docker names them."""
    manifest = json.loads(image.manifest)
    config = manifest["config"]["digest"].partition(":")[2] + ".json"
    files: dict[str, bytes | str] = {config: image.blobs[manifest["config"]["digest"]], "repositories": b"{}"}
    paths = []
    for number, layer in enumerate(manifest["layers"]):
        path = f"{number:064x}/layer.tar"
        files[f"{number:064x}/VERSION"] = b"1.0"
        files[f"{number:064x}/json"] = b"{}"
        same = [earlier for earlier in range(number) if manifest["layers"][earlier]["digest"] == layer["digest"]]
        files[path] = f"../{same[0]:064x}/layer.tar" if same and old else image.blobs[layer["digest"]]
        paths.append(path)
    entry = {"Config": config, "RepoTags": ["saved:v1", "example.org/saved:v2"], "Layers": paths}
    return files | {"manifest.json": json.dumps([entry]).encode()}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("compress", [True, False])
async def test_docker_save(services: Services, old: bool, compress: bool) -> None:
    layer = images.tar_layer({"a": b"x" * 1000})
    image = images.make_image([layer, images.tar_layer({"b": b"y"}), layer], compress=compress)
    imported = await import_images(services, chunks(archive(docker_save(image, old=old))), NO_UNPACK)
    assert [found.name for found in imported] == ["docker.io/library/saved:v1", "example.org/saved:v2"]
    assert imported[0].target.media_type == DOCKER_MANIFEST
    _, manifest = await manifest_of(services, imported[0].target)
    assert [found.digest for found in manifest.layers] == [
        found["digest"] for found in json.loads(image.manifest)["layers"]
    ]
    assert {found.media_type for found in manifest.layers} == {DOCKER_LAYER_GZIP if compress else DOCKER_LAYER}


async def test_docker_save_compressed_on_the_way(services: Services) -> None:
    """Layers that were plain are gzip then, twice the same for the same; those that were not are left alone."""
    layers = [images.tar_layer({"a": b"x" * 100_000}), images.tar_layer({"b": os.urandom(2 << 20)})]
    image = images.make_image(layers, compress=False)
    files = docker_save(image, old=False)
    options = ImportOptions(unpack=False, compress=True)
    first = (await import_images(services, chunks(archive(files)), options))[0]
    _, manifest = await manifest_of(services, first.target)
    assert {layer.media_type for layer in manifest.layers} == {DOCKER_LAYER_GZIP}
    for layer, plain in zip(manifest.layers, layers, strict=True):
        data = await read_blob(services.content, layer.digest)
        assert (gzip.decompress(data), len(data)) == (plain, layer.size)
        labels = (await services.content.info(layer.digest)).labels
        assert labels["containerd.io/uncompressed"] == images.sha256(plain)
    again = (await import_images(services, chunks(archive(files)), options))[0]
    assert again.target.digest == first.target.digest
    assert await services.content.list_statuses() == []


async def test_an_archive_that_is_said_to_be_plain(services: Services) -> None:
    data = archive(layout(small_image(), {"io.containerd.image.name": "x.org/x:v1"}))
    plain = ImportOptions(unpack=False, plain=True)
    assert len(await import_images(services, chunks(data), plain)) == 1
    with pytest.raises(PortsideError):
        await import_images(services, chunks(gzip.compress(data)), plain)


async def test_names_by_a_rule(services: Services) -> None:
    """What the caller makes of the annotations, of docker's archives as of others; nothing is an error."""
    image = small_image()

    def names(descriptor: Descriptor) -> list[str]:
        full = descriptor.annotations.get("io.containerd.image.name", "")
        return [f"mine/{full}", f"also/{full}"] if full.endswith("v1") else []

    options = ImportOptions(unpack=False, names=names, index_name="all")
    found = await import_images(services, chunks(archive(docker_save(image, old=False))), options)
    name = "docker.io/library/saved:v1"
    assert [each.name for each in found] == [f"mine/{name}", f"also/{name}", "all"]
    data = archive(layout(image, {"io.containerd.image.name": "x.org/x:v2"}))
    index = (await import_images(services, chunks(data), options))[0]
    assert (index.name, index.target.digest) == (
        "all",
        images.sha256(layout(image, {"io.containerd.image.name": "x.org/x:v2"})["index.json"]),
    )  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="names no image"):
        await import_images(services, chunks(data), ImportOptions(unpack=False, names=names))


async def test_layers_that_are_not_to_be_given_away(services: Services) -> None:
    image = small_image()
    manifest = json.loads(image.manifest)
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    image = images.TestImage(json.dumps(manifest).encode(), image.blobs)
    data = archive(layout(image, {"io.containerd.image.name": "x.org/x:v1"}))
    (imported,) = await import_images(services, chunks(data), NO_UNPACK)
    path = "blobs/" + manifest["layers"][0]["digest"].replace(":", "/")
    for options, there in ((ExportOptions(), True), (ExportOptions(non_distributable=False), False)):
        exported = b"".join([chunk async for chunk in export_images(services, [imported], options=options)])
        with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
            assert (path in tar.getnames()) is there


async def test_index_of_which_a_part_is_here(services: Services) -> None:
    """Import takes it, and export gives the part (containerd fails with "content digest … not found")."""
    image = small_image()
    present = {
        "mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest),
        "platform": {"os": "linux", "architecture": "amd64"},
    }  # fmt: skip
    missing = present | {"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [missing, present]}).encode()
    files = layout(image, {})
    digest = images.sha256(index)
    files["blobs/" + digest.replace(":", "/")] = index
    child = {
        "mediaType": INDEX,
        "digest": digest,
        "size": len(index),
        "annotations": {"io.containerd.image.name": "x:v1"},
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()
    (imported,) = await import_images(services, chunks(archive(files)), NO_UNPACK)
    assert imported.target.digest == digest
    exported = b"".join([chunk async for chunk in export_images(services, [imported])])
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        listed = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert [entry["digest"] for entry in listed["manifests"]] == [image.digest]


def _spaces(size: int) -> bytes:
    return b" " * size


def bad_archives() -> list[tuple[str, type[PortsideError], bytes]]:
    image = small_image()
    name = {"io.containerd.image.name": "x:v1"}
    good = layout(image, name)
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    blob = "blobs/" + layer.replace(":", "/")
    whole = archive(good)
    both = json.loads(image.manifest) | {"manifests": [{"mediaType": MANIFEST, "digest": layer, "size": 1}]}
    ambiguous = images.TestImage(json.dumps(both).encode(), image.blobs)
    saved = docker_save(image, old=False)
    return [
        ("empty", InvalidArgument, archive({})),
        ("something else", InvalidArgument, archive({"etc/passwd": b"root"})),
        ("not a tar", InvalidArgument, b"not a tar at all" * 100),
        ("cut", DataLoss, whole[: len(whole) // 2]),
        ("blob with another digest", DataLoss, archive(good | {blob: b"changed"})),
        ("blob missing", NotFound, archive({key: value for key, value in good.items() if key != blob})),
        ("manifest and index in one", InvalidArgument, archive(layout(ambiguous, name))),
        ("huge index.json", ResourceExhausted, archive(good | {"index.json": _spaces(9 << 20)})),
        ("huge manifest.json", ResourceExhausted, archive({"manifest.json": _spaces(9 << 20)})),
        ("huge oci-layout", ResourceExhausted, archive(good | {"oci-layout": _spaces(9 << 20)})),
        ("deep json", InvalidArgument, archive(good | {"index.json": b"[" * 200_000})),
        ("other version", InvalidArgument, archive(good | {"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'})),
        ("no index", InvalidArgument, archive({key: value for key, value in good.items() if key != "index.json"})),
        (
            "docker: file missing",
            NotFound,
            archive({key: saved[key] for key in saved if not key.endswith("layer.tar")}),
        ),
        ("docker: odd entry", InvalidArgument, archive({"manifest.json": b'[{"Config": 1}]'})),
        ("docker: not a list", InvalidArgument, archive({"manifest.json": b"{}"})),
        ("docker: link to itself", NotFound, archive(saved | {f"{0:064x}/layer.tar": "layer.tar"})),
        ("docker: link out", NotFound, archive(saved | {f"{0:064x}/layer.tar": "../../../../etc/passwd"})),
        ("config is not one", InvalidArgument, archive(saved | {next(iter(saved)): b"[]"})),
    ]


@pytest.mark.parametrize(
    ("error", "data"), [case[1:] for case in bad_archives()], ids=[case[0] for case in bad_archives()]
)
async def test_refused_and_nothing_stays(services: Services, error: type[PortsideError], data: bytes) -> None:
    with pytest.raises(error):
        await import_images(services, chunks(data), NO_UNPACK)
    assert await services.images.list() == []
    assert await services.leases.list() == []
    assert await services.content.list_statuses() == []


async def test_document_of_blob_size_is_not_read_into_memory(services: Services) -> None:
    """A manifest of 2 GiB would be one of these: its descriptor says what it is, its size what we do."""
    big = _spaces(9 << 20)
    child = {"mediaType": MANIFEST, "digest": images.sha256(big), "size": len(big)}
    index = {"schemaVersion": 2, "manifests": [child | {"annotations": {"io.containerd.image.name": "x:v1"}}]}
    files: dict[str, bytes | str] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        "blobs/" + images.sha256(big).replace(":", "/"): big,
    }
    with pytest.raises(ResourceExhausted):
        await import_images(services, chunks(archive(files)), NO_UNPACK)


async def test_names_in_an_archive_are_no_paths(services: Services, tmp_path: Path) -> None:
    files = layout(small_image(), {"io.containerd.image.name": "x:v1"})
    files |= {str(tmp_path / "planted"): b"x", "../../../tmp/planted": b"x", "dev/null": str(tmp_path)}
    await import_images(services, chunks(archive(files)), NO_UNPACK)
    assert not (tmp_path / "planted").exists()
