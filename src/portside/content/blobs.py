"""Blobs and ingests on disk, laid out as containerd's content store. Synchronous: called in worker threads.

    <root>/blobs/<algorithm>/<hex>       a blob, 0444, complete and synced before it has this name
    <root>/ingest/<sha256 of the key>/   an ingest, whose key its owner chooses
        data                             what is written so far
        ref startedat total              the key, RFC 3339 time, decimal size (0: unknown)
    <root>/ingest/.new-… .old-…          an ingest being made or removed: rubbish after a crash, swept at the next start

A key is locked by the one ``Ingest`` that is open for it; locks are in memory, since a root has one owner. Commit:
the data are checked, synced, renamed to the blob's name, and the directory synced; a crash before that leaves the
ingest, to be resumed or aborted. Links are never followed: a name that is a symbolic link does not exist for us.
Who may see a blob, and when it goes, is not known here (``metadata/``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from portside.content.driver import IngestFacts
from portside.content.reader import Reader
from portside.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    from_oserror,
)
from portside.oci.digest import Digest

log = logging.getLogger(__name__)

_HASHING = 1 << 20
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_ALGORITHMS = ("sha256", "sha384", "sha512")


class BlobStore:
    """The blobs below ``root``. Making one creates the directories and sweeps what a crash left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"
        self._lock = threading.Lock()
        self._open_keys: set[str] = set()
        self._serial = 0
        try:
            for directory in (root, self._blobs, self._blobs / "sha256", self._ingests):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self._blobs, root):
                _sync_directory(directory)
        except OSError as error:
            raise from_oserror(error, f"content store {root}: create") from error
        self.sweep()

    # Blobs.

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes; None if it is not here."""
        try:
            status = os.lstat(self.path(digest))
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, digest: Digest) -> tuple[int, int]:
        """A descriptor for reading, which the caller closes, and the size. NotFound; DataLoss for what is no file."""
        try:
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_NONBLOCK | _OPEN)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise DataLoss(f"blob {digest}: its file is a symbolic link") from error
            raise from_oserror(error, f"open blob {digest}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise DataLoss(f"blob {digest}: its file is not a regular file")
        return descriptor, status.st_size

    def reader(self, digest: Digest, size: int) -> Reader:
        """Open for reading, whatever ``size`` is expected; as ``open``."""
        return Reader(*self.open(digest), f"blob {digest}")

    def pieces(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes of a blob; as ``open``."""
        descriptor, _ = self.open(digest)
        try:
            offset = 0
            while offset < size and (data := os.pread(descriptor, min(_HASHING, size - offset), offset)):
                yield data
                offset += len(data)
        finally:
            os.close(descriptor)

    def remove(self, digest: Digest) -> None:
        """Delete a blob; missing is fine."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_oserror(error, f"remove blob {digest}") from error

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All blobs with their sizes, in no order; files with odd names are passed over."""
        for algorithm in _ALGORITHMS:
            with contextlib.suppress(FileNotFoundError), os.scandir(self._blobs / algorithm) as entries:
                for entry in entries:
                    with contextlib.suppress(InvalidArgument, FileNotFoundError):
                        digest = Digest.parse(f"{algorithm}:{entry.name}")
                        if entry.is_file(follow_symlinks=False):
                            yield digest, entry.stat(follow_symlinks=False).st_size

    # Ingests.

    def ingest(self, key: str, total: int = 0, what: str = "") -> Ingest:
        """Open or resume the ingest ``key``; the caller closes or commits it.

        ``what`` names it in errors (a digest or a ref; ``key`` without one). Resuming reads the data again to hash
        them. Unavailable if it is open already; FailedPrecondition if it was begun with another ``total``;
        ResourceExhausted if the disk is full.
        """
        with self._lock:
            if key in self._open_keys:
                raise Unavailable(f"ingest {what or key}: its ref is locked by another writer")
            self._open_keys.add(key)
        try:
            ingest = Ingest(self, key, self._prepare(key, total), what or key)
        except OSError as error:
            self._unlock(key)
            raise from_oserror(error, f"open ingest {what or key}") from error
        except BaseException:
            self._unlock(key)
            raise
        if total and ingest.total and ingest.total != total:
            ingest.close()
            raise FailedPrecondition(f"ingest {what or key}: begun with a total of {ingest.total} bytes, not {total}")
        return ingest

    def facts(self, key: str) -> IngestFacts:
        """Where an ingest stands; NotFound."""
        directory = self._directory(key)
        try:
            data = os.lstat(directory / "data")
            total = int(_read_text(directory / "total") or 0)
            started_ns = _parse_time(_read_text(directory / "startedat"))
            # The clock of file systems is a coarse one and may lag behind.
            return IngestFacts(key, data.st_size, total, started_ns, max(started_ns, data.st_mtime_ns))
        except (OSError, ValueError) as error:
            raise NotFound(f"ingest {key}: not found") from error

    def keys(self) -> list[str]:
        """The keys of all ingests on disk."""
        found = []
        for entry in os.scandir(self._ingests):
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError, ValueError):
                    key = _read_text(Path(entry.path) / "ref")
                    if self._directory(key).name == entry.name:
                        found.append(key)
        return found

    def is_open(self, key: str) -> bool:
        """Whether someone writes it now."""
        return key in self._open_keys

    def abort(self, key: str) -> None:
        """Remove an ingest; NotFound if it is not there, Unavailable while it is open."""
        with self._lock:
            if key in self._open_keys:
                raise Unavailable(f"ingest {key}: its ref is locked by a writer")
            self._discard(key)

    def sweep(self) -> None:
        """Delete leftovers of a crash: half-made and half-removed ingests, and ingests without data or name."""
        for entry in list(os.scandir(self._ingests)):
            if entry.name.startswith(".") or not _is_whole(Path(entry.path)):
                log.info("content store: sweeping the leftover %s", entry.path)
                _delete(Path(entry.path))

    def _directory(self, key: str) -> Path:
        return self._ingests / hashlib.sha256(key.encode()).hexdigest()

    def _prepare(self, key: str, total: int) -> Path:
        """The directory of an ingest, made if it is not there: complete under a private name, then renamed."""
        directory = self._directory(key)
        if _is_whole(directory):
            return directory
        _delete(directory)
        private = self._private(".new-", directory)
        try:
            private.mkdir(mode=0o700)
            _write_text(private / "ref", key)
            _write_text(private / "startedat", datetime.now(UTC).isoformat().replace("+00:00", "Z"))
            _write_text(private / "total", str(total))
            _write_text(private / "data", "")
            private.rename(directory)
        except OSError:
            _delete(private)
            raise
        return directory

    def _private(self, prefix: str, directory: Path) -> Path:
        self._serial += 1
        return self._ingests / f"{prefix}{directory.name[:16]}-{self._serial}"

    def _discard(self, key: str) -> None:
        """Take an ingest out of sight, then delete it; NotFound."""
        directory = self._directory(key)
        aside = self._private(".old-", directory)
        try:
            directory.rename(aside)
        except OSError as error:
            raise from_oserror(error, f"abort ingest {key}") from error
        _delete(aside)

    def _unlock(self, key: str) -> None:
        with self._lock:
            self._open_keys.discard(key)

    def _publish(self, data: Path, digest: Digest) -> bool:
        """Give ``data`` the blob's name, durably; False if there is such a blob already.

        One of another size is not that blob, whatever made it so (a crash of the machine), and is replaced.
        """
        target = self.path(digest)
        with self._lock:
            if self.size(digest) == os.lstat(data).st_size:
                return False
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700)
                _sync_directory(self._blobs)
            if target.is_dir() and not target.is_symlink():
                _delete(target)
            os.rename(data, target)
        _sync_directory(target.parent)
        return True


