"""The content store's contract where the blobs are somebody else's: our records, a plugin's bytes.

The plugin is ours, served as to containerd; between the two are real sockets.
"""

import tempfile
from pathlib import Path

import pytest

from portside.core.settings import ProxyPlugin
from portside.core.work import in_thread
from portside.daemon.plugin_host import PluginHost
from portside.engine.graph import PluginGraph
from portside.engine.proxies import Proxies
from portside.oci.digest import Digest
from tests.contracts.content import ContentContract
from tests.contracts.local import LocalBackend


@pytest.fixture
async def backend(tmp_path):
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        address = str(Path(short, "p.sock"))
        host = await PluginHost.start("content", address, root=tmp_path / "plugin")
        proxies = Proxies({"foreign": ProxyPlugin("content", address)}, {})
        graph = PluginGraph(tmp_path, tmp_path, {})
        graph.build(proxies.plugins)
        local = LocalBackend(tmp_path / "ours", {}, graph.get("io.containerd.content.v1"))
        yield local
        await local.close()
        await proxies.close()
        await host.stop(5)


class TestForeignContent(ContentContract):
    # A reader is a series of calls, each of which names the blob anew.
    test_an_open_reader_outlives_deletion = None
    # The protocol can only begin again at 0.
    test_truncate_and_write_something_else = None

    async def test_bytes_are_there_and_go(self, tmp_path, backend):
        content = backend.bind("default").content
        writer = await content.writer("ref", 5)
        await writer.write(b"bytes")
        digest = await writer.commit(5, Digest.of(b"bytes"), {"containerd.io/gc.root": "x"})
        assert (tmp_path / "plugin/blobs/sha256" / digest.hex).read_bytes() == b"bytes"
        await backend.metadata.collect()
        assert (await content.info(digest)).size == 5
        await content.delete(digest)
        await backend.metadata.collect()
        assert not list((tmp_path / "plugin/blobs/sha256").iterdir())

    async def test_what_a_crash_left_there_goes(self, tmp_path, backend):
        there = backend.blobs
        ingest = await in_thread(there.ingest, "default/9/left")
        await in_thread(ingest.write, b"left")
        await in_thread(ingest.commit)
        ingest = await in_thread(there.ingest, "default/10/left")
        ingest.close()
        await backend.metadata.reconcile()
        assert await in_thread(there.digests) == [] and await in_thread(there.keys) == []
