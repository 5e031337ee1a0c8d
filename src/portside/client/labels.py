"""Labels of containers that have a meaning to us, and which labels of an image a container gets."""

from __future__ import annotations

from collections.abc import Mapping

from portside.core.labels import MAX_LABEL

NAME = "portside.io/name"
"""Unique among the containers of a namespace."""
LOG = "portside.io/log"
"""The log file, as a path on the server's machine."""
LOG_FORMAT = "portside.io/log-format"
"""``raw`` where the log has the bytes as written (``file://``); absent: lines as CRI has them."""
AUTO_REMOVE = "portside.io/auto-remove"
IMAGE_DIGEST = "portside.io/image-digest"
STOP_SIGNAL = "io.containerd.image.config.stop-signal"
"""containerd's own name for it."""

_RESERVED = ("containerd.io/", "io.containerd.", "io.cri-containerd", "io.kubernetes.cri", "portside.io/", "nerdctl/")


def inherited(image_labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of an image's configuration that its containers carry.

    Never those that make an engine do something, which an image's author must not decide (CVE-2026-53488). Left out
    are those that no engine can keep: too long ones, and text that is not Unicode (a lone ``\\ud800``).
    """
    return {
        key: value
        for key, value in image_labels.items()
        if key and not key.lower().startswith(_RESERVED) and _can_be_kept(key, value)
    }


def _can_be_kept(key: str, value: str) -> bool:
    try:
        return len(key.encode()) + len(value.encode()) <= MAX_LABEL
    except UnicodeEncodeError:
        return False
