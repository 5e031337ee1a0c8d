"""Transfers: the contract in process, over our daemon and against upstream's; and what only one of them has."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from portside.core.services import Services
from portside.core.snapshots import Kind
from portside.core.transfer import (
    ImageExportStream,
    ImageImportStream,
    ImageReference,
    ImageStore,
    OCIRegistry,
    Progress,
    ReadStream,
    RegistryCredentials,
    Snapshot,
    WriteStream,
)
from portside.engine.engine import EngineConfig, LocalBackend
from portside.errors import AlreadyExists, InvalidArgument, NotFound, PortsideError, Unknown
from portside.oci.descriptor import INDEX, LAYER, MANIFEST
from portside.oci.platform import Platform
from portside.remote.backend import RemoteBackend
from tests.contracts.backend import names_of
from tests.contracts.transfer import TransferContract, Written, at, pieces
from tests.support import images, peers
from tests.support.newer import newer_containerd
from tests.support.peers import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="session")
def host(registry: str) -> str:
    return registry


@pytest.fixture(scope="session")
def image(registry: str) -> str:
    made = images.make_image([images.tar_layer({"etc/": b"", "etc/x": b"y" * 300_000})])
    return images.push(registry, "test/transfer", "latest", made)


@pytest.fixture
def closed_host(closed: tuple[str, str]) -> str:
    return closed[0]


@pytest.fixture
def closed_image(closed: tuple[str, str]) -> str:
    return closed[1]


class _Each(TransferContract):
    """Each test in a namespace of its own."""

    @pytest.fixture
    async def services(
        self, backend: LocalBackend | RemoteBackend, request: pytest.FixtureRequest
    ) -> AsyncIterator[Services]:
        name = f"t{abs(hash(request.node.name)) % 10**8}"
        await backend.namespaces.create(name)
        services = backend.bind(name)
        yield services
        for each in await services.images.list():
            await services.images.delete(each.name, sync=True)


class _Ours(_Each):
    """What upstream's service leaves open or does not say."""

    async def test_mirror(self, services: Services, host: str, image: str, closed_host: str) -> None:
        """From one registry to another, and nothing of it here."""

        async def credentials(host: str, reference: str) -> RegistryCredentials:
            return RegistryCredentials("user", "secret")

        told: list[Progress] = []
        there = OCIRegistry(f"{closed_host}/test/mirrored:1", credentials, default_scheme="http")
        await services.transfer.transfer(at(image), there, told.append)
        assert told[-1].event == f"Completed push to {there}"
        assert list(await services.images.list()) == [] and list(await services.leases.list()) == []
        await services.transfer.transfer(there, ImageStore("mirrored"))
        await services.transfer.transfer(at(image), ImageStore("original"))
        mirrored, original = [await services.images.get(name) for name in ("mirrored", "original")]
        assert mirrored.target.digest == original.target.digest
        wrong = OCIRegistry(f"{host}/test/wrong@sha256:{'0' * 64}", default_scheme="http")
        with pytest.raises(InvalidArgument, match="it is sha256:"):
            await services.transfer.transfer(at(image), wrong)

    async def test_a_layer_to_a_snapshot_and_back(self, services: Services) -> None:
        lease = await services.leases.create("of-layers")
        held = services.with_lease(lease.id)
        below, above = (images.tar_layer({name: name.encode()}) for name in ("below", "above"))
        told: list[Progress] = []
        await held.transfer.transfer(ReadStream(pieces(gzip.compress(below))), Snapshot(), told.append)
        first = f"sha256:{hashlib.sha256(below).hexdigest()}"
        assert next(each.name for each in told if each.event == "saved") == first
        await held.transfer.transfer(ReadStream(pieces(below)), Snapshot())  # there already: fine
        labels = {"color": "red"}
        await held.transfer.transfer(ReadStream(pieces(above), LAYER), Snapshot("mine", first, labels=labels))
        info = await held.snapshotter().stat("mine")
        assert (info.parent, info.kind, info.labels["color"]) == (first, Kind.COMMITTED, "red")
        for source, names in ((Snapshot("mine"), {"above"}), (Snapshot(first), {"below"})):
            written = Written()
            await held.transfer.transfer(source, WriteStream(written.write, LAYER))
            with tarfile.open(fileobj=io.BytesIO(bytes(written.data))) as tar:
                assert set(tar.getnames()) == names
        with pytest.raises(AlreadyExists):
            await held.transfer.transfer(ReadStream(pieces(above)), Snapshot("mine", first))
        for error, source, destination in (
            (NotFound, ReadStream(pieces(above)), Snapshot("other", "no-such-parent")),
            (InvalidArgument, ReadStream(pieces(above)), Snapshot("", "not-a-chain-id")),
            (PortsideError, ReadStream(pieces(b"no layer" * 500)), Snapshot("other")),
            (NotFound, Snapshot("nothing"), WriteStream(Written().write)),
            (InvalidArgument, ReadStream(pieces(above)), Snapshot("x", snapshotter="no-such")),
        ):
            with pytest.raises(error):
                await held.transfer.transfer(source, destination)
        keys = {info.name async for info in held.snapshotter().walk()}
        assert keys == {first, "mine"}
        await services.leases.delete(lease.id, sync=True)
        assert [info.name async for info in held.snapshotter().walk()] == []

    async def test_what_is_pulled_under_a_lease_stays_as_long(self, services: Services, image: str) -> None:
        lease = await services.leases.create("of-a-pull")
        await services.with_lease(lease.id).transfer.transfer(at(image), ImageStore("leased"))
        await services.images.delete("leased", sync=True)
        assert len([info async for info in services.content.list()]) == 3
        assert [each.id for each in await services.leases.list()] == ["of-a-pull"]
        await services.leases.delete(lease.id, sync=True)
        assert [info async for info in services.content.list()] == []

    async def test_a_whole_header_as_credentials(self, services: Services, closed_image: str) -> None:
        async def credentials(host: str, reference: str) -> RegistryCredentials:
            return RegistryCredentials(header="Basic " + base64.b64encode(b"user:secret").decode())

        source = OCIRegistry(closed_image, credentials, default_scheme="http")
        await services.transfer.transfer(source, ImageStore(closed_image))

    async def test_a_stream_that_is_closed_is_forgotten(self, services: Services) -> None:
        stream = await services.streaming.create("again")
        await stream.close()
        for _ in range(3):
            stream = await services.streaming.create("again")
            await stream.fail("no use")

    async def test_a_lease_that_is_not_there(self, services: Services) -> None:
        with pytest.raises(NotFound, match="no-such-lease"):
            await services.with_lease("no-such-lease").streaming.create("held")

    async def test_what_is_asked_for_must_make_sense(self, services: Services, image: str) -> None:
        for source in (
            OCIRegistry(image, default_scheme="ftp"),
            OCIRegistry("not a reference", default_scheme="http"),
            OCIRegistry(image, default_scheme="http", headers={"X-Bad": "a\r\nb"}),
        ):
            with pytest.raises(InvalidArgument):
                await services.transfer.transfer(source, ImageStore("x"))
        with pytest.raises(InvalidArgument, match="no image is named"):
            await services.transfer.transfer(ImageStore(), ImageExportStream(Written().write))
        with pytest.raises(NotFound, match="no name"):
            await services.transfer.transfer(at(image), ImageStore())

    async def test_platforms(self, services: Services, host: str) -> None:
        """Of an index: what is wanted, the metadata of the rest, and an archive with the index as it is."""
        reference, index = push_index(host)
        await services.transfer.transfer(at(reference), ImageStore("all"))
        wanted = (Platform("linux", "arm64"),)
        written = Written()
        await services.transfer.transfer(ImageStore("all"), ImageExportStream(written.write, all_platforms=True))
        both = set(names_of(bytes(written.data)))
        assert {f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in index} <= both
        await services.images.delete("all", sync=True)
        await services.transfer.transfer(
            at(reference), ImageStore("example.org/some:1", platforms=wanted, all_metadata=True)
        )
        written = Written()
        await services.transfer.transfer(
            ImageStore("example.org/some:1"), ImageExportStream(written.write, platforms=wanted)
        )
        some = set(names_of(bytes(written.data)))
        assert some < both and f"blobs/sha256/{index[1].removeprefix('sha256:')}" in some
        with pytest.raises(NotFound):
            await services.transfer.transfer(
                ImageStore("example.org/some:1"), ImageExportStream(Written().write, all_platforms=True)
            )
        kept = {info.digest async for info in services.content.list()}
        assert set(index) <= kept and len(kept) == 6  # index; two manifests and configurations; one layer
        copy = f"{host}/test/of-one:1"
        await services.transfer.transfer(ImageStore("example.org/some:1", platforms=wanted), at(copy))
        await services.transfer.transfer(at(copy), ImageStore("one"))
        assert (await services.images.get("one")).target.digest == index[1]
        await services.images.delete("one")
        several = ImageStore("example.org/some:1", platforms=(*wanted, Platform("linux", "amd64")))
        with pytest.raises(NotFound, match="all of it must be here"):
            await services.transfer.transfer(several, at(copy))
        await services.images.delete("example.org/some:1", sync=True)
        prefix = (ImageReference("import", is_prefix=True, allow_overwrite=True),)
        archive = ImageImportStream(pieces(bytes(written.data)))
        await services.transfer.transfer(archive, ImageStore(extra_references=prefix, platforms=wanted))
        assert [each.name for each in await services.images.list()] == ["example.org/some:1"]
        nowhere = ImageStore("no", platforms=(Platform("plan9", "386"),))
        with pytest.raises(NotFound, match="plan9"):
            await services.transfer.transfer(at(reference), nowhere)


