"""What a snapshotter that fetches layers by itself is told of each: labels of the snapshot that is asked for.

The names are those that containerd's CRI gives, which stargz, nydus, SOCI and overlaybd read (containerd:
docs/remote-snapshotter.md). Annotations of a layer that are meant for snapshotters are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from portside.core.labels import MAX_LABEL
from portside.oci.descriptor import Descriptor
from portside.oci.image import Manifest

PREFIX = "containerd.io/snapshot/"
"""Annotations that begin so are for snapshotters."""
IMAGE_REF = PREFIX + "cri.image-ref"
MANIFEST_DIGEST = PREFIX + "cri.manifest-digest"
LAYER_DIGEST = PREFIX + "cri.layer-digest"
IMAGE_LAYERS = PREFIX + "cri.image-layers"
"""This layer and those above it, with commas, as many as a label holds."""

Hints: TypeAlias = Callable[[Descriptor], Mapping[str, str]]
"""The labels for a layer."""


def no_hints(layer: Descriptor) -> Mapping[str, str]:
    """What the layer's own annotations say."""
    return {key: value for key, value in layer.annotations.items() if key.startswith(PREFIX)}


def pull_hints(reference: str, descriptor: Descriptor, manifest: Manifest) -> Hints:
    """Where a layer of ``manifest`` can be had: ``reference`` is what is pulled, ``descriptor`` the manifest's."""

    def hints(layer: Descriptor) -> Mapping[str, str]:
        above = manifest.layers[manifest.layers.index(layer) :]
        labels = {
            IMAGE_REF: reference,
            MANIFEST_DIGEST: str(descriptor.digest),
            LAYER_DIGEST: str(layer.digest),
            IMAGE_LAYERS: _digests(above),
        }
        return {**no_hints(layer), **{key: value for key, value in labels.items() if len(key + value) <= MAX_LABEL}}

    return hints


def _digests(layers: Sequence[Descriptor]) -> str:
    room = MAX_LABEL - len(IMAGE_LAYERS)
    text = ""
    for layer in layers:
        more = f"{text},{layer.digest}" if text else str(layer.digest)
        if len(more) > room:
            break
        text = more
    return text
