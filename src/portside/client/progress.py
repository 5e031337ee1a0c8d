"""What a verb tells while it works: one small record at a time, to whoever gave a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portside.oci.descriptor import Descriptor

RESOLVING = "resolving"
RESOLVED = "resolved"
WAITING = "waiting"
DOWNLOADING = "downloading"
DOWNLOADED = "downloaded"
EXISTS = "exists"
EXTRACTING = "extracting"
EXTRACTED = "extracted"
UPLOADING = "uploading"
UPLOADED = "uploaded"
SAVING = "saving"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """``object`` (a reference, or a ref like ``layer-sha256:…``) is at ``offset`` of ``total`` bytes in ``stage``."""

    object: str
    stage: str
    offset: int = 0
    total: int = 0
    descriptor: Descriptor | None = None
    """What ``object`` is, where it is told of first."""
    parent: str = ""
    """The object that it was found in, likewise."""


ProgressCallback = Callable[[Progress], None]
"""Called on the event loop; must not block. Within one object, stages come in order."""


def ignore(progress: Progress) -> None:
    """The callback of those who do not want to know."""
