"""What every ``TransferService`` and ``StreamService`` does: subclasses bring ``services``, ``host`` and ``image``.

``host`` is a registry that is spoken to by HTTP, ``image`` the full reference of a small image there.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator

import pytest

from portside.core.anymessage import AnyMessage
from portside.core.services import Services
from portside.core.transfer import (
    ImageExportStream,
    ImageImportStream,
    ImageReference,
    ImageStore,
    OCIRegistry,
    Progress,
    RegistryCredentials,
    TransferObject,
    UnpackConfiguration,
)
from portside.errors import AlreadyExists, InvalidArgument, NotFound, PortsideError, Unauthenticated, Unimplemented
from portside.oci.platform import host_platform
from tests.support import images

UNPACK = (UnpackConfiguration(host_platform()),)


def at(reference: str) -> OCIRegistry:
    return OCIRegistry(reference, default_scheme="http")


def store(name: str) -> ImageStore:
    return ImageStore(name, platforms=(host_platform(),), unpacks=UNPACK)


async def pieces(data: bytes, size: int = 70_001) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Written:
    """What a transfer writes."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data


class TransferContract:
    """The suite."""

    taken: type[PortsideError] = AlreadyExists
    """What is said of a stream's id that is in use."""
    refused: type[PortsideError] = Unauthenticated
    """What is said of credentials that a registry does not take."""
    pulls_by_digest = True
    """Whether a prefix that asks for it gives what is pulled a name by its digest, as containerd does since 2.3."""

    # Images

    async def test_pull_push_and_tag(self, services: Services, host: str, image: str) -> None:
        told: list[Progress] = []
        await services.transfer.transfer(at(image), store(image), told.append)
        pulled = await services.images.get(image)
        events = {progress.event for progress in told}
        assert {"waiting", "complete", "saved", f"Completed pull from OCI Registry ({image})"} <= events
        assert told[0].event == f"Resolving from OCI Registry ({image})"
        manifest = next(each for each in told if each.name == f"manifest-{pulled.target.digest}")
        assert (manifest.parents, manifest.total) == ((image,), pulled.target.size)
        assert manifest.descriptor is not None and manifest.descriptor.digest == pulled.target.digest
        layers = [each for each in told if each.name.startswith("layer-")]
        assert layers and all(each.parents == (manifest.name,) for each in layers if each.event == "waiting")
        assert len([found async for found in services.snapshotter().walk()]) == 1
        other = f"{host}/test/other-{os.urandom(4).hex()}:v1"
        await services.transfer.transfer(ImageStore(image), ImageStore(other, {"color": "red"}))
        tagged = await services.images.get(other)
        assert (tagged.target.digest, tagged.labels["color"]) == (pulled.target.digest, "red")
        told.clear()
        await services.transfer.transfer(ImageStore(other), at(other), told.append)
        assert {"waiting", "pushed content"} <= {progress.event for progress in told}
        await services.images.delete(other, sync=True)
        await services.transfer.transfer(at(other), store(other))
        assert (await services.images.get(other)).target.digest == pulled.target.digest

    async def test_pull_without_unpacking(self, services: Services, image: str) -> None:
        await services.transfer.transfer(at(image), ImageStore(image))
        assert [found async for found in services.snapshotter().walk()] == []

    async def test_pull_under_several_names(self, services: Services, image: str) -> None:
        more = (ImageReference("example.org/by", is_prefix=True, add_digest=True), ImageReference("example.org/tag:1"))
        await services.transfer.transfer(at(image), ImageStore("", extra_references=more))
        digest = next(iter(await services.images.list())).target.digest
        names = {found.name for found in await services.images.list()}
        assert names == {"example.org/tag:1", *([f"example.org/by@{digest}"] if self.pulls_by_digest else [])}

    async def test_nothing_is_left_but_the_image(self, services: Services, image: str) -> None:
        await services.transfer.transfer(at(image), store(image))
        assert list(await services.leases.list()) == []
        assert list(await services.content.list_statuses()) == []

    # Archives

    async def test_export_and_import(self, services: Services, image: str) -> None:
        await services.transfer.transfer(at(image), store(image))
        digest = (await services.images.get(image)).target.digest
        written = Written()
        named = ImageStore(extra_references=(ImageReference(image),))
        await services.transfer.transfer(named, ImageExportStream(written.write))
        with tarfile.open(fileobj=io.BytesIO(bytes(written.data))) as tar:
            assert {"oci-layout", "index.json", "manifest.json"} <= set(tar.getnames())
            index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        assert [child["digest"] for child in index["manifests"]] == [digest]
        await services.images.delete(image, sync=True)
        told: list[Progress] = []
        prefix = (ImageReference("import-today", is_prefix=True, allow_overwrite=True),)
        destination = ImageStore("the-index:1", extra_references=prefix, platforms=(host_platform(),), unpacks=UNPACK)
        await services.transfer.transfer(ImageImportStream(pieces(bytes(written.data))), destination, told.append)
        assert {found.name for found in await services.images.list()} == {image, "the-index:1"}
        assert (await services.images.get(image)).target.digest == digest
        assert {each.name for each in told if each.event == "saved"} == {image, "the-index:1"}
        assert (told[0].event, told[-1].event) == ("Importing", "Completed import")
        assert len([found async for found in services.snapshotter().walk()]) == 1

    async def test_export_without_dockers_manifest(self, services: Services, image: str) -> None:
        await services.transfer.transfer(at(image), ImageStore(image))
        written = Written()
        end = ImageExportStream(written.write, skip_compatibility_manifest=True)
        await services.transfer.transfer(ImageStore(image), end)
        with tarfile.open(fileobj=io.BytesIO(bytes(written.data))) as tar:
            assert "manifest.json" not in tar.getnames()

    async def test_import_takes_names_by_prefix(self, services: Services) -> None:
        data = images.tar_layer(_layout())
        digest = json.loads(_layout()["index.json"])["manifests"][0]["digest"]
        for reference, names in (
            (ImageReference("example.org/x", is_prefix=True), {"example.org/x:v1"}),
            (
                ImageReference("example.org/y", is_prefix=True, add_digest=True),
                {"example.org/y:v1", f"example.org/y@{digest}"},
            ),
            (
                ImageReference("example.org/z", is_prefix=True, add_digest=True, skip_named_digest=True),
                {"example.org/z:v1"},
            ),
        ):
            await services.transfer.transfer(ImageImportStream(pieces(data)), ImageStore(extra_references=(reference,)))
            found = {each.name for each in await services.images.list() if each.name.startswith(reference.name)}
            assert found == names

    async def test_echo(self, services: Services) -> None:
        """The bytes of a stream through the server and back, windows and all."""
        data, written = os.urandom(1_000_003), Written()
        await services.transfer.transfer(ImageImportStream(pieces(data)), ImageExportStream(written.write))
        assert bytes(written.data) == data

    # What cannot be

    async def test_what_is_missing_is_not_found(self, services: Services, host: str) -> None:
        written = Written()
        pairs: tuple[tuple[TransferObject, TransferObject], ...] = (
            (ImageStore("nothing"), at(f"{host}/test/z:1")),
            (ImageStore("nothing"), ImageStore("else")),
            (ImageStore("nothing"), ImageExportStream(written.write)),
            (at(f"{host}/test/nothing:1"), ImageStore("else")),
        )
        for source, destination in pairs:
            with pytest.raises(NotFound):
                await services.transfer.transfer(source, destination)
        assert list(await services.images.list()) == [] and not written.data

    async def test_a_pair_that_cannot_be_is_unimplemented(self, services: Services, image: str) -> None:
        with pytest.raises(Unimplemented):
            await services.transfer.transfer(at(image), ImageExportStream(Written().write))

    async def test_a_snapshotter_that_is_not_there(self, services: Services, image: str) -> None:
        unpacks = (UnpackConfiguration(host_platform(), "no-such-snapshotter"),)
        with pytest.raises(InvalidArgument):
            await services.transfer.transfer(at(image), ImageStore(image, unpacks=unpacks))
        assert list(await services.images.list()) == []

    async def test_an_archive_that_is_none(self, services: Services) -> None:
        prefix = (ImageReference("x", is_prefix=True),)
        with pytest.raises(PortsideError):
            await services.transfer.transfer(
                ImageImportStream(pieces(b"garbage " * 1000)), ImageStore(extra_references=prefix)
            )
        assert list(await services.images.list()) == []

    async def test_an_error_of_a_callback_ends_the_transfer(self, services: Services, image: str) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 100
            raise RuntimeError("the disk of the caller")

        prefix = (ImageReference("x", is_prefix=True),)
        with pytest.raises(RuntimeError, match="disk of the caller"):
            await services.transfer.transfer(ImageImportStream(broken()), ImageStore(extra_references=prefix))
        assert list(await services.leases.list()) == []

    # Credentials

    async def test_a_registry_that_asks(self, services: Services, closed_host: str, closed_image: str) -> None:
        asked: list[tuple[str, str]] = []

        async def credentials(host: str, reference: str) -> RegistryCredentials:
            asked.append((host, reference))
            return RegistryCredentials("user", "secret")

        source = OCIRegistry(closed_image, credentials, default_scheme="http")
        await services.transfer.transfer(source, ImageStore(closed_image))
        assert set(asked) == {(closed_host, closed_image)}
        destination = OCIRegistry(f"{closed_host}/test/again:1", credentials, default_scheme="http")
        await services.transfer.transfer(ImageStore(closed_image), destination)

    async def test_credentials_that_are_wrong(self, services: Services, closed_image: str) -> None:
        async def wrong(host: str, reference: str) -> RegistryCredentials:
            return RegistryCredentials("user", "wrong")

        async def none(host: str, reference: str) -> None:
            return None

        for credentials in (wrong, none, None):
            source = OCIRegistry(closed_image, credentials, default_scheme="http")
            with pytest.raises(self.refused) as caught:
                await services.transfer.transfer(source, ImageStore(closed_image))
            assert "secret" not in str(caught.value)
        assert list(await services.images.list()) == []

    async def test_what_goes_on_with_a_registry_is_told(self, services: Services, closed_image: str) -> None:
        told: list[str] = []

        async def credentials(host: str, reference: str) -> RegistryCredentials:
            return RegistryCredentials("user", "secret")

        source = OCIRegistry(closed_image, credentials, default_scheme="http", trace=told.append)
        await services.transfer.transfer(source, ImageStore(closed_image))
        assert "/v2/test/closed/manifests/1" in "".join(told)

    # Streams

    async def test_a_stream_has_its_id_alone(self, services: Services) -> None:
        one = await services.streaming.create("one")
        try:
            with pytest.raises(self.taken):
                await services.streaming.create("one")
        finally:
            await one.close()

    async def test_a_stream_ends_with_its_lease(self, services: Services) -> None:
        lease = await services.leases.create("of-a-stream")
        stream = await services.with_lease(lease.id).streaming.create("held")
        await stream.send(AnyMessage("google.protobuf.Empty", b""))
        await services.leases.delete(lease.id, sync=True)
        assert await stream.recv() is None
        await stream.close()


def _layout() -> dict[str, bytes]:
    image = images.make_image([images.tar_layer({"a": b"b"})])
    blobs = image.blobs | {image.digest: image.manifest}
    child = {
        "mediaType": json.loads(image.manifest)["mediaType"], "digest": image.digest, "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }  # fmt: skip
    files = {"blobs/" + digest.replace(":", "/"): blob for digest, blob in blobs.items()}
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()
    return files
