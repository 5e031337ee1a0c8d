"""The plugins that come with portside, as rows: what each is called, needs, and how it is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from portside.content.blobs import BlobStore
from portside.core.plugin import (
    CONTAINER_MONITOR,
    CONTENT,
    DIFFER,
    EVENT,
    GC,
    IMAGE_VERIFIER,
    LEASE,
    METADATA,
    MOUNT_HANDLER,
    MOUNT_MANAGER,
    RUNTIME,
    SANDBOX_CONTROLLER,
    SANDBOX_STORE,
    SNAPSHOTTER,
    STREAMING,
    TRANSFER,
    VERBS,
    Init,
    Plugin,
    SkipPlugin,
)
from portside.engine.events import Exchange
from portside.engine.restart import RestartConfig
from portside.engine.streaming import StreamManager
from portside.engine.transfer.config import TransferConfig
from portside.metadata.database import Database
from portside.metadata.opening import refuse_loss
from portside.metadata.store import Metadata
from portside.snapshots.directories import DirectoryDriver
from portside.snapshots.native import NativeDriver
from portside.snapshots.overlay import OverlayDriver, why_unsupported

LOG_DIRECTORY = "log-directory"
"""The export by which clients of ours learn where containers' logs go."""


def _root(init: Init) -> Mapping[str, str]:
    return {"root": str(init.root)}


def _overlayfs(init: Init) -> OverlayDriver:
    root = init.make_root()
    if reason := why_unsupported(root):
        raise SkipPlugin(reason)
    return OverlayDriver(root, tuple(init.config.get("mount_options", ())))


def _metadata(init: Init) -> Metadata:
    exchange: Exchange = init.get(EVENT)
    path = init.make_root() / "meta.db"
    refuse_loss(path, _things(init))
    db = Database.open(path)
    return Metadata(db, init.get(CONTENT), init.all(SNAPSHOTTER), exchange.emit)


def _things(init: Init) -> Iterator[object]:
    """What is on disk and would be garbage without records."""
    content = init.get(CONTENT)
    if isinstance(content, BlobStore):
        yield from content.digests()
    for driver in init.all(SNAPSHOTTER).values():
        if isinstance(driver, DirectoryDriver):
            yield from driver.ids()


OURS = object()
"""What stands for a part that is seen through others."""


def _present(init: Init) -> Any:
    """For parts that are seen through others: the leases of the metadata, the tasks of the engine."""
    return OURS


PLUGINS = (
    Plugin(CONTENT, "content", lambda init: BlobStore(init.make_root()), exports=_root),
    Plugin(SNAPSHOTTER, "overlayfs", _overlayfs, exports=_root),
    Plugin(SNAPSHOTTER, "native", lambda init: NativeDriver(init.make_root()), exports=_root),
    Plugin(EVENT, "exchange", lambda init: Exchange()),
    Plugin(METADATA, "sqlite", _metadata, requires=(CONTENT, SNAPSHOTTER, EVENT), exports=_root),
    Plugin(LEASE, "manager", _present, requires=(METADATA,)),
    Plugin(GC, "scheduler", _present, requires=(METADATA,)),
    Plugin(DIFFER, "walking", _present, requires=(METADATA,)),
    Plugin(IMAGE_VERIFIER, "bindir", _present),
    Plugin(STREAMING, "manager", lambda init: StreamManager(), requires=(METADATA,)),
    Plugin(TRANSFER, "local", lambda init: TransferConfig.from_config(init.config), requires=(LEASE, METADATA, DIFFER)),
    Plugin(RUNTIME, "task", _present, requires=(METADATA, EVENT)),
    Plugin(MOUNT_MANAGER, "sqlite", _present, requires=(METADATA, MOUNT_HANDLER)),
    Plugin(SANDBOX_STORE, "local", _present, requires=(METADATA,)),
    Plugin(SANDBOX_CONTROLLER, "shim", _present, requires=(RUNTIME, EVENT)),
    Plugin(
        CONTAINER_MONITOR,
        "restart",
        lambda init: init.settings,
        requires=(METADATA, EVENT),
        capabilities=("no", "always", "on-failure", "unless-stopped"),
        config=RestartConfig,
    ),
    Plugin(VERBS, "logs", lambda init: init.make_root(), exports=lambda init: {LOG_DIRECTORY: str(init.root)}),
)
