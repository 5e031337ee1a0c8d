"""Pulls into a snapshotter that has some layers already, as a lazy one does: what is fetched, and what it is told."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from portside.client.hints import IMAGE_LAYERS, IMAGE_REF, LAYER_DIGEST, MANIFEST_DIGEST, no_hints, pull_hints
from portside.client.pull import PullOptions, pull
from portside.core.foreign import ForeignSnapshotter
from portside.core.labels import MAX_LABEL, SNAPSHOT_REF
from portside.core.services import Services
from portside.core.snapshots import Kind
from portside.engine.services import LocalServices
from portside.errors import AlreadyExists, DataLoss, NotFound
from portside.oci.descriptor import LAYER, MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.image import Manifest
from tests.client.test_pull import REFERENCE, image_of, layers_of, serving
from tests.contracts.local import LocalBackend
from tests.support import images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")

LAZILY = PullOptions(snapshotter="lazy")


class Lazy:
    """Makes the layers in ``has`` by itself; everything else as the snapshotter that it wraps."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.has: list[str] = []
        self.asked: list[Mapping[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> Any:
        given = labels or {}
        if SNAPSHOT_REF in given:
            self.asked.append(given)
        if given.get(LAYER_DIGEST) in self.has:
            await self._inner.prepare(key, parent, given)
            await self._inner.commit(given[SNAPSHOT_REF], key, given)
            raise AlreadyExists("it is here already")
        return await self._inner.prepare(key, parent, given)


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Lazy]:
    backend = LocalBackend(tmp_path / "peer")
    yield Lazy(backend.bind("all").snapshotter("native"))
    await backend.close()


@pytest.fixture
async def services(tmp_path: Path, peer: Lazy) -> AsyncIterator[Services]:
    backend = LocalBackend(tmp_path / "root", {"lazy": ForeignSnapshotter("lazy", lambda namespace: peer)})

    def no_tasks(namespace: str) -> NoReturn:
        pytest.fail("a test of stores asked for tasks")

    yield LocalServices("default", "", backend.metadata, backend.exchange, no_tasks)
    await backend.metadata.collect()
    await backend.close()


async def snapshots(services: Services) -> list[Kind]:
    return [info.kind async for info in services.snapshotter("lazy").walk()]


async def test_all_is_there_and_nothing_is_fetched(services: Services, peer: Lazy) -> None:
    image = image_of("a", "b", "c")
    registry, peer.has = serving(image), layers_of(image)
    await pull(services, registry, REFERENCE, LAZILY)
    assert not {digest for digest, _ in registry.fetched} & set(layers_of(image))
    assert await snapshots(services) == [Kind.COMMITTED] * 3
    for number, labels in enumerate(peer.asked):
        assert labels[IMAGE_REF] == str(REFERENCE)
        assert labels[MANIFEST_DIGEST] == image.digest
        assert labels[LAYER_DIGEST] == layers_of(image)[number]
        assert labels[IMAGE_LAYERS] == ",".join(layers_of(image)[number:])
    await services.images.delete(str(REFERENCE), sync=True)
    assert await snapshots(services) == []
    assert [info async for info in peer.walk()] == []


async def test_from_the_first_that_is_missing_all_are_fetched(services: Services, peer: Lazy) -> None:
    image = image_of("a", "b", "c")
    bottom, middle, top = layers_of(image)
    registry, peer.has = serving(image), [bottom, top]
    await pull(services, registry, REFERENCE, LAZILY)
    fetched = {digest for digest, _ in registry.fetched}
    assert fetched & set(layers_of(image)) == {middle, top}
    assert await snapshots(services) == [Kind.COMMITTED] * 3


async def test_a_second_pull_asks_for_nothing(services: Services, peer: Lazy) -> None:
    image = image_of("a", "b")
    registry, peer.has = serving(image), layers_of(image)
    await pull(services, registry, REFERENCE, LAZILY)
    asked = len(peer.asked)
    await pull(services, registry, REFERENCE, LAZILY)
    assert len(peer.asked) == asked


async def test_a_layer_that_is_not_what_it_should_be_leaves_nothing(services: Services, peer: Lazy) -> None:
    image = image_of("a", "b")
    registry, peer.has = serving(image), layers_of(image)[:1]
    registry.change = lambda digest, data: data[::-1] if digest == layers_of(image)[1] else data
    with pytest.raises(DataLoss):
        await pull(services, registry, REFERENCE, LAZILY)
    await services._metadata.collect()  # type: ignore[attr-defined]
    assert await snapshots(services) == []
    assert [info async for info in peer.walk()] == []
    assert await services.images.list() == []


async def test_what_is_no_image_is_fetched_all_the_same(services: Services, peer: Lazy) -> None:
    image = images.make_image([images.tar_layer({"a": b"a"})])
    manifest = json.loads(image.manifest)
    manifest["config"]["mediaType"] = "application/vnd.example.config"
    image.manifest = json.dumps(manifest).encode()
    registry = serving(image)
    await pull(services, registry, REFERENCE, LAZILY)
    assert set(layers_of(image)) <= {digest for digest, _ in registry.fetched}
    assert peer.asked == []


async def test_without_unpacking_all_is_fetched(services: Services, peer: Lazy) -> None:
    image = image_of("a")
    registry, peer.has = serving(image), layers_of(image)
    await pull(services, registry, REFERENCE, PullOptions(snapshotter="lazy", unpack=False))
    assert set(layers_of(image)) <= {digest for digest, _ in registry.fetched}


def manifest_of(count: int, annotations: Mapping[str, str]) -> Manifest:
    layers = [Descriptor(LAYER, Digest.of(bytes([n])), 1, annotations) for n in range(count)]
    return Manifest(MANIFEST, Descriptor("config", Digest.of(b"config"), 1), tuple(layers), {})


def test_hints_fit_into_labels() -> None:
    manifest = manifest_of(200, {"containerd.io/snapshot/stargz/toc.digest": "sha256:1", "other": "not"})
    hints = pull_hints("r" * 5000, Descriptor(MANIFEST, Digest.of(b"m"), 1), manifest)
    labels = hints(manifest.layers[0])
    assert IMAGE_REF not in labels and "other" not in labels
    assert labels["containerd.io/snapshot/stargz/toc.digest"] == "sha256:1"
    assert len(IMAGE_LAYERS + labels[IMAGE_LAYERS]) <= MAX_LABEL
    named = labels[IMAGE_LAYERS].split(",")
    assert named == [str(layer.digest) for layer in manifest.layers[: len(named)]] and len(named) > 50
    assert no_hints(manifest.layers[0]) == {"containerd.io/snapshot/stargz/toc.digest": "sha256:1"}


async def test_a_snapshotter_that_lost_what_it_had(services: Services, peer: Lazy) -> None:
    image = image_of("a")
    registry, peer.has = serving(image), layers_of(image)
    await pull(services, registry, REFERENCE, LAZILY)
    for info in [info async for info in peer.walk()]:
        await peer.remove(info.name)
    with pytest.raises(NotFound):
        await pull(services, registry, REFERENCE, LAZILY)
    await services.images.delete(str(REFERENCE), sync=True)
    await pull(services, registry, REFERENCE, LAZILY)
    assert await snapshots(services) == [Kind.COMMITTED]
