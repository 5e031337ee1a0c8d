"""One examination of a root, and its repair: the order in which the parts of this package are asked."""

from __future__ import annotations

import asyncio
from itertools import chain
from pathlib import Path

from portside.content.blobs import BlobStore
from portside.core.plugin import CONTENT, METADATA, SNAPSHOTTER
from portside.doctor import live
from portside.doctor.layers import read_documents
from portside.doctor.owners import Owners
from portside.doctor.rebuild import rebuild
from portside.doctor.records import Records, read_records
from portside.doctor.repair import Repair, drivers_of
from portside.doctor.report import Finding, Progress, Report, ignore
from portside.doctor.survey import Survey
from portside.doctor.upstream import METADATA as UPSTREAM
from portside.doctor.verify import verify_content, verify_layers
from portside.engine.ownership import RootLock, RootLocked
from portside.errors import DataLoss, FailedPrecondition, NotFound
from portside.oci.digest import Digest
from portside.registry.client import Registry
from portside.registry.credentials import DockerCredentials
from portside.registry.endpoints import RegistryConfig


async def examine(
    root: Path, state_directory: Path | None, *, verify: bool = False, repair: bool = False,
    registry: Registry | None = None, progress: Progress = ignore,
) -> Report:  # fmt: skip
    """Look at ``root``, with ``verify`` also into every file; with ``repair`` mend it, and look again.

    ``state_directory`` is where the root's tasks are, None if that is not known. Read-only beside a daemon that has the
    root: then ``repair`` is FailedPrecondition, as are a containerd's root and the database of a newer portside.
    NotFound if it is no root.
    """
    if not any((root / name).exists() for name in ("lock", f"{CONTENT}.content", f"{METADATA}.sqlite")):
        raise NotFound(f"root {root}: it is not there, or not a root of portside's")
    if (root / UPSTREAM).exists() and not (root / f"{METADATA}.sqlite").exists():
        raise FailedPrecondition(f"root {root}: it is containerd's; portside migrate --from {root} takes it over")
    try:
        lock = RootLock(root, "")
    except RootLocked as error:
        if repair:
            raise FailedPrecondition(f"repair {root}: stop its daemon first ({error})") from error
        return await _Examination(root, state_directory, True, progress).run(verify, verify)
    try:
        examination = _Examination(root, state_directory, False, progress)
        if not repair:
            return await examination.run(verify, verify)
        own = registry or Registry(RegistryConfig(credentials=DockerCredentials()))
        try:
            return await _repaired(examination, root, state_directory, verify, own, progress)
        finally:
            if registry is None:
                await own.close()
    finally:
        lock.close()


async def _repaired(
    examination: _Examination,
    root: Path,
    state_directory: Path | None,
    verify: bool,
    registry: Registry,
    progress: Progress,
) -> Report:
    """Rebuild the metadata if necessary, then mend what is found."""
    repaired: list[str] = []
    if examination.is_lost:
        done = await rebuild(root, state_directory, BlobStore(root / f"{CONTENT}.content"), drivers_of(root))
        aside = f"; the old file is {done.set_aside}" if done.set_aside else ""
        counts = ", ".join(f"{count} {table}" for table, count in done.counts.items()) or "nothing"
        repaired.append(f"rebuilt the metadata from {' and '.join(done.sources)} (from the disk: {counts}){aside}")
        examination = _Examination(root, state_directory, False, progress)
    report = await examination.run(True, verify)
    report.repaired += repaired
    if repaired:
        report.notes.append(
            "orphans were left, as what they belonged to may be lost with the records; see, and run again"
        )
    await Repair(root, state_directory, examination.records.state, report, registry, progress).run(orphans=not repaired)
    after = await _Examination(root, state_directory, False, progress).run(False, False)
    report.uses = after.uses
    known = {(finding.kind, finding.name) for finding in report.findings}
    report.findings += [finding for finding in after.findings if (finding.kind, finding.name) not in known]
    return report


class _Examination:
    """The parts of one look at a root."""

    def __init__(self, root: Path, state_directory: Path | None, running: bool, progress: Progress) -> None:
        self._root, self._state_directory, self._progress = root, state_directory, progress
        self.report = Report(str(root), running)
        self.records: Records = read_records(root)
        if self.records.problem is not None and not isinstance(self.records.problem, DataLoss):
            raise self.records.problem
        self._content = root / f"{CONTENT}.content"

    @property
    def is_lost(self) -> bool:
        """Whether there are no records though there is something that they should speak of."""
        if self.records.missing:
            things = chain((self._content / "blobs").glob("*/*"), self._root.glob(f"{SNAPSHOTTER}.*/snapshots/*"))
            return next(things, None) is not None
        return isinstance(self.records.problem, DataLoss)

    async def run(self, content: bool, layers: bool) -> Report:
        """Book every byte, compare with the records, and verify what is asked for."""
        state, report = self.records.state, self.report
        if self.records.problem is not None:
            report.findings.append(Finding("damaged metadata", str(self._root), str(self.records.problem)))
        elif self.records.missing:
            report.notes.append(f"root {self._root}: there is no database in it")
        await asyncio.to_thread(Survey(self._root, state, Owners(state), report).run)
        if self.records.problem is not None or self.is_lost:
            # Without records everything looks like nobody's; that is one finding, not a thousand.
            orphans = sum(1 for finding in report.findings if finding.kind.startswith("orphan "))
            report.findings = [each for each in report.findings if not each.kind.startswith("orphan ")]
            report.notes.append(f"{orphans} things on disk could not be told to be anybody's: the records are lost")
            if self.is_lost and self.records.problem is None:
                report.findings.append(Finding("lost metadata", str(self._root), "content, and no database"))
        else:
            await asyncio.to_thread(live.examine, self._root, self._state_directory, state, report)
        if content:
            await self._verify(layers)
        return report

    async def _verify(self, layers: bool) -> None:
        blobs = _QuietStore(self._content)
        sizes: dict[Digest, int] = dict(blobs.digests())
        corrupt = await asyncio.to_thread(verify_content, blobs, sizes, self.report, self._progress)
        if layers:
            whole = {digest: size for digest, size in sizes.items() if digest not in corrupt}
            documents = await asyncio.to_thread(read_documents, blobs, whole)
            await verify_layers(self._root, self.records.state, documents, blobs, self.report, self._progress)


class _QuietStore(BlobStore):
    """A content store for reading only: nothing is made, nothing is swept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
