"""The small parts of transfers: names, what is told, settings. The pairs are in tests/contracts/transfer.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.client import progress as told
from portside.core.transfer import ImageReference, ImageStore, OCIRegistry, Progress
from portside.engine.transfer.config import MAX_CONCURRENT, TransferConfig
from portside.engine.transfer.names import names_in_archive, store_names
from portside.engine.transfer.progress import Teller
from portside.engine.transfer.registries import registry_of
from portside.errors import InvalidArgument, NotFound
from portside.oci.descriptor import LAYER, MANIFEST, Descriptor
from portside.oci.digest import Digest
from tests.contracts.local import LocalBackend

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
    images = {image.name: image for image in await store_names(services, store, TARGET)}
    assert set(images) == {"a:1", "b:1", f"example.org/x@{TARGET.digest}"}
    assert images["a:1"].labels == {"color": "red"}
    assert images["b:1"].labels["containerd.io/gc.bref.image"] == "a:1"
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
