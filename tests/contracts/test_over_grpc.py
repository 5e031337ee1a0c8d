"""The contracts of core/ over gRPC: the same local stores, seen through the doors and the remote implementations."""

import tempfile
from pathlib import Path

import pytest

from portside.api.containerd.methods import containerd_methods
from portside.remote.backend import RemoteBackend
from portside.wire.grpc.server import GrpcServer
from portside.wire.pb.containerd.services.namespaces.v1 import namespace_pb2
from tests.contracts.content import ContentContract
from tests.contracts.events import EventContract
from tests.contracts.local import LocalBackend
from tests.contracts.mounts import MountsContract
from tests.contracts.records import ContainerContract, ImageContract, LeaseContract, NamespaceContract
from tests.contracts.sandboxes import OurSandboxStoreContract
from tests.contracts.snapshotter import OurSnapshotterContract

NAMESPACES = "/containerd.services.namespaces.v1.Namespaces"


@pytest.fixture
async def backend(tmp_path):
    local = LocalBackend(tmp_path)
    server = GrpcServer(containerd_methods(local))
    with tempfile.TemporaryDirectory(prefix="portside") as short:
        await server.listen_unix(str(Path(short, "socket")))
        async with await RemoteBackend.connect(str(Path(short, "socket"))) as remote:
            remote.root, remote.targets, remote.files = local.root, local.targets, local.files
            yield remote
        await server.drain(5)
    await local.close()


@pytest.fixture(params=["native", "overlayfs"])
def snapshotter_name(request):
    return request.param


class TestContent(ContentContract):
    # A reader is a series of calls, each of which names the blob anew.
    test_an_open_reader_outlives_deletion = None
    # The protocol can only begin again at 0.
    test_truncate_and_write_something_else = None
    test_what_another_namespace_has_may_be_written_all_the_same = None
    # What is sent after the end of the call goes nowhere.
    test_a_closed_writer_writes_nothing = None


class TestImages(ImageContract):
    pass


class TestContainers(ContainerContract):
    pass


class TestLeases(LeaseContract):
    pass


class TestNamespaces(NamespaceContract):
    async def test_one_to_come_has_no_labels(self, backend):
        """Go's client looks there for the default snapshotter before it makes a first object, and ends at an error."""
        request = namespace_pb2.GetNamespaceRequest(name="to-come")
        answer = await backend.channel.unary(f"{NAMESPACES}/Get", request, namespace_pb2.GetNamespaceResponse)
        assert answer.namespace == namespace_pb2.Namespace(name="to-come")

    @pytest.mark.parametrize("labels", [{"c": "d"}, {}])
    async def test_an_update_without_mask_replaces_all_labels(self, backend, store, labels):
        await store.create("mine", {"a": "b"})
        request = namespace_pb2.UpdateNamespaceRequest(namespace=namespace_pb2.Namespace(name="mine", labels=labels))
        await backend.channel.unary(f"{NAMESPACES}/Update", request, namespace_pb2.UpdateNamespaceResponse)
        assert await store.labels("mine") == labels


class TestSnapshotter(OurSnapshotterContract):
    pass


class TestEvents(EventContract):
    pass


class TestSandboxes(OurSandboxStoreContract):
    pass


class TestMounts(MountsContract):
    def targets(self, backend):
        return str(backend.targets)

    def root(self, backend):
        return str(backend.files)
