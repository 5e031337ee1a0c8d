"""The contracts of core/ over the local stores."""

import pytest

from tests.contracts.content import ContentContract
from tests.contracts.events import EventContract
from tests.contracts.local import LocalBackend
from tests.contracts.mounts import MountsContract
from tests.contracts.records import ContainerContract, ImageContract, LeaseContract, NamespaceContract
from tests.contracts.sandboxes import OurSandboxStoreContract
from tests.contracts.snapshotter import OurSnapshotterContract


@pytest.fixture
async def backend(tmp_path):
    backend = LocalBackend(tmp_path)
    yield backend
    await backend.close()


@pytest.fixture(params=["native", "overlayfs"])
def snapshotter_name(request):
    return request.param


class TestContent(ContentContract):
    pass


class TestImages(ImageContract):
    pass


class TestContainers(ContainerContract):
    pass


class TestLeases(LeaseContract):
    pass


class TestNamespaces(NamespaceContract):
    pass


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
