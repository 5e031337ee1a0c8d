"""The metadata of a root as a whole: gives out the stores of each namespace, and collects garbage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portside.content.driver import BlobDriver
from portside.core.foreign import ForeignSnapshotter
from portside.core.snapshots import SnapshotDriver
from portside.errors import InvalidArgument
from portside.metadata.background import Background
from portside.metadata.backups import BackupConfig
from portside.metadata.blobs import BlobKeeper
from portside.metadata.containers import Containers
from portside.metadata.content import Content
from portside.metadata.database import Database
from portside.metadata.foreign import ForeignKeeper, ForeignSnapshots
from portside.metadata.gc import Collector, Report
from portside.metadata.images import Images
from portside.metadata.leases import Leases
from portside.metadata.mounts import Mounts
from portside.metadata.namespaces import Namespaces
from portside.metadata.sandboxes import Sandboxes
from portside.metadata.snapshots import SnapshotKeeper, Snapshots
from portside.metadata.troubles import Troubles

SHARING = ("shared", "isolated")


@dataclass(frozen=True, slots=True)
class MetadataConfig(BackupConfig):
    """The plugin's table."""

    content_sharing_policy: str = "shared"
    """One of ``SHARING``: whether a namespace gets a blob that another one has without writing it."""

    def is_isolated(self) -> bool:
        """InvalidArgument for a policy that is none."""
        if self.content_sharing_policy not in SHARING:
            raise InvalidArgument(
                f"content_sharing_policy {self.content_sharing_policy!r}: want one of {', '.join(SHARING)}"
            )
        return self.content_sharing_policy == "isolated"


class Metadata:
    """Stores over one database, one blob store and the snapshot drivers; none of which it closes.

    ``emit(namespace, topic, type_name, fields)`` is called on the event loop for each event, after the change it
    tells of is on disk and visible. Stores are cheap: make one per call. Where namespaces are ``isolated``, none gets a
    blob without writing it just because another one has it.
    """

    def __init__(
        self,
        db: Database,
        blobs: BlobDriver,
        drivers: Mapping[str, SnapshotDriver | ForeignSnapshotter],
        emit: Callable[[str, str, str, Mapping[str, Any]], None] | None = None,
        *,
        isolated: bool = False,
    ) -> None:
        self.db = db
        if emit is not None:
            db.emit = emit
        self._background = Background()
        self._blobs = BlobKeeper(db, blobs, self._background, isolated=isolated)
        self._snapshotters: dict[str, SnapshotKeeper | ForeignKeeper] = {
            name: ForeignKeeper(db, driver, self._background)
            if isinstance(driver, ForeignSnapshotter)
            else SnapshotKeeper(db, name, driver, self._background)
            for name, driver in drivers.items()
        }
        self.collector = Collector(db, self._background, self._is_open, self._free)
        self.troubles = Troubles()
        """What collections could not free."""
        for keeper in self._snapshotters.values():
            if isinstance(keeper, SnapshotKeeper):
                keeper.stumbled = self.troubles.wake
        self.namespaces = Namespaces(db)
        self.release_mounts: Callable[[Sequence[int]], Awaitable[list[str]]] | None = None
        """Undoes the activated mounts of these numbers, whose records a collection has removed; what it could not."""

    @property
    def uuid(self) -> str:
        """The identity of this root."""
        return self.db.uuid

    @property
    def snapshotters(self) -> Collection[str]:
        """The names of those that there are."""
        return self._snapshotters

    def content(self, namespace: str, lease: str = "") -> Content:
        """The blobs of ``namespace``."""
        return Content(self._blobs, namespace, lease)

    def images(self, namespace: str) -> Images:
        """The images of ``namespace``."""
        return Images(self.db, namespace, self.collect)

    def containers(self, namespace: str) -> Containers:
        """The containers of ``namespace``."""
        return Containers(self.db, namespace)

    def leases(self, namespace: str) -> Leases:
        """The leases of ``namespace``."""
        return Leases(self.db, namespace, self.collect)

    def sandboxes(self, namespace: str) -> Sandboxes:
        """The sandboxes of ``namespace``."""
        return Sandboxes(self.db, namespace)

    def mounts(self, namespace: str, lease: str = "") -> Mounts:
        """The records of activated mounts of ``namespace``."""
        return Mounts(self.db, namespace, lease)

    def snapshotter(self, namespace: str, name: str, lease: str = "") -> Snapshots:
        """The snapshots of ``namespace`` in the snapshotter ``name``; InvalidArgument if there is none of that name."""
        keeper = self._snapshotters.get(name)
        if keeper is None:
            raise InvalidArgument(f"snapshotter {name!r}: there is none of this name")
        if isinstance(keeper, ForeignKeeper):
            return ForeignSnapshots(keeper, namespace, lease)
        return Snapshots(keeper, namespace, lease)

    def is_foreign(self, name: str) -> bool:
        """Whether somebody else serves the snapshotter ``name``."""
        return isinstance(self._snapshotters.get(name), ForeignKeeper)

    async def collect(self, urgent: bool = True) -> Report:
        """Remove all garbage: records, and what they stood for on disk; unless ``urgent`` the young is spared."""
        return await self.collector.collect(urgent)

    async def reconcile(self) -> None:
        """After a start: find what a crash left on disk without a record, and remove it. Slow; in the background."""
        for keeper in self._snapshotters.values():
            keeper.reconcile()
        await self._blobs.reconcile()
        await self.free()

    async def free(self) -> None:
        """Try again what could not be freed; ``troubles`` tells what is left."""
        await self._background.finish(self._free(Report(), urgent=False))

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._background.close()

    def _is_open(self, namespace: str, ref: str) -> bool:
        return (namespace, ref) in self._blobs.open_refs

    async def _free(self, report: Report, urgent: bool) -> None:
        failures = []
        if self.release_mounts is not None:  # First, since they stand on snapshots.
            failures += await self.release_mounts(report.mounts)
        for name, numbers in report.numbers.items():
            if name in self._snapshotters:
                self._snapshotters[name].forget(numbers)
        for keeper in self._snapshotters.values():
            failures += await keeper.collect()
        failures += await self._blobs.collect()
        for keeper in self._snapshotters.values():
            if urgent and isinstance(keeper, SnapshotKeeper):
                await keeper.swept()
        report.failures = failures
        self.troubles.update(failures)