class Ingest:
    """The one writer of an ingest. One thread at a time; ``close`` keeps it for later, ``commit`` ends it."""

    is_local = True

    def __init__(self, store: BlobStore, key: str, directory: Path, what: str) -> None:
        self._store, self.key, self._directory, self._what = store, key, directory, what
        self._descriptor = os.open(directory / "data", os.O_RDWR | _OPEN, 0o600)
        try:
            facts = store.facts(key)
            self.total, self.started_ns, self.updated_ns = facts.total, facts.started_ns, facts.updated_ns
            self.offset, self._hash = 0, hashlib.sha256()
            self._rehash(facts.offset)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append ``data``. After an error (ResourceExhausted: disk full) the ingest is as it was before."""
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], self.offset + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.offset)
            raise from_oserror(error, f"write blob {self._what}") from error
        self._hash.update(view)
        self.offset += len(view)
        self.updated_ns = time.time_ns()

    def truncate(self, size: int) -> None:
        """Go back to ``size`` bytes; OutOfRange beyond what is written."""
        if not 0 <= size <= self.offset:
            raise OutOfRange(f"truncate blob {self._what} to {size}: {self.offset} bytes are written")
        descriptor = self._fd
        if size == self.offset:
            return
        try:
            os.ftruncate(descriptor, size)
            self._rehash(size)
        except OSError as error:
            raise from_oserror(error, f"truncate blob {self._what}") from error

    def digest(self, algorithm: str = "sha256") -> Digest:
        """Of what is written; other algorithms than sha256 read the data again."""
        if algorithm == "sha256":
            return Digest("sha256:" + self._hash.hexdigest())
        return Digest(f"{algorithm}:{self._hashed(hashlib.new(algorithm), self.offset).hexdigest()}")

    def commit(self, size: int = 0, expected: Digest | None = None) -> Digest:
        """Make it a blob, on disk on return, and close. FailedPrecondition if it is not what was expected.

        AlreadyExists if there is such a blob; the ingest is gone then, too. After any other error it is still
        there, closed, to be resumed or aborted.
        """
        try:
            if size and size != self.offset:
                raise FailedPrecondition(f"commit blob {self._what}: {self.offset} bytes written, {size} expected")
            digest = self.digest(expected.algorithm if expected else "sha256")
            if expected is not None and digest != expected:
                raise FailedPrecondition(f"commit blob {self._what}: the digest is {digest}, expected {expected}")
            os.fsync(self._fd)
            if os.fstat(self._fd).st_size != self.offset:
                raise FailedPrecondition(f"commit blob {self._what}: its file was changed by somebody else")
            os.fchmod(self._fd, 0o444)
            fresh = self._store._publish(self._directory / "data", digest)
            self._store._discard(self.key)
        except OSError as error:
            raise from_oserror(error, f"commit blob {self._what}") from error
        finally:
            self.close()
        if not fresh:
            raise AlreadyExists(f"commit blob {digest}: it is there already")
        return digest

    def close(self) -> None:
        """Release the key; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            self._store._unlock(self.key)

    @property
    def _fd(self) -> int:
        if self._descriptor < 0:
            raise FailedPrecondition(f"ingest {self._what}: closed")
        return self._descriptor

    def _rehash(self, size: int) -> None:
        self._hash = self._hashed(hashlib.sha256(), size)
        self.offset = size

    def _hashed(self, digester: hashlib._Hash, size: int) -> hashlib._Hash:
        buffer = bytearray(min(_HASHING, size))
        done = 0
        while done < size:
            count = os.preadv(self._fd, [memoryview(buffer)[: size - done]], done)
            if not count:
                raise DataLoss(f"ingest {self._what}: its data end at {done} of {size} bytes")
            digester.update(memoryview(buffer)[:count])
            done += count
        return digester


def _is_whole(directory: Path) -> bool:
    """Whether an ingest has its files, each a regular one."""
    try:
        return stat.S_ISDIR(os.lstat(directory).st_mode) and all(
            stat.S_ISREG(os.lstat(directory / name).st_mode) for name in ("data", "ref", "startedat", "total")
        )
    except OSError:
        return False


def _delete(path: Path) -> None:
    """Delete a file, a link or a directory tree, without following links; what resists is logged and left."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("content store: cannot delete %s: %s", path, error)


def _read_text(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)


def _write_text(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    try:
        data = text.encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _parse_time(text: str) -> int:
    """Nanoseconds of an RFC 3339 time, to the microsecond."""
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
