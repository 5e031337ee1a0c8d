"""Transfer: things from where they are to where they are wanted (containerd.services.transfer.v1.Transfer).

    OCIRegistry         -> ImageStore           pull
    ImageStore          -> OCIRegistry          push
    ImageImportStream   -> ImageStore           import
    ImageStore          -> ImageExportStream    export
    ImageStore          -> ImageStore           tag
    ImageImportStream   -> ImageExportStream    echo: the bytes as they are
    OCIRegistry         -> OCIRegistry          mirror: all of an image, which is not kept here
    ReadStream          -> Snapshot             unpack one layer
    Snapshot            -> WriteStream          what a snapshot changes, as a layer

Any other pair is Unimplemented. Objects are plain data with callbacks; how callbacks travel as streams is known to
``convert/transfer.py`` and ``remote/transfer.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from portside.oci.descriptor import Descriptor
from portside.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Progress:
    """What a transfer tells. Without ``name`` an ``event`` is about all of it (``Pulling from OCI Registry (…)``);
    with one about that object, which belongs to ``parents``: ``waiting``, ``downloading``, ``complete`` …"""

    event: str
    name: str = ""
    parents: tuple[str, ...] = ()
    progress: int = 0
    total: int = 0
    descriptor: Descriptor | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called on the event loop; must not block."""


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """How to answer a registry that asks: user and secret; a secret alone, which is an identity (refresh) token; or a
    whole ``Authorization`` header."""

    username: str = ""
    secret: str = ""
    header: str = ""


CredentialsCallback: TypeAlias = Callable[[str, str], Awaitable[RegistryCredentials | None]]
"""Asked with host and reference; None if there are none for them."""


@dataclass(frozen=True, slots=True)
class OCIRegistry:
    """An image on a registry."""

    reference: str
    credentials: CredentialsCallback | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    host_dir: str = ""
    """A directory with ``hosts.toml`` files, on the machine of whoever does the transfer."""
    default_scheme: str = ""
    """``http`` or ``https``; empty: HTTP for loopback addresses alone."""
    trace: Callable[[str], None] | None = None
    """Told requests and answers as text, without secrets; on the event loop, must not block."""

    def __str__(self) -> str:
        return f"OCI Registry ({self.reference})"


@dataclass(frozen=True, slots=True)
class UnpackConfiguration:
    """Unpack what runs on ``platform`` (None: this machine's) into ``snapshotter`` (empty: the default)."""

    platform: Platform | None = None
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A further name of an image. The rest is of meaning only for a prefix, to which a tag or a digest is added."""

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    """Full names that come with an archive are taken even if they do not begin with the prefix."""
    add_digest: bool = False
    skip_named_digest: bool = False
    """No name by digest for an image that has one by tag."""


@dataclass(frozen=True, slots=True)
class ImageStore:
    """Images of the namespace: as a source the one ``name`` (and ``extra_references``), else how to call what comes."""

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    """What to take of an image for several; empty: everything."""
    all_metadata: bool = False
    """Manifests and configurations of the other platforms too."""
    manifest_limit: int = 0
    """Of an index at most so many manifests; 0: all that fit."""
    extra_references: tuple[ImageReference, ...] = ()
    unpacks: tuple[UnpackConfiguration, ...] = ()
    """Empty: do not unpack."""

    def __str__(self) -> str:
        return f"Local Image Store ({self.name})"


Chunks: TypeAlias = AsyncIterator[bytes]
"""Bytes in parts of any size, to their end; whoever made the iterator closes what is behind it."""
Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes a part of the bytes; waits while it cannot."""


@dataclass(frozen=True, slots=True)
class ImageImportStream:
    """An archive of images: OCI layout or docker's, plain or compressed."""

    chunks: Chunks
    media_type: str = ""
    """Empty: compression is found out; else the archive is a plain tar."""
    force_compress: bool = False
    """Compress the layers of docker's archives that are not."""


@dataclass(frozen=True, slots=True)
class ImageExportStream:
    """Where an archive goes."""

    write: Write
    media_type: str = ""
    platforms: tuple[Platform, ...] = ()
    """Empty: this machine's."""
    all_platforms: bool = False
    skip_compatibility_manifest: bool = False
    """Without docker's ``manifest.json``."""
    skip_non_distributable: bool = False


@dataclass(frozen=True, slots=True)
class ReadStream:
    """A layer to read; ``media_type`` empty: an OCI layer, its compression found out."""

    chunks: Chunks
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class WriteStream:
    """Where a layer goes; ``media_type`` empty: an OCI layer, gzip."""

    write: Write
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot (portside.types.transfer.v1.Snapshot).

    As a destination the committed name, empty for the chain ID, on ``parent`` (empty: on nothing). As a source any
    snapshot, compared with ``parent`` or, where that is empty, with its own parent. A new one is held by the lease of
    the caller, or by a label (``containerd.io/gc.root``) that it is given; without either it is soon garbage.
    """

    key: str = ""
    parent: str = ""
    snapshotter: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"Snapshot ({self.key})"


TransferObject: TypeAlias = (
    OCIRegistry | ImageStore | ImageImportStream | ImageExportStream | ReadStream | WriteStream | Snapshot
)


class TransferService(Protocol):
    """Transfers within one namespace."""

    async def transfer(
        self, source: TransferObject, destination: TransferObject, progress: ProgressCallback | None = None
    ) -> None:
        """Returns when all of it is where it should be; nothing becomes visible otherwise.

        Unimplemented for a pair that cannot be; NotFound for an image that is not there; Unauthenticated,
        PermissionDenied, Unavailable and the like as a registry has it; DataLoss for what is not what its digest says.
        A caller that is cancelled leaves nothing behind but, of a pull, what the next one resumes.
        """
        ...
