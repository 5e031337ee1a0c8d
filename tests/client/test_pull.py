"""Pull over real stores, from a source that does what the test wants; and push back into one."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from portside.client.flights import Flights
from portside.client.progress import Progress
from portside.client.pull import PullOptions, pull
from portside.client.push import push
from portside.core.content import ContentReader
from portside.core.labels import GC_REF_SNAPSHOT, UNCOMPRESSED
from portside.core.services import Services
from portside.errors import DataLoss, InvalidArgument, NotFound, PortsideError, Unavailable
from portside.oci.descriptor import INDEX, MANIFEST, Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.platform import Platform
from portside.oci.reference import Reference
from tests.support import images

REFERENCE = Reference.parse("registry.test/some/image:v1")
FETCH_ONLY = PullOptions(unpack=False)
AMD64 = {"os": "linux", "architecture": "amd64"}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")


@dataclass
class Registry:
    """Blobs by digest; ``fetched`` has every fetch with its offset, ``change`` is what it does to the bytes."""

    target: Descriptor
    blobs: dict[str, bytes]
    fetched: list[tuple[str, int]] = field(default_factory=list)
    change: Callable[[str, bytes], bytes] = lambda digest, data: data
    pushed: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    async def resolve(self, reference: Reference) -> Descriptor:
        return self.target

    async def fetch(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        self.fetched.append((descriptor.digest, offset))
        data = self.change(descriptor.digest, self.blobs[descriptor.digest])[offset:]
        for start in range(0, len(data), 50_000):
            await asyncio.sleep(0)
            yield data[start : start + 50_000]

    async def push(
        self, reference: Reference, descriptor: Descriptor, reader: ContentReader,
        *, sources: Sequence[str] = (), progress: Callable[[int], None] | None = None,
    ) -> str:  # fmt: skip
        data = await reader.read(0, reader.size)
        if "manifest" in descriptor.media_type or "index" in descriptor.media_type:
            document = json.loads(data)
            children = [document["config"], *document["layers"]] if "layers" in document else document["manifests"]
            assert all(child["digest"] in self.pushed for child in children), "a parent came before its children"
        self.pushed.append(descriptor.digest)
        self.tags[reference.object] = descriptor.digest
        return "pushed"


def serving(image: images.TestImage) -> Registry:
    target = Descriptor(MANIFEST, Digest(image.digest), len(image.manifest))
    return Registry(target, image.blobs | {image.digest: image.manifest})


def serving_index(*entries: tuple[images.TestImage, dict[str, Any]]) -> Registry:
    blobs: dict[str, bytes] = {}
    children = []
    for image, more in entries:
        blobs |= image.blobs | {image.digest: image.manifest}
        children.append({"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest)} | more)
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    digest = images.sha256(index)
    return Registry(Descriptor(INDEX, Digest(digest), len(index)), blobs | {digest: index})


def image_of(*words: str) -> images.TestImage:
    return images.make_image([images.tar_layer({word: word.encode() * 40_000}) for word in words])


def layers_of(image: images.TestImage) -> list[str]:
    return [layer["digest"] for layer in json.loads(image.manifest)["layers"]]


async def nothing_visible(services: Services) -> bool:
    snapshots = [snapshot async for snapshot in services.snapshotter().walk()]
    return not snapshots and not await services.images.list() and not await services.leases.list()


@needs_root
async def test_everything_is_there_and_labelled(services: Services) -> None:
    image = image_of("a", "b", "c")
    registry = serving(image)
    seen: list[Progress] = []
    pulled = await pull(services, registry, REFERENCE, progress=seen.append)
    assert pulled.name == "registry.test/some/image:v1"
    assert await services.leases.list() == []
    document = json.loads(image.manifest)
    info = await services.content.info(Digest(image.digest))
    assert info.labels == {
        "containerd.io/distribution.source.registry.test": "some/image",
        "containerd.io/gc.ref.content.config": document["config"]["digest"],
        **{f"containerd.io/gc.ref.content.l.{number}": digest for number, digest in enumerate(layers_of(image))},
    }
    config = json.loads(image.blobs[document["config"]["digest"]])
    diff_ids = [Digest(diff_id) for diff_id in config["rootfs"]["diff_ids"]]
    for layer, diff_id in zip(layers_of(image), diff_ids, strict=True):
        assert (await services.content.info(Digest(layer))).labels[UNCOMPRESSED] == diff_id
    labels = (await services.content.info(Digest(document["config"]["digest"]))).labels
    assert labels[f"{GC_REF_SNAPSHOT}{services.default_snapshotter}"] == chain_id(diff_ids)
    names = {snapshot.name async for snapshot in services.snapshotter().walk()}
    assert names == {chain_id(diff_ids[: count + 1]) for count in range(3)}
    of_layer = [progress.stage for progress in seen if progress.object == f"layer-{layers_of(image)[0]}"]
    assert list(dict.fromkeys(of_layer)) == ["waiting", "downloading", "downloaded", "extracting", "extracted"]


@needs_root
async def test_many_pulls_do_the_work_once(services: Services) -> None:
    registry = serving(image_of("a", "b"))
    flights = Flights()
    extracted: list[str] = []

    def note(progress: Progress) -> None:
        if progress.stage == "extracting":
            extracted.append(progress.object)

    pulls = (pull(services, registry, REFERENCE, progress=note, flights=flights) for _ in range(6))
    await asyncio.gather(*pulls)
    assert len(registry.fetched) == 4
    assert len(extracted) == 2


async def test_an_ingest_is_resumed(services: Services) -> None:
    image = image_of("a")
    registry = serving(image)
    (layer,) = layers_of(image)
    blob = image.blobs[layer]
    writer = await services.content.writer(f"layer-{layer}", len(blob), Digest(layer))
    await writer.write(blob[:100])
    await writer.close()
    await pull(services, registry, REFERENCE, FETCH_ONLY)
    assert dict(registry.fetched)[layer] == 100


async def test_a_short_answer_is_kept_for_the_next_attempt(services: Services) -> None:
    image = images.make_image([images.tar_layer({"a": os.urandom(200_000)})])
    registry = serving(image)
    (layer,) = layers_of(image)
    registry.change = lambda digest, data: data[:-1000] if digest == layer else data
    with pytest.raises(Unavailable, match=layer):
        await pull(services, registry, REFERENCE, FETCH_ONLY)
    assert await services.images.list() == []
    registry.change = lambda digest, data: data
    await pull(services, registry, REFERENCE, FETCH_ONLY)
    assert registry.fetched[-1] == (layer, len(image.blobs[layer]) - 1000)


@pytest.mark.parametrize("which", ["layer", "manifest", "config"])
@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"?", lambda data: data + b"more"])
async def test_other_bytes_than_promised(services: Services, which: str, change: Callable[[bytes], bytes]) -> None:
    image = image_of("a")
    registry = serving(image)
    document = json.loads(image.manifest)
    wrong = {"layer": layers_of(image)[0], "manifest": image.digest, "config": document["config"]["digest"]}[which]
    registry.change = lambda digest, data: change(data) if digest == wrong else data
    with pytest.raises(DataLoss, match=wrong):
        await pull(services, registry, REFERENCE, FETCH_ONLY)
    assert await nothing_visible(services)
    with pytest.raises(NotFound):
        await services.content.info(Digest(wrong))
    registry.change = lambda digest, data: data
    await pull(services, registry, REFERENCE, FETCH_ONLY)


@needs_root
async def test_a_layer_that_is_not_what_the_configuration_says(services: Services) -> None:
    image = image_of("a", "b")
    document = json.loads(image.manifest)
    config = json.loads(image.blobs.pop(document["config"]["digest"]))
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    data = json.dumps(config).encode()
    document["config"] |= {"digest": images.sha256(data), "size": len(data)}
    registry = serving(images.TestImage(json.dumps(document).encode(), image.blobs | {images.sha256(data): data}))
    with pytest.raises(DataLoss, match=layers_of(image)[1]):
        await pull(services, registry, REFERENCE)
    assert await services.images.list() == []
    assert [s.name async for s in services.snapshotter().walk() if s.name.startswith("extract")] == []


async def test_documents_that_mean_two_things(services: Services) -> None:
    image = image_of("a")
    both = json.loads(image.manifest) | {"manifests": [json.loads(image.manifest)["config"]]}
    with pytest.raises(InvalidArgument, match="two things"):
        await pull(services, serving(images.TestImage(json.dumps(both).encode(), image.blobs)), REFERENCE, FETCH_ONLY)
    registry = serving(image)
    registry.target = Descriptor(INDEX, registry.target.digest, registry.target.size)
    with pytest.raises(InvalidArgument):
        await pull(services, registry, REFERENCE, FETCH_ONLY)
    assert await nothing_visible(services)


async def test_best_platform_of_an_index(services: Services) -> None:
    plain, level2, other, attestation = image_of("a"), image_of("b"), image_of("c"), image_of("d")
    registry = serving_index(
        (attestation, {"platform": {"os": "unknown", "architecture": "unknown"}}),
        (other, {"platform": {"os": "linux", "architecture": "s390x"}}),
        (plain, {"platform": AMD64}),
        (level2, {"platform": AMD64 | {"variant": "v2"}}),
    )

    async def fetched(**options: Any) -> set[str]:
        registry.fetched.clear()
        await pull(services, registry, REFERENCE, PullOptions(unpack=False, **options))
        return {digest for digest, _ in registry.fetched} & {i.digest for i in (plain, level2, other, attestation)}

    assert await fetched(platforms=(Platform.parse("linux/amd64"),)) == {plain.digest}
    assert await fetched(platforms=(Platform.parse("linux/amd64/v3"),)) == {level2.digest}
    assert await fetched(platforms=(Platform.parse("linux/s390x"),)) == {other.digest}
    assert await fetched(all_platforms=True) == {attestation.digest}
    with pytest.raises(NotFound, match="linux/riscv64"):
        await fetched(platforms=(Platform.parse("linux/riscv64"),))
    labels = (await services.content.info(registry.target.digest)).labels
    assert sum(key.startswith("containerd.io/gc.ref.content.m.") for key in labels) == 4


async def test_indexes_without_end(services: Services) -> None:
    blob, media_type = b"{}", MANIFEST
    blobs: dict[str, bytes] = {images.sha256(blob): blob}
    for _ in range(12):
        child = {"mediaType": media_type, "digest": images.sha256(blob), "size": len(blob)}
        blob, media_type = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode(), INDEX
        blobs[images.sha256(blob)] = blob
    registry = Registry(Descriptor(INDEX, Digest(images.sha256(blob)), len(blob)), blobs)
    with pytest.raises(InvalidArgument, match="within each other"):
        await pull(services, registry, REFERENCE, FETCH_ONLY)


async def test_cancelled_in_the_middle(services: Services) -> None:
    registry = serving(image_of("a", "b"))
    waiting = asyncio.Event()

    async def stuck(reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        if descriptor.digest in registry.blobs and "layer" in descriptor.media_type:
            waiting.set()
            await asyncio.Event().wait()
        yield registry.blobs[descriptor.digest][offset:]

    registry.fetch = stuck  # type: ignore[method-assign]
    pulling = asyncio.create_task(pull(services, registry, REFERENCE, FETCH_ONLY))
    await waiting.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert await nothing_visible(services)


async def test_another_place_for_the_same_blob_is_noted(services: Services) -> None:
    image = image_of("a")
    registry = serving(image)
    for path in ("one", "two", "one"):
        await pull(services, registry, Reference.parse(f"registry.test/{path}:v1"), FETCH_ONLY)
    labels = (await services.content.info(Digest(layers_of(image)[0]))).labels
    assert labels["containerd.io/distribution.source.registry.test"] == "one,two"
    assert len(registry.fetched) == 3


async def test_metadata_of_other_platforms(services: Services) -> None:
    """Manifests and configurations, without layers; what the registry has lost of them is no error."""
    image, other, lost = image_of("a"), image_of("b"), image_of("c")
    there = {"os": "linux", "architecture": "s390x"}
    registry = serving_index((image, {"platform": AMD64}), (other, {"platform": there}), (lost, {"platform": there}))

    def without(digest: str, data: bytes) -> bytes:
        if digest == lost.digest:
            raise NotFound("not found")
        return data

    registry.change = without
    options = PullOptions(unpack=False, platforms=(Platform("linux", "amd64"),), all_metadata=True)
    pulled = await pull(services, registry, REFERENCE, options)
    here = {info.digest async for info in services.content.list()}
    config = json.loads(other.manifest)["config"]["digest"]
    assert here == {pulled.target.digest, image.digest, *image.blobs, other.digest, config}


async def test_a_limit_on_manifests(services: Services) -> None:
    pair = ((image_of("a"), {"platform": AMD64}), (image_of("b"), {"platform": AMD64 | {"variant": "v2"}}))
    for options in (
        PullOptions(unpack=False, all_platforms=True, manifest_limit=1),
        PullOptions(
            unpack=False, platforms=(Platform("linux", "amd64", "v2"), Platform("linux", "amd64")), manifest_limit=1
        ),
    ):
        registry = serving_index(*pair)
        await pull(services, registry, REFERENCE, options)
        manifests = {digest for digest, _ in registry.fetched} & {image.digest for image, _ in pair}
        assert len(manifests) == 1


async def test_push_brings_children_first(services: Services) -> None:
    image, second = image_of("a", "b"), image_of("b", "c")
    registry = serving_index((image, {"platform": AMD64}), (second, {"platform": AMD64 | {"variant": "v2"}}))
    pulled = await pull(services, registry, REFERENCE, PullOptions(unpack=False, all_platforms=True))
    sent = await push(services, registry, pulled, Reference.parse("registry.test/other:v2"))
    assert sent.digest == pulled.target.digest
    assert sorted(registry.pushed) == sorted(registry.blobs)
    assert registry.tags["v2"] == pulled.target.digest
    assert all(tag == digest for tag, digest in registry.tags.items() if tag != "v2")


async def test_push_of_an_index_of_which_a_part_is_here(services: Services) -> None:
    image, second = image_of("a"), image_of("b")
    registry = serving_index(
        (image, {"platform": AMD64}), (second, {"platform": {"os": "linux", "architecture": "s390x"}})
    )
    pulled = await pull(
        services, registry, REFERENCE, PullOptions(unpack=False, platforms=(Platform("linux", "amd64"),))
    )
    wanted = Platform("linux", "amd64")
    sent = await push(services, registry, pulled, REFERENCE, platform=wanted)
    assert sent.digest == image.digest
    with pytest.raises(PortsideError):
        await push(services, registry, pulled, REFERENCE, platform=Platform("linux", "s390x"))


async def test_somebody_else_is_fetching(services: Services) -> None:
    """Another process has the ref: wait until it is done, and use what it made."""
    image = image_of("a")
    registry = serving(image)
    (layer,) = layers_of(image)
    writer = await services.content.writer(f"layer-{layer}", len(image.blobs[layer]), Digest(layer))
    waiting = asyncio.Event()

    def note(progress: Progress) -> None:
        if progress.stage == "waiting" and progress.object == f"layer-{layer}":
            waiting.set()

    pulling = asyncio.create_task(pull(services, registry, REFERENCE, FETCH_ONLY, progress=note))
    await waiting.wait()
    await writer.write(image.blobs[layer])
    await writer.commit(len(image.blobs[layer]), Digest(layer))
    await writer.close()
    await pulling
    assert layer not in dict(registry.fetched)
