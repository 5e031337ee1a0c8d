"""What the verbs tell, in the words of containerd's transfers: each object with what it is and what it belongs to."""

from __future__ import annotations

from portside.client import progress as told
from portside.core.transfer import Progress, ProgressCallback
from portside.oci.descriptor import Descriptor

_EVENTS = {
    told.DOWNLOADING: "downloading",
    told.DOWNLOADED: "complete",
    told.EXISTS: "already exists",
    told.EXTRACTING: "extracting",
    told.EXTRACTED: "extracted",
    told.UPLOADING: "uploading",
    told.UPLOADED: "complete",
}
"""Stages of ``client/progress.py`` that have a word there; the others are told by the pairs themselves."""


class Teller:
    """The callback for a verb, and ``say`` for what a pair tells itself; both do nothing where nobody listens."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._known: dict[str, tuple[Descriptor | None, tuple[str, ...]]] = {}

    def say(
        self, event: str, name: str = "", descriptor: Descriptor | None = None, *, progress: int = 0, total: int = 0
    ) -> None:
        """Something about the whole, or about ``name``."""
        if self._callback is not None:
            self._callback(Progress(event, name, (), progress, total, descriptor))

    def __call__(self, progress: told.Progress) -> None:
        """Something that a verb tells."""
        if self._callback is None:
            return
        if progress.stage == told.WAITING:
            self._wait(self._callback, progress)
        elif progress.stage in _EVENTS and progress.object in self._known:
            descriptor, parents = self._known[progress.object]
            event = _EVENTS[progress.stage]
            self._callback(Progress(event, progress.object, parents, progress.offset, progress.total, descriptor))

    def _wait(self, callback: ProgressCallback, progress: told.Progress) -> None:
        """What is found once more gets one more parent and is not told of again."""
        descriptor, parents = self._known.get(progress.object, (progress.descriptor, ()))
        is_new = progress.object not in self._known
        if progress.parent and progress.parent not in parents:
            parents = (*parents, progress.parent)
        self._known[progress.object] = descriptor, parents
        if is_new:
            callback(Progress("waiting", progress.object, parents, 0, progress.total, descriptor))
