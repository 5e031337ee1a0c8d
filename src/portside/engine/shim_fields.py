"""What goes to shims, as fields of their messages (``wire.codec``): mounts and objects of any type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portside.core.anymessage import AnyMessage
from portside.core.mount import Mount


def mount_fields(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    """containerd.types.Mount, each."""
    return [
        {"type": mount.type, "source": mount.source, "target": mount.target, "options": list(mount.options)}
        for mount in mounts
    ]


def any_fields(message: AnyMessage) -> dict[str, Any]:
    """google.protobuf.Any."""
    return {"type_url": message.type_url, "value": message.value}
