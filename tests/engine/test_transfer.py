"""The small parts of transfers: names, what is told, settings. The pairs are in tests/contracts/transfer.py."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.client import progress as told
from portside.core.transfer import ImageReference, ImageStore, OCIRegistry, Progress, RegistryCredentials
from portside.engine.transfer.config import MAX_CONCURRENT, TransferConfig
from portside.engine.transfer.names import names_in_archive, store_names
from portside.engine.transfer.origin import OriginContent
from portside.engine.transfer.progress import Teller
from portside.engine.transfer.registries import registry_of
from portside.errors import DataLoss, InvalidArgument, NotFound
from portside.oci.descriptor import LAYER, MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from tests.contracts.local import LocalBackend
from tests.support import images

TARGET = Descriptor(MANIFEST, Digest.of(b"target"), 6)
FULL, TAG = "io.containerd.image.name", "org.opencontainers.image.ref.name"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "root")
    yield backend
    await backend.close()


def prefix(name: str = "example.org/x", **rules: bool) -> ImageReference:
    return ImageReference(name, is_prefix=True, **rules)


@pytest.mark.parametrize(
    ("annotations", "reference", "names"),
    [
        ({TAG: "v1"}, prefix(), ["example.org/x:v1"]),
        ({FULL: "example.org/x:v2", TAG: "v1"}, prefix(), ["example.org/x:v2"]),
        ({FULL: "example.org/x/y:v2"}, prefix(), ["example.org/x/y:v2"]),
        ({FULL: "example.org/xy:v2"}, prefix(), []),
        ({FULL: "other.org/y:v1"}, prefix(), []),
        ({FULL: "other.org/y:v1"}, prefix(allow_overwrite=True), ["other.org/y:v1"]),
        ({FULL: "v1"}, prefix(allow_overwrite=True), []),
        ({TAG: "other.org/y:v1"}, prefix(), []),
        ({TAG: "other.org/y:v1"}, prefix(allow_overwrite=True), ["other.org/y:v1"]),
        ({}, prefix(), []),
        ({}, prefix(add_digest=True), [f"example.org/x@{TARGET.digest}"]),
        ({TAG: "v1"}, prefix(add_digest=True), ["example.org/x:v1", f"example.org/x@{TARGET.digest}"]),
        ({TAG: "v1"}, prefix(add_digest=True, skip_named_digest=True), ["example.org/x:v1"]),
        ({TAG: "v1"}, ImageReference("example.org/whole:1"), []),
    ],
)
def test_names_in_an_archive(annotations: dict[str, str], reference: ImageReference, names: list[str]) -> None:
    descriptor = Descriptor(TARGET.media_type, TARGET.digest, TARGET.size, annotations)
    assert names_in_archive(ImageStore(extra_references=(reference,)))(descriptor) == names


async def test_further_names_go_with_the_first(backend: LocalBackend) -> None:
    store = ImageStore(
        "a:1", {"color": "red"}, extra_references=(ImageReference("b:1"), prefix(), prefix(add_digest=True))
    )
    services = backend.bind("default")
    made = {image.name: image for image in await store_names(services, store, TARGET)}
    assert set(made) == {"a:1", "b:1", f"example.org/x@{TARGET.digest}"}
    assert made["a:1"].labels == {"color": "red"}
    assert made["b:1"].labels["containerd.io/gc.bref.image"] == "a:1"
    alone = await store_names(services, ImageStore(extra_references=(ImageReference("c:1"),)), TARGET)
    assert dict(alone[0].labels) == {}
    with pytest.raises(NotFound):
        await store_names(services, ImageStore(extra_references=(prefix(),)), TARGET)


def test_what_is_told() -> None:
    """Each object once as waiting, with all its parents from then on; what is not known is not told of."""
    heard: list[Progress] = []
    tell = Teller(heard.append)
    layer = Descriptor(LAYER, Digest.of(b"layer"), 100)
    tell(told.Progress("layer-1", told.WAITING, 0, 100, layer, "manifest-1"))
    tell(told.Progress("layer-1", told.WAITING, 0, 100, layer, "manifest-2"))
    tell(told.Progress("layer-1", told.DOWNLOADING, 50, 100))
    tell(told.Progress("layer-1", told.DOWNLOADED, 100, 100))
    tell(told.Progress("layer-2", told.DOWNLOADED, 100, 100))
    tell(told.Progress("example.org/x", told.DONE))
    tell.say("saved", "example.org/x", TARGET)
    assert heard == [
        Progress("waiting", "layer-1", ("manifest-1",), 0, 100, layer),
        Progress("downloading", "layer-1", ("manifest-1", "manifest-2"), 50, 100, layer),
        Progress("complete", "layer-1", ("manifest-1", "manifest-2"), 100, 100, layer),
        Progress("saved", "example.org/x", (), 0, 0, TARGET),
    ]
    Teller(None)(told.Progress("layer-1", told.WAITING, 0, 100, layer, "m"))


def test_settings() -> None:
    assert TransferConfig.from_config({}).max_concurrent_downloads == 3
    found = TransferConfig.from_config(
        {"max_concurrent_downloads": 0, "max_concurrent_uploaded_layers": 7, "config_path": "/etc/certs.d", "x": 1}
    )
    assert (found.max_concurrent_downloads, found.max_concurrent_uploaded_layers) == (MAX_CONCURRENT, 7)
    assert found.config_path == "/etc/certs.d"
    for key, value in (("max_concurrent_downloads", -1), ("max_concurrent_uploaded_layers", "3"), ("config_path", 1)):
        with pytest.raises(InvalidArgument, match=key):
            TransferConfig.from_config({key: value})


async def test_a_registry_as_it_is_described() -> None:
    end = OCIRegistry("example.org/x:1", None, {"X-Trace": "1"}, "/hosts", "http")
    async with registry_of(end, TransferConfig()) as registry:
        config = registry.config
    assert (config.plain_http, config.headers, config.hosts_dir, config.credentials) == (
        True, {"X-Trace": "1"}, "/hosts", None,
    )  # fmt: skip
    async with registry_of(OCIRegistry("example.org/x:1"), TransferConfig(config_path="/default")) as registry:
        assert (registry.config.plain_http, registry.config.hosts_dir) == (None, "/default")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (RegistryCredentials("user", "secret"), ("user", "secret")),
        (RegistryCredentials(secret="token"), ("<token>", "token")),
        (RegistryCredentials(header="Bearer x"), ("<header>", "Bearer x")),
        (None, None),
    ],
)
async def test_credentials_as_the_registry_takes_them(
    given: RegistryCredentials | None, taken: tuple[str, str] | None
) -> None:
    asked: list[tuple[str, str]] = []

    async def credentials(host: str, reference: str) -> RegistryCredentials | None:
        asked.append((host, reference))
        return given

    async with registry_of(OCIRegistry("docker.io/library/x:1", credentials), TransferConfig()) as registry:
        assert registry.config.credentials is not None
        for host in ("docker.io", "mirror.example"):
            answer = registry.config.credentials(host)
            assert inspect.isawaitable(answer)
            assert await answer == taken
    assert [host for host, _ in asked] == ["registry-1.docker.io", "mirror.example"]


class Origin:
    """A registry of one image that counts what is asked of it."""

    def __init__(self, image: images.TestImage) -> None:
        self.blobs = image.blobs | {image.digest: image.manifest}
        self.asked: list[tuple[str, int]] = []

    async def fetch(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        self.asked.append((descriptor.digest, offset))
        data = self.blobs[descriptor.digest][offset:]
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    async def fetch_document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        return b"".join([part async for part in self.fetch(reference, descriptor)])


def origin_of(image: images.TestImage) -> tuple[Origin, OriginContent]:
    origin = Origin(image)
    target = Descriptor(MANIFEST, Digest(image.digest), len(image.manifest))
    return origin, OriginContent(origin, Reference.parse("example.org/x:1"), target)


async def whole(content: OriginContent, digest: str, size: int = 700) -> bytes:
    reader, data = await content.open(Digest(digest)), b""
    while part := await reader.read(len(data), size):
        data += part
    await reader.close()
    return data


async def test_an_image_on_a_registry_as_content() -> None:
    """Layers are fetched when they are read, documents once; what no document names is not there."""
    image = images.make_image([images.tar_layer({"a": b"b" * 5000})])
    origin, content = origin_of(image)
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    with pytest.raises(NotFound, match="nothing in example"):
        await content.info(Digest(layer))
    assert await whole(content, image.digest) == await whole(content, image.digest) == image.manifest
    assert (await content.info(Digest(layer))).size == len(image.blobs[layer])
    reader = await content.open(Digest(layer))
    assert origin.asked == [(image.digest, 0)]
    assert reader.fileno() == -1
    await reader.close()
    assert await whole(content, layer) == image.blobs[layer]


async def test_a_layer_is_begun_again_where_it_is_wanted() -> None:
    """An upload that failed starts over, and what was read before does not count."""
    image = images.make_image([images.tar_layer({"a": os.urandom(5000)})])
    origin, content = origin_of(image)
    await whole(content, image.digest)
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    data = image.blobs[layer]
    reader = await content.open(Digest(layer))
    assert await reader.read(0, 300) + await reader.read(300, 300) == data[:600]
    assert await reader.read(100, 50) == data[100:150]
    assert b"".join([await reader.read(0, 1000)]) == data[:1000]
    at = 1000
    while part := await reader.read(at, 999):
        assert part == data[at : at + len(part)]
        at += len(part)
    assert at == len(data)
    assert [offset for digest, offset in origin.asked if digest == layer] == [0, 100, 0]
    await reader.close()


async def test_a_layer_that_is_another_one_is_not_passed_on() -> None:
    image = images.make_image([images.tar_layer({"a": b"b" * 5000})])
    origin, content = origin_of(image)
    await whole(content, image.digest)
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    origin.blobs[layer] = bytes(len(image.blobs[layer]))
    with pytest.raises(DataLoss, match=layer):
        await whole(content, layer)
