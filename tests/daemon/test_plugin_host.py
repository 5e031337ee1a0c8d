"""Serving one part of ours: what is refused, who may connect, and calls that name no namespace."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from portside.daemon.plugin_host import PluginHost
from portside.engine.ownership import RootLocked
from portside.errors import FailedPrecondition, InvalidArgument, NotFound, PortsideError
from portside.oci.descriptor import LAYER, Descriptor
from portside.oci.digest import Digest
from portside.remote.content import RemoteContent
from portside.remote.diff import RemoteDiff
from portside.remote.introspection import RemoteIntrospection
from portside.remote.snapshots import RemoteSnapshotter
from portside.wire.grpc.client import Channel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")


@pytest.fixture
def socket():
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        yield str(Path(short, "p.sock"))


@pytest.fixture
async def channel(socket):
    channel = Channel(socket)
    yield channel
    await channel.close()


@pytest.mark.parametrize(
    ("type", "options", "kind", "text"),
    [
        ("tasks", {}, InvalidArgument, "plugin type 'tasks'"),
        ("snapshot", {"root": None}, InvalidArgument, "needs a root"),
        ("snapshot", {"snapshotter": "zfs"}, InvalidArgument, "snapshotter 'zfs'"),
        ("diff", {}, InvalidArgument, "needs the socket"),
    ],
)
async def test_refused(tmp_path, socket, type, options, kind, text):
    with pytest.raises(kind, match=text):
        await PluginHost.start(type, socket, **({"root": tmp_path / "root"} | options))
    assert "p.sock" not in os.listdir(os.path.dirname(socket))


async def test_a_root_is_one_plugins_alone(tmp_path, socket):
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "root")
    with pytest.raises(RootLocked):
        await PluginHost.start("content", socket + "2", root=tmp_path / "root")
    with pytest.raises(PortsideError, match=r"p\.sock"):
        await PluginHost.start("snapshot", socket, root=tmp_path / "other")
    await host.stop(0)
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "root")
    await host.stop(0)


async def test_nobody_but_root_may_connect(tmp_path, socket):
    host = await PluginHost.start("content", socket, root=tmp_path / "root")
    assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
    await host.stop(0)


async def test_a_snapshotter_whatever_it_is_called_and_from_no_namespace(tmp_path, socket, channel):
    host = await PluginHost.start("snapshot", socket, root=tmp_path / "root", snapshotter="native")
    here, there = RemoteSnapshotter(channel, "default", "", "ours"), RemoteSnapshotter(channel, "", "", "other")
    await here.prepare("default/1/a")
    assert [info.name async for info in there.walk()] == ["default/1/a"]
    await there.remove("default/1/a")
    with pytest.raises(NotFound):
        await here.stat("default/1/a")
    (plugin,) = await RemoteIntrospection(channel).plugins()
    assert (plugin.type, plugin.id) == ("io.containerd.snapshotter.v1", "native")
    await host.stop(0)


async def test_blobs_stay_without_a_reference_and_go_when_they_are_deleted(tmp_path, socket, channel):
    host = await PluginHost.start("content", socket, root=tmp_path / "root")
    content = RemoteContent(channel, "any", "")
    writer = await content.writer("any/1/ref", 5)
    await writer.write(b"bytes")
    digest = await writer.commit(5, Digest.of(b"bytes"))
    await host.stop(0)
    host = await PluginHost.start("content", socket, root=tmp_path / "root")
    nameless = RemoteContent(channel, "", "")
    assert [info.digest async for info in nameless.list()] == [digest]
    await nameless.delete(digest)
    assert not os.listdir(tmp_path / "root/blobs/sha256")
    await host.stop(0)


async def test_a_differ_needs_a_namespace(socket, channel):
    host = await PluginHost.start("diff", socket, containerd="/no/such/socket")
    layer = Descriptor(LAYER, Digest.of(b""), 0)
    with pytest.raises(FailedPrecondition, match="namespace is required"):
        await RemoteDiff(channel, "", "").apply(layer, [])
    with pytest.raises(PortsideError):
        await RemoteDiff(channel, "default", "").apply(layer, [])
    await host.stop(0)
