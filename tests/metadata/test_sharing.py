"""Whether a namespace gets a blob that another one has without writing it (containerd's content_sharing_policy)."""

import pytest

from portside.core.content import read_blob
from portside.core.labels import SHAREABLE
from portside.daemon.config import parse
from portside.errors import InvalidArgument
from portside.metadata.store import Metadata, MetadataConfig
from portside.oci.digest import Digest
from tests.contracts.content import put
from tests.contracts.local import LocalBackend

DATA = b"what one namespace has"
DIGEST = Digest.of(DATA)


@pytest.fixture
async def isolated(tmp_path):
    backend = LocalBackend(tmp_path, {})
    backend.metadata = Metadata(backend.db, backend.blobs, {}, isolated=True)
    yield backend
    await backend.close()


async def offset(content):
    writer = await content.writer("ref", len(DATA), DIGEST)
    found = (await writer.status()).offset
    await writer.close()
    return found


async def test_who_only_knows_the_digest_gets_nothing(isolated):
    await put(isolated.bind("one").content, DATA)
    other = isolated.bind("other").content
    assert await offset(other) == 0
    writer = await other.writer("ref", len(DATA), DIGEST)
    await writer.write(DATA)
    await writer.commit(len(DATA), DIGEST)
    assert await read_blob(other, DIGEST) == DATA
    await isolated.bind("one").content.delete(DIGEST)
    await isolated.metadata.collect(urgent=False)
    assert await read_blob(other, DIGEST) == DATA


async def test_a_namespace_may_share_what_it_has(isolated):
    await put(isolated.bind("one").content, DATA)
    await isolated.namespaces.set_label("one", SHAREABLE, "false")
    assert await offset(isolated.bind("other").content) == 0
    await isolated.namespaces.set_label("one", SHAREABLE, "true")
    assert await offset(isolated.bind("third").content) == len(DATA)


def test_policies():
    assert not MetadataConfig().is_isolated()
    assert MetadataConfig(content_sharing_policy="isolated").is_isolated()
    with pytest.raises(InvalidArgument, match="want one of shared, isolated"):
        MetadataConfig(content_sharing_policy="open").is_isolated()


def test_the_policy_is_heard_under_the_name_that_containerd_gives_the_plugin():
    table = {"content_sharing_policy": "isolated"}
    config = parse({"version": 3, "plugins": {"io.containerd.metadata.v1.bolt": table}})
    assert config.plugins["io.containerd.metadata.v1.sqlite"] == table
