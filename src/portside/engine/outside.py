"""What an engine asks of programs and daemons that are not its own: verifiers of images, stream processors, differs.

None of them need be there: an engine without any is the usual one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from portside.core.anymessage import AnyMessage
from portside.core.content import ContentStore
from portside.core.diff import DiffService
from portside.core.mount import Mount
from portside.core.settings import ImageVerifiers, StreamProcessor
from portside.core.tables import decode
from portside.engine.diff import LocalDiff
from portside.engine.options import DiffOptions
from portside.errors import InvalidArgument, Unimplemented
from portside.oci.descriptor import Descriptor

WALKING = "walking"
"""The differ of our own."""
DIFF_SERVICE = "io.containerd.service.v1.diff-service"
"""The table whose ``default`` says in which order differs are asked, as in containerd."""


@dataclass(frozen=True, slots=True)
class Outside:
    """One for an engine."""

    verifiers: ImageVerifiers | None = None
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=dict)
    differs: Mapping[str, Callable[[str], DiffService]] = field(default_factory=dict)
    """Those that somebody else serves, by id, each for a namespace."""
    differ_order: Sequence[str] = (WALKING,)
    """Which differs are asked, one after the other, until one can do it."""

    async def verify(self, name: str, target: Descriptor) -> None:
        """PermissionDenied with the reason if a verifier says so; Unavailable if one cannot be asked."""
        if self.verifiers is None:
            return
        from portside.engine.verifiers import verify

        await verify(self.verifiers, name, target)

    def diff(self, namespace: str, content: ContentStore) -> DiffService:
        """The differ, or all of them as one."""
        ours = LocalDiff(content, self.stream_processors)
        if tuple(self.differ_order) == (WALKING,):
            return ours
        return Differs([ours if id == WALKING else self.differs[id](namespace) for id in self.differ_order])


def differ_order(table: Mapping[str, object], known: Collection[str]) -> Sequence[str]:
    """The value of ``default``, checked; InvalidArgument for a differ that there is not."""
    order = decode(DiffOptions, table, f"plugins.'{DIFF_SERVICE}'").default
    for id in order:
        if id != WALKING and id not in known:
            raise InvalidArgument(f"{DIFF_SERVICE}: default: there is no differ {id!r}")
    return order


class Differs:
    """``core.diff.DiffService`` of several: the first that can do it does it."""

    def __init__(self, differs: Sequence[DiffService]) -> None:
        self._differs = differs

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """Unimplemented, as the last one says it, if none can."""
        error = Unimplemented(f"apply layer {layer.digest}: there is no differ")
        for differ in self._differs:
            try:
                return await differ.apply(layer, mounts, payloads=payloads, sync_fs=sync_fs)
            except Unimplemented as refusal:
                error = refusal
        raise error

    async def compare(
        self, lower: Sequence[Mount], upper: Sequence[Mount],
        *, media_type: str = "", ref: str = "", labels: Mapping[str, str] | None = None,
        source_date_epoch_ns: int | None = None,
    ) -> Descriptor:  # fmt: skip
        """Unimplemented, as the last one says it, if none can."""
        error = Unimplemented("compare snapshots: there is no differ")
        for differ in self._differs:
            try:
                return await differ.compare(
                    lower, upper, media_type=media_type, ref=ref, labels=labels,
                    source_date_epoch_ns=source_date_epoch_ns,
                )  # fmt: skip
            except Unimplemented as refusal:
                error = refusal
        raise error
