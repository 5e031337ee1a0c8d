"""The contracts of core/ against the real thing: containerd, Debian's and a newer one, by our remote half.

What they answer otherwise stands in ``DIFFERENT``, test by test, and for people in docs/status.md. Mounts are not
here: containerd has that service from 2.2 on only.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from portside.errors import NotFound, Unknown
from portside.remote.backend import RemoteBackend
from tests.contracts.backend import BackendContract, clear
from tests.contracts.content import ContentContract
from tests.contracts.events import EventContract
from tests.contracts.records import ContainerContract, ImageContract, LeaseContract, NamespaceContract
from tests.contracts.sandboxes import SandboxStoreContract
from tests.contracts.snapshotter import SnapshotterContract
from tests.support.containerd import NEWER, containerd

pytestmark = pytest.mark.root

PROGRAMS = {"debian": "containerd", "newer": NEWER}
BOTH = tuple(PROGRAMS)
CALM = """
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
pause_threshold = 0.000001
mutation_threshold = 1000000000
"""
"""Nothing that a test makes without a lease is collected under its hands: one collection is asked for after each test,
and the threshold puts the next one off by a million times as long as that one took."""

OLDER = ("debian",)
NEW = ("newer",)
UNKNOWN = "refused with the code Unknown"
NO_LIMIT = "takes any length"
DIFFERENT: dict[str, tuple[tuple[str, ...], str]] = {
    "TestContent.test_other_algorithms": (BOTH, "ingests are sha256 alone"),
    "TestContent.test_a_status_tells_what_is_expected": (BOTH, "keeps it and does not tell"),
    "TestContent.test_a_label_without_a_name": (BOTH, UNKNOWN),
    "TestContent.test_odd_refs[long]": (BOTH, NO_LIMIT),
    "TestImages.test_delete_of_another_target": (OLDER, "the request has no target before 2.0"),
    "TestContent.test_what_is_being_written_is_not_aborted": (BOTH, "takes it away under the writer"),
    "TestContent.test_an_ingest_keeps_its_total": (BOTH, "takes the new total"),
    "TestImages.test_odd_images[long name]": (BOTH, NO_LIMIT),
    "TestContainers.test_one_of_a_sandbox": (OLDER, "records have no sandbox before 1.7"),
    "TestContainers.test_odd_containers[spec]": (NEW, "takes a container without a spec, which no shim can start"),
    "TestContainers.test_an_update_must_leave_a_good_record[spec]": (NEW, "takes the spec away"),
    "TestContainers.test_an_extension_that_is_named_and_not_given_goes": (BOTH, "makes an empty one of it"),
    "TestContainers.test_an_update_of_extensions_replaces_them": (BOTH, "answers so, and keeps the others"),
    "TestContainers.test_a_path_with_an_underscore": (BOTH, "knows snapshotkey alone"),
    "TestLeases.test_odd_leases": (BOTH, "leases have no limits"),
    "TestLeases.test_a_resource_without_an_id": (BOTH, UNKNOWN),
    "TestNamespaces.test_odd_names[version]": (BOTH, UNKNOWN),
    "TestNamespaces.test_a_label_that_is_too_long": (BOTH, UNKNOWN),
    "TestSnapshotter.test_only_active_ones_are_committed[native-view]": (BOTH, UNKNOWN),
    "TestSnapshotter.test_keys_that_are_not_allowed[native-empty]": (BOTH, UNKNOWN),
    "TestSnapshotter.test_keys_that_are_not_allowed[overlayfs-empty]": (BOTH, UNKNOWN),
    "TestSnapshotter.test_keys_that_are_not_allowed[native-long]": (BOTH, NO_LIMIT),
    "TestSnapshotter.test_keys_that_are_not_allowed[overlayfs-long]": (BOTH, NO_LIMIT),
    "TestSnapshotter.test_the_filter_for_a_parent": (BOTH, "matches those without one, too"),
    "TestEvents.test_namespaces_tell_what_changed": (OLDER, "tells it in the namespace of who asked"),
    "TestEvents.test_the_content_store_tells_what_comes_and_goes": (OLDER, "tells of deletions alone"),
    "TestEvents.test_snapshotters_tell_what_they_did": (OLDER, "does not tell which snapshotter"),
    "TestEvents.test_an_envelope_without_a_time": (BOTH, "takes it for one of 1970"),
    "TestEvents.test_a_filter_that_cannot_be_read": (BOTH, UNKNOWN),
}
"""Tests that containerd does not pass: by which, and why. One that is passed all the same fails."""


@pytest.fixture(scope="module", params=BOTH)
def peer(request):
    """Its name and its socket; one server for all tests, each of which leaves it empty."""
    if request.param == "newer" and not os.path.exists(NEWER):
        pytest.skip("needs the newer containerd that script/peers makes")
    with (
        tempfile.TemporaryDirectory(prefix="portside") as short,
        containerd(Path(short), CALM, program=PROGRAMS[request.param]) as path,
    ):
        yield request.param, str(path)


@pytest.fixture
async def backend(request, peer):
    name, address = peer
    expect(request, name)
    async with await RemoteBackend.connect(address) as remote:
        yield remote
    async with await RemoteBackend.connect(address) as remote:  # what the first one left open is closed by now
        await empty(remote)


def expect(request, name):
    """Mark a test of ``DIFFERENT``, which names it with the case or as a whole."""
    test = request.node.name.replace(f"{name}-", "").replace(f"-{name}", "").replace(f"[{name}]", "")
    for key in (f"{request.cls.__name__}.{test}", f"{request.cls.__name__}.{request.node.originalname}"):
        peers, reason = DIFFERENT.get(key, ((), ""))
        if name in peers:
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


async def empty(remote):
    """Remove everything of every namespace, and collect: blobs would be found again by the next test."""
    for name in await remote.namespaces.list():
        await clear(remote, remote.bind(name))
    leases = remote.bind("last").leases
    await leases.create("last")
    await leases.delete("last", sync=True)
    try:
        await remote.namespaces.delete("last")
    except NotFound:
        pass


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
    pass


class TestSnapshotter(SnapshotterContract):
    pass


class TestEvents(EventContract):
    pass


class TestSandboxes(SandboxStoreContract):
    @pytest.fixture
    async def store(self, peer, backend):
        if peer[0] == "debian":
            pytest.skip("containerd has sandboxes from 1.7 on")
        store = backend.bind(self.namespace).sandboxes
        yield store
        for sandbox in await store.list():
            await store.delete(sandbox.id)


class TestTogether(BackendContract):
    still_running = Unknown
