"""Resolve, fetch and push against a real registry."""

import json
import os

import pytest

from portside.errors import DataLoss, InvalidArgument, NotFound, Unauthenticated, Unavailable
from portside.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry import Registry, RegistryConfig

NOBODY = Digest.of(b"nothing of the kind")


class MemoryReader:
    """A ContentReader of bytes, without a descriptor."""

    def __init__(self, data):
        self.data, self.size = data, len(data)

    def fileno(self):
        return -1

    async def read(self, offset, size):
        return self.data[offset : offset + size]

    async def close(self):
        pass


class FileReader(MemoryReader):
    def __init__(self, data, path):
        super().__init__(data)
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDONLY)

    def fileno(self):
        return self.fd

    async def close(self):
        os.close(self.fd)


def descriptor_of(data, media_type):
    return Descriptor(media_type, Digest.of(data), len(data))


async def push_image(registry, reference, layers=(b"layer",)):
    """An image of ``layers``; the descriptor of its manifest and the documents."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "name": str(reference)}).encode()
    blobs = [(descriptor_of(config, CONFIG), config)]
    blobs += [(descriptor_of(layer, LAYER_GZIP), layer) for layer in layers]
    untagged = Reference(reference.host, reference.path)
    for descriptor, data in blobs:
        await registry.push(untagged, descriptor, MemoryReader(data))
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": blobs[0][0].to_json(),
         "layers": [descriptor.to_json() for descriptor, _ in blobs[1:]]}
    ).encode()  # fmt: skip
    descriptor = descriptor_of(manifest, MANIFEST)
    await registry.push(reference, descriptor, MemoryReader(manifest))
    return descriptor, manifest


@pytest.fixture
async def registry():
    made = Registry(RegistryConfig(retry_delays=(0, 0)))
    yield made
    await made.close()


async def fetched(registry, reference, descriptor, offset=0):
    return b"".join([part async for part in registry.fetch(reference, descriptor, offset)])


async def test_what_was_pushed_is_resolved_and_fetched(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/some/name:tag")
    manifest, document = await push_image(registry, reference)
    assert await registry.resolve(reference) == manifest
    assert await fetched(registry, reference, manifest) == document
    assert await registry.fetch_document(reference, manifest) == document
    layer = descriptor_of(b"layer", LAYER_GZIP)
    assert await fetched(registry, reference, layer) == b"layer"


async def test_by_digest(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/by/digest:tag")
    manifest, _ = await push_image(registry, reference)
    by_digest = Reference(reference.host, reference.path, digest=manifest.digest)
    assert await registry.resolve(by_digest) == manifest


async def test_missing_images_and_blobs_are_not_found_in_one_sentence(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/library/nope:latest")
    with pytest.raises(NotFound) as caught:
        await registry.resolve(reference)
    assert str(caught.value) == f"pull {real_registry}/library/nope:latest: not found"
    with pytest.raises(NotFound) as caught:
        await fetched(registry, reference, Descriptor(LAYER_GZIP, NOBODY, 5))
    assert str(caught.value) == f"pull {reference}: fetch {NOBODY}: not found"


async def test_large_blobs_come_in_parts_and_from_an_offset(registry, real_registry, tmp_path):
    data = os.urandom(3_500_000)
    reference = Reference.parse(f"{real_registry}/large:1")
    descriptor = descriptor_of(data, LAYER_GZIP)
    reader = FileReader(data, tmp_path / "blob")
    sent = []
    assert await registry.push(reference, descriptor, reader, progress=sent.append) == "pushed"
    await reader.close()
    assert sent[-1] == len(data) and sent == sorted(sent)
    parts = [part async for part in registry.fetch(reference, descriptor)]
    assert b"".join(parts) == data and max(map(len, parts)) <= 1 << 20
    assert await fetched(registry, reference, descriptor, 1_234_567) == data[1_234_567:]
    assert await fetched(registry, reference, descriptor, len(data)) == b""


async def test_blobs_that_are_there_are_not_sent_again(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/twice:1")
    descriptor = descriptor_of(b"the same", LAYER_GZIP)
    assert await registry.push(reference, descriptor, MemoryReader(b"the same")) == "pushed"
    assert await registry.push(reference, descriptor, MemoryReader(b"never read")) == "exists"
    manifest, document = await push_image(registry, reference)
    assert await registry.push(reference, manifest, MemoryReader(document)) == "exists"


async def test_blobs_are_mounted_from_other_repositories(registry, real_registry):
    first = Reference.parse(f"{real_registry}/first:1")
    descriptor = descriptor_of(b"shared blob", LAYER_GZIP)
    await registry.push(first, descriptor, MemoryReader(b"shared blob"))
    second = Reference.parse(f"{real_registry}/second:1")
    assert await registry.push(second, descriptor, MemoryReader(b""), sources=["first"]) == "mounted"
    assert await fetched(registry, second, descriptor) == b"shared blob"
    third = Reference.parse(f"{real_registry}/third:1")
    other = descriptor_of(b"not in first", LAYER_GZIP)
    assert await registry.push(third, other, MemoryReader(b"not in first"), sources=["first"]) == "pushed"


async def test_an_empty_blob(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/empty:1")
    descriptor = descriptor_of(b"", LAYER_GZIP)
    await registry.push(reference, descriptor, MemoryReader(b""))
    assert await fetched(registry, reference, descriptor) == b""


async def test_an_index(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/multi:1")
    child, _ = await push_image(registry, Reference(reference.host, reference.path))
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child.to_json()]}).encode()
    await registry.push(reference, descriptor_of(index, INDEX), MemoryReader(index))
    assert (await registry.resolve(reference)).media_type == INDEX


async def test_a_blob_that_is_shorter_than_said_is_not_stored(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/short:1")
    descriptor = descriptor_of(b"twelve bytes", LAYER_GZIP)
    with pytest.raises(DataLoss, match=r"^push .*/short:1: the blob ends at 6 of 12 bytes$"):
        await registry.push(reference, descriptor, MemoryReader(b"twelve"))
    with pytest.raises(NotFound):
        await fetched(registry, reference, descriptor)


async def test_a_blob_with_another_digest_is_refused(registry, real_registry):
    reference = Reference.parse(f"{real_registry}/other:1")
    descriptor = Descriptor(LAYER_GZIP, NOBODY, 5)
    with pytest.raises(InvalidArgument, match=r"^push .*DIGEST_INVALID"):
        await registry.push(reference, descriptor, MemoryReader(b"bytes"))


async def test_nobody_listens(registry):
    with pytest.raises(Unavailable, match=r"^pull 127\.0\.0\.1:1/x:latest: 127\.0\.0\.1:1: connection refused$"):
        await registry.resolve(Reference.parse("127.0.0.1:1/x:latest"))


async def test_basic_auth(closed_registry):
    reference = Reference.parse(f"{closed_registry}/private:1")
    asked = []

    def credentials(host):
        asked.append(host)
        return "user", "secret"

    registry = Registry(RegistryConfig(credentials=credentials))
    manifest, _ = await push_image(registry, reference)
    assert await registry.resolve(reference) == manifest
    assert set(asked) == {closed_registry}
    await registry.close()


async def test_credentials_may_come_from_a_coroutine(closed_registry):
    async def credentials(host):
        return "user", "secret"

    registry = Registry(RegistryConfig(credentials=credentials))
    with pytest.raises(NotFound):
        await registry.resolve(Reference.parse(f"{closed_registry}/nope:1"))
    await registry.close()


@pytest.mark.parametrize("credentials", [None, lambda host: None, lambda host: ("user", "wr0ng-s3cret")])
async def test_without_the_right_credentials(closed_registry, credentials):
    registry = Registry(RegistryConfig(credentials=credentials))
    with pytest.raises(Unauthenticated, match=r"^pull .*/private:1: ") as caught:
        await registry.resolve(Reference.parse(f"{closed_registry}/private:1"))
    assert "wr0ng" not in repr(caught.value.__cause__) + str(caught.value)
    await registry.close()
