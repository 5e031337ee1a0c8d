"""What images that come are called: the names that an ``ImageStore`` as destination stands for.

pull, tag    ``name`` and the extra references: whole ones as they are, prefixes with the digest if they ask for it
import       per image of the archive, by its annotations (``names_in_archive``); ``name`` is the whole index
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from portside.client.image_import import NAME_ANNOTATION, REF_ANNOTATION
from portside.client.store_image import store_image
from portside.core.images import Image
from portside.core.labels import GC_EXPIRE
from portside.core.services import Services
from portside.core.transfer import ImageReference, ImageStore
from portside.errors import NotFound
from portside.oci.descriptor import Descriptor

_BACK_REFERENCE = "containerd.io/gc.bref.image"


async def store_names(services: Services, store: ImageStore, target: Descriptor) -> list[Image]:
    """Point all names at ``target``; NotFound if there are none."""
    names = [store.name] if store.name else []
    for each in store.extra_references:
        if each.add_digest:
            names.append(f"{each.name}@{target.digest}")
        elif not each.is_prefix:
            names.append(each.name)
    if not names:
        raise NotFound("image store: no name is given for the image")
    return [
        await store_image(services, name, target, store.labels if name == store.name else extra_labels(store))
        for name in dict.fromkeys(names)
    ]


def extra_labels(store: ImageStore) -> Mapping[str, str]:
    """Of a further name: it goes with the first one, if there is one."""
    if not store.name:
        return store.labels
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**store.labels, _BACK_REFERENCE: store.name, GC_EXPIRE: now}


def names_in_archive(store: ImageStore) -> Callable[[Descriptor], Sequence[str]]:
    """How to call an image of an archive: what its annotations make of each prefix, and its digest where asked for."""
    prefixes = [each for each in store.extra_references if each.is_prefix]

    def names(descriptor: Descriptor) -> Sequence[str]:
        found: list[str] = []
        for prefix in prefixes:
            name = _annotated(descriptor.annotations, prefix)
            if name:
                found.append(name)
            if prefix.add_digest and not (name and prefix.skip_named_digest):
                found.append(f"{prefix.name}@{descriptor.digest}")
        return list(dict.fromkeys(found))

    return names


def _annotated(annotations: Mapping[str, str], prefix: ImageReference) -> str:
    full = annotations.get(NAME_ANNOTATION, "")
    if full:
        # A full name is taken as it is or not at all.
        return full if _with_prefix(full, prefix) == full else ""
    tag = annotations.get(REF_ANNOTATION, "")
    return _with_prefix(tag, prefix) if tag else ""


def _with_prefix(text: str, prefix: ImageReference) -> str:
    """A tag behind the prefix; a full name if it may stand; else empty."""
    if not any(mark in text for mark in "/:@"):
        return f"{prefix.name}:{text}"
    if prefix.allow_overwrite:
        return text
    rest = text.removeprefix(prefix.name)
    return text if rest != text and rest[:1] in ("", "/", ":", "@") else ""