def push_index(host: str) -> tuple[str, list[str]]:
    """An image for two platforms; its reference and the digests of the two manifests."""
    children = []
    for architecture in ("amd64", "arm64"):
        made = images.make_image([images.tar_layer({architecture: architecture.encode()})])
        config_digest = json.loads(made.manifest)["config"]["digest"]
        config = json.loads(made.blobs.pop(config_digest)) | {"architecture": architecture}
        document = json.dumps(config).encode()
        manifest = json.loads(made.manifest)
        manifest["config"] |= {"digest": images.sha256(document), "size": len(document)}
        made = images.TestImage(json.dumps(manifest).encode(), made.blobs | {images.sha256(document): document})
        images.push(host, "test/index", architecture, made)
        children.append(
            {
                "mediaType": MANIFEST, "digest": made.digest, "size": len(made.manifest),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )  # fmt: skip
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    return images.push(host, "test/index", "both", images.TestImage(index)), [each["digest"] for each in children]


class TestInProcess(_Ours):
    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[LocalBackend]:
        peers.need_root()
        backend = await LocalBackend.open(EngineConfig(tmp_path / "root", tmp_path / "state"))
        yield backend
        await backend.close()


class TestOurDaemon(_Ours):
    @pytest.fixture
    async def backend(self, daemon: Daemon) -> AsyncIterator[RemoteBackend]:
        async with await RemoteBackend.connect(str(daemon.socket)) as backend:
            yield backend


@pytest.fixture(scope="module")
def peer() -> Iterator[Path]:
    with newer_containerd() as sock:
        yield sock


class TestUpstream(_Each):
    """containerd 2.1; where it says Unknown, or nothing, we say what it is."""

    taken = Unknown
    refused = PortsideError
    pulls_by_digest = False

    @pytest.fixture
    async def backend(self, peer: Path) -> AsyncIterator[RemoteBackend]:
        async with await RemoteBackend.connect(str(peer)) as backend:
            yield backend
