"""Names of images of one namespace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from portside.core.filters import image_fields
from portside.core.images import Image
from portside.core.labels import check_labels, merge_labels
from portside.errors import AlreadyExists, InvalidArgument, NotFound
from portside.metadata.common import matching
from portside.metadata.database import Database, Transaction
from portside.metadata.schema import IMAGES
from portside.oci.descriptor import Descriptor

_TYPE = "containerd.services.images.v1."
MAX_NAME = 4096
"""Characters in an image's name; containerd has no rule for names but that there is one."""


class Images:
    """``core.images.ImageStore`` on the database; ``collect`` runs a whole garbage collection."""

    def __init__(self, db: Database, namespace: str, collect: Callable[[], Awaitable[object]]) -> None:
        self._db, self._namespace, self._collect = db, namespace, collect
        self._scope = (namespace,)

    async def get(self, name: str) -> Image:
        """From memory, without suspending; NotFound."""
        image = self._db.state.get(IMAGES, self._scope, name)
        if image is None:
            raise self._missing(name)
        return image

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        """Those that match any filter, by name."""
        records = self._db.state.rows(IMAGES, self._scope)
        return matching([records[name] for name in sorted(records)], filters, image_fields)

    async def create(self, image: Image) -> Image:
        """AlreadyExists; InvalidArgument without a name or a whole target, or for a label that is not allowed."""
        _check(image)
        labels = merge_labels({}, image.labels, ())

        def change(tx: Transaction) -> Image:
            if tx.get(IMAGES, self._scope, image.name) is not None:
                raise AlreadyExists(f"image {image.name!r}: already exists")
            created = replace(image, labels=labels, created_ns=tx.now_ns, updated_ns=tx.now_ns)
            tx.put(IMAGES, self._scope, image.name, created)
            fields = {"name": image.name, "labels": labels}
            tx.emit(self._namespace, "/images/create", _TYPE + "ImageCreate", fields)
            return created

        return await self._db.write(change)

    async def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """Change ``labels``, ``target``, ``annotations``, one key of a map with ``.<key>``; all without paths.

        NotFound; InvalidArgument without a name, for another path, or for what the image would become.
        """
        if not image.name:
            raise InvalidArgument("update image: which one is not said")

        def change(tx: Transaction) -> Image:
            old = tx.get(IMAGES, self._scope, image.name)
            if old is None:
                raise self._missing(image.name)
            updated = replace(_merged(old, image, fieldpaths), updated_ns=tx.now_ns)
            _check(updated)
            tx.put(IMAGES, self._scope, image.name, updated)
            fields = {"name": updated.name, "labels": updated.labels}
            tx.emit(self._namespace, "/images/update", _TYPE + "ImageUpdate", fields)
            return updated

        return await self._db.write(change)

    async def delete(self, name: str, sync: bool = False, target: Descriptor | None = None) -> None:
        """NotFound, also if the image has another target than ``target``; with ``sync`` garbage is gone on return."""

        def change(tx: Transaction) -> None:
            image = tx.get(IMAGES, self._scope, name)
            if image is None:
                raise self._missing(name)
            if target is not None and target.digest != image.target.digest:
                raise NotFound(f"image {name!r} with the target {target.digest}: not found")
            tx.delete(IMAGES, self._scope, name)
            tx.emit(self._namespace, "/images/delete", _TYPE + "ImageDelete", {"name": name})

        await self._db.write(change)
        if sync:
            await self._collect()

    def _missing(self, name: str) -> NotFound:
        return NotFound(f"image {name!r} in namespace {self._namespace!r}: not found")


def _merged(old: Image, new: Image, fieldpaths: Sequence[str]) -> Image:
    merged = old
    for path in fieldpaths or ("labels", "target"):
        if path == "labels" or path.startswith("labels."):
            merged = replace(merged, labels=merge_labels(merged.labels, new.labels, (path,)))
        elif path == "target":
            merged = replace(merged, target=new.target)
        elif path == "annotations" or path.startswith("annotations."):
            paths = ("labels" + path.removeprefix("annotations"),)
            annotations = merge_labels(merged.target.annotations, new.target.annotations, paths)
            merged = replace(merged, target=replace(merged.target, annotations=annotations))
        else:
            raise InvalidArgument(f"update image {old.name!r}: the field {path!r} cannot be changed")
    return merged


def _check(image: Image) -> None:
    if not image.name or len(image.name) > MAX_NAME:
        raise InvalidArgument(f"image {image.name[:100]!r}: want a name of at most {MAX_NAME} characters")
    check_labels(image.labels)
    if not image.target.digest or not image.target.media_type or image.target.size <= 0:
        raise InvalidArgument(f"image {image.name!r}: its target needs a digest, a media type and a size")
