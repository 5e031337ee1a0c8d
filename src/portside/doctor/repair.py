"""Mending a root that nobody has open: what an examination found is removed, fetched again, or made again.

In order: orphans; content, from the registries that its labels or the names of its images tell; snapshots, from their
layers; last, records that nothing can be done for, so that a pull brings the thing back. Files of a container that are
lost are lost: that is told, not covered up. Every step that fails is told, too, and keeps no other from being tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from portside.content.blobs import BlobStore
from portside.core.labels import DISTRIBUTION_SOURCE
from portside.core.plugin import CONTENT, SNAPSHOTTER
from portside.core.snapshots import Kind
from portside.doctor.layers import Documents, read_documents
from portside.doctor.live import bundles_of
from portside.doctor.owners import Owners
from portside.doctor.records import database
from portside.doctor.report import Finding, Progress, Report
from portside.doctor.verify import delete, parents_of, unpacked
from portside.errors import AlreadyExists, DataLoss, NotFound, PortsideError, from_oserror
from portside.linux import mount
from portside.linux.sync import sync_file_system
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import CONTENT as CONTENT_TABLE
from portside.metadata.schema import IMAGES, INGESTS, SNAPSHOTS
from portside.metadata.snapshots import facts_of
from portside.metadata.state import State
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry.client import Registry
from portside.snapshots.directories import DirectoryDriver
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver
from portside.supervisor import leftovers

_BLOB = "application/octet-stream"
MAX_SOURCES = 8
"""Repositories that are tried for one blob."""


def drivers_of(root: Path) -> dict[str, DirectoryDriver]:
    """The drivers whose snapshots are directories; making them creates theirs, and puts half-made snapshots aside."""
    return {
        "overlayfs": OverlayDriver(root / f"{SNAPSHOTTER}.overlayfs"),
        "native": NativeDriver(root / f"{SNAPSHOTTER}.native"),
    }


class Repair:
    """Mends what ``report`` found in ``root``, with the records ``state``, and notes there what it did."""

    def __init__(
        self,
        root: Path,
        state_directory: Path | None,
        state: State,
        report: Report,
        registry: Registry,
        progress: Progress,
    ) -> None:
        self._root, self._state_directory, self._state = root, state_directory, state
        self._report, self._registry, self._progress = report, registry, progress
        self._blobs = BlobStore(root / f"{CONTENT}.content")
        self._drivers = drivers_of(root)
        self._owners = Owners(state)

    async def run(self, *, orphans: bool) -> None:
        """All of it, ``orphans`` if they may go; what could be mended is no longer among the findings."""
        findings, self._report.findings = self._report.findings, []
        strange = any(finding.kind == "task without container" for finding in findings)
        for finding in findings:
            if not finding.kind.startswith("orphan "):
                continue
            if not orphans:
                self._report.findings.append(finding)
            elif strange and finding.kind == "orphan snapshot":
                self._failed(finding, "a task without a container runs, and may stand on it")
            else:
                self._try(finding)
        for driver in self._drivers.values():
            driver.sweep()
        lost = await self._content([each for each in findings if each.kind in ("missing blob", "corrupt blob")])
        broken = [each for each in findings if each.kind in ("missing snapshot", "damaged snapshot")]
        lost += await self._snapshots(broken)
        lost += [each for each in findings if each.kind in ("missing ingest", "broken snapshot")]
        await self._forget(lost)
        mended = ("orphan ", "missing ", "corrupt ", "damaged ", "broken snapshot")
        self._report.findings += [each for each in findings if not each.kind.startswith(mended)]

    def _done(self, what: str) -> None:
        self._report.repaired.append(what)

    def _failed(self, finding: Finding, error: Exception | str) -> None:
        self._report.failed.append(f"{finding.kind} {finding.name}: {error}")
        self._report.findings.append(finding)

    def _try(self, finding: Finding) -> None:
        try:
            self._remove(finding)
        except OSError as error:
            self._failed(finding, from_oserror(error, finding.path))
        except (PortsideError, TimeoutError) as error:
            self._failed(finding, error)

    # Orphans.

    def _remove(self, finding: Finding) -> None:
        kind, path = finding.kind, finding.path
        if kind == "orphan blob":
            self._blobs.remove(finding.subject)
        elif kind == "orphan snapshot" and finding.subject is not None and finding.subject[0] in self._drivers:
            self._drivers[finding.subject[0]].remove(finding.subject[1])
        elif kind == "orphan mount":
            mount.umount2(path, mount.UMOUNT_NOFOLLOW | mount.MNT_DETACH)
        elif kind == "orphan cgroup":
            leftovers.clean(finding.subject)
        elif kind == "orphan bundle" and self._state_directory is not None:
            bundles_of(self._root, self._state_directory).remove(finding.subject)
        elif kind == "orphan socket":
            Path(path).unlink(missing_ok=True)  # it goes with its bundle
        else:
            delete(Path(path))
        self._done(f"removed {kind.removeprefix('orphan ')} {finding.name}")

    # Content.

    async def _content(self, findings: list[Finding]) -> list[Finding]:
        """Fetch again; those that could not be had."""
        if not findings:
            return []
        documents = read_documents(self._blobs, dict(self._blobs.digests()))
        lost: list[Finding] = []
        fetched: dict[Digest, bool] = {}
        for count, finding in enumerate(findings):
            self._progress("fetching", count, len(findings))
            digest = finding.subject
            if digest not in fetched:
                try:
                    source = await self._fetch(digest, documents)
                    self._done(f"fetched blob {digest} from {source}")
                    fetched[digest] = True
                except (PortsideError, OSError) as error:
                    self._report.failed.append(f"fetch blob {digest}: {error}")
                    fetched[digest] = False
            if not fetched[digest]:
                lost.append(finding)
        return lost

    async def _fetch(self, digest: Digest, documents: Documents) -> str:
        size = self._size(digest)
        if size is None:
            raise NotFound("no record tells its size")
        known = documents.descriptors.get(digest) or self._target(digest)
        kinds = [known.media_type] if known is not None else [_BLOB, MANIFEST]
        sources = list(self._sources(digest))[:MAX_SOURCES]
        failure: PortsideError = NotFound("neither its labels nor the names of images tell where it came from")
        for reference in sources:
            for media_type in kinds:
                urls = known.urls if known is not None else ()
                try:
                    await self._download(reference, Descriptor(media_type, digest, size, urls=urls))
                    return reference.name
                except PortsideError as error:
                    failure = error
        raise failure

    async def _download(self, reference: Reference, descriptor: Descriptor) -> None:
        """Into an ingest; what is there in its place goes only once this is known to be right."""
        digest = descriptor.digest
        ingest = self._blobs.ingest(f"doctor/{digest}", 0, str(digest))
        try:
            ingest.truncate(0)
            async for part in self._registry.fetch(reference, descriptor):
                ingest.write(part)
            if ingest.digest(digest.algorithm) != digest:
                raise DataLoss(f"{reference.name} sends something else than {digest}")
            self._blobs.remove(digest)
            with contextlib.suppress(AlreadyExists):
                ingest.commit(descriptor.size, digest)
        finally:
            ingest.close()
            with contextlib.suppress(NotFound):
                self._blobs.abort(ingest.key)

    def _sources(self, digest: Digest) -> Iterator[Reference]:
        """Repositories that have it, or had: by names of images, which tell a registry's port, then by labels."""
        seen = set()
        for name in self._owners.images_of(digest):
            with contextlib.suppress(PortsideError):
                reference = Reference.parse(name)
                if reference.name not in seen:
                    seen.add(reference.name)
                    yield Reference(reference.host, reference.path, digest=digest)
        for scope in self._state.scopes(CONTENT_TABLE):
            info = self._state.get(CONTENT_TABLE, scope, digest)
            for label, value in (info.labels if info is not None else {}).items():
                if not label.startswith(DISTRIBUTION_SOURCE):
                    continue
                for path in value.split(","):
                    name = f"{label.removeprefix(DISTRIBUTION_SOURCE)}/{path}"
                    with contextlib.suppress(PortsideError):
                        reference = Reference.parse(name)
                        if name not in seen:
                            seen.add(name)
                            yield Reference(reference.host, reference.path, digest=digest)

    def _size(self, digest: Digest) -> int | None:
        for scope in self._state.scopes(CONTENT_TABLE):
            if (info := self._state.get(CONTENT_TABLE, scope, digest)) is not None:
                return info.size
        return None

    def _target(self, digest: Digest) -> Descriptor | None:
        for scope in self._state.scopes(IMAGES):
            for image in self._state.rows(IMAGES, scope).values():
                if image.target.digest == digest:
                    return image.target
        return None

    # Snapshots.

    async def _snapshots(self, findings: list[Finding]) -> list[Finding]:
        """Unpack again, parents first; those that could not be made again."""
        documents = read_documents(self._blobs, dict(self._blobs.digests())) if findings else Documents()
        lost = []
        for count, finding in enumerate(sorted(findings, key=self._depth)):
            self._progress("unpacking", count, len(findings))
            try:
                await self._unpack(finding, documents)
                self._done(f"unpacked snapshot {finding.name} again")
            except (PortsideError, OSError) as error:
                self._report.failed.append(f"snapshot {finding.name}: {error}")
                lost.append(finding)
        return lost

    def _depth(self, finding: Finding) -> int:
        *scope, key = finding.subject
        try:
            return len(list(parents_of(self._state, tuple(scope), key)))
        except NotFound:
            return 0

    async def _unpack(self, finding: Finding, documents: Documents) -> None:
        *head, key = finding.subject
        scope = tuple(head)
        snapshot = self._state.get(SNAPSHOTS, scope, key)
        layer = documents.chains.get(key)
        if snapshot is None or snapshot.info.kind != Kind.COMMITTED or layer is None:
            raise DataLoss("it is no layer of an image that is here: its files are lost")
        async with unpacked(self._root, self._state, scope, snapshot, layer, self._blobs, self._root) as fresh:
            sync_file_system(fresh.files)

            def fill(new: Path) -> None:
                fresh.files.rename(new / "fs")

            driver = self._drivers[scope[1]]
            driver.make(snapshot.number, fill)
            driver.remember(snapshot.number, facts_of(scope[0], snapshot.info))

    # Records.

    async def _forget(self, findings: list[Finding]) -> None:
        """Remove the records of what is lost, so that it can be had again; not those that containers stand on."""
        if not findings:
            return
        db = Database.open(database(self._root))
        try:
            for finding in findings:
                try:
                    await db.write(lambda tx, finding=finding: _forget(tx, finding))  # type: ignore[misc]
                    self._done(
                        f"removed the record of {finding.kind.partition(' ')[2]} {finding.name}: {finding.detail}"
                    )
                    if finding.kind == "corrupt blob":
                        self._blobs.remove(finding.subject)
                except PortsideError as error:
                    self._failed(finding, error)
        finally:
            await db.close()


def _forget(tx: Transaction, finding: Finding) -> None:
    if finding.kind in ("missing blob", "corrupt blob"):
        for scope in tx.state.scopes(CONTENT_TABLE):
            tx.delete(CONTENT_TABLE, scope, finding.subject)
    elif finding.kind == "missing ingest":
        tx.delete(INGESTS, (finding.subject[0],), finding.subject[1])
    else:
        *scope, key = finding.subject
        if tx.state.children(tuple(scope), key):
            raise DataLoss(
                "its files are lost, and other snapshots stand on it; remove those, then pull the image again"
            )
        tx.delete(SNAPSHOTS, tuple(scope), key)
