"""The plugins that come with portside, as rows: what each is called, needs, and how it is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from portside.content.blobs import BlobStore
from portside.content.driver import BlobDriver
from portside.core.plugin import (
    CONTAINER_MONITOR,
    CONTENT,
    DEFAULTS,
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
    SERVICE,
    SNAPSHOTTER,
    STREAMING,
    TRANSFER,
    VERBS,
    WARNING,
    Init,
    Plugin,
    SkipPlugin,
)
from portside.core.settings import Defaults, ImageVerifiers
from portside.core.tables import encode
from portside.engine.events import Exchange
from portside.engine.gc import Policy
from portside.engine.options import DiffOptions, NoOptions, OverlayOptions, TransferOptions
from portside.engine.outside import differ_order
from portside.engine.restart import RestartConfig
from portside.engine.streaming import StreamManager
from portside.engine.transfer.config import TransferConfig
from portside.errors import FailedPrecondition
from portside.metadata.database import Database
from portside.metadata.store import Metadata, MetadataConfig
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
    options: OverlayOptions = init.settings
    return OverlayDriver(root, tuple(options.mount_options))


def _metadata(init: Init) -> Metadata:
    exchange: Exchange = init.get(EVENT)
    config: MetadataConfig = init.settings
    isolated = config.is_isolated()
    blobs = _the_content_store(init)
    db = Database.open(init.make_root() / "meta.db", _things(init))
    return Metadata(db, blobs, init.all(SNAPSHOTTER), exchange.emit, isolated=isolated)


def _things(init: Init) -> Iterator[object]:
    """What is on disk and would be garbage without records."""
    content = init.get(CONTENT)
    if isinstance(content, BlobStore):
        yield from content.digests()
    for driver in init.all(SNAPSHOTTER).values():
        if isinstance(driver, DirectoryDriver):
            yield from driver.ids()


def _defaults(init: Init) -> Defaults:
    defaults: Defaults = init.settings
    if defaults.snapshotter and defaults.snapshotter not in init.all(SNAPSHOTTER):
        raise FailedPrecondition(f"default snapshotter {defaults.snapshotter!r}: there is none of this name that works")
    return defaults


def _without_empty(init: Init) -> Mapping[str, str]:
    return {name: value for name, value in encode(init.settings).items() if value}


OURS = object()
"""What stands for a part that is seen through others."""


def _the_content_store(init: Init) -> BlobDriver:
    stores = init.all(CONTENT)
    if len(stores) > 1:
        raise FailedPrecondition(f"content stores {', '.join(stores)}: there can be one; disable the others")
    store: BlobDriver = init.get(CONTENT)
    return store


def _present(init: Init) -> Any:
    """For parts that are seen through others: the leases of the metadata, the tasks of the engine."""
    return OURS


PLUGINS = (
    Plugin(CONTENT, "content", lambda init: BlobStore(init.make_root()), exports=_root, config=NoOptions),
    Plugin(SNAPSHOTTER, "overlayfs", _overlayfs, exports=_root, config=OverlayOptions),
    Plugin(SNAPSHOTTER, "native", lambda init: NativeDriver(init.make_root()), exports=_root, config=NoOptions),
    Plugin(EVENT, "exchange", lambda init: Exchange(), config=NoOptions),
    Plugin(
        METADATA, "sqlite", _metadata,
        requires=(CONTENT, SNAPSHOTTER, EVENT), exports=_root, config=MetadataConfig,
    ),
    Plugin(DEFAULTS, "engine", _defaults, after=(SNAPSHOTTER,), exports=_without_empty, config=Defaults),
    Plugin(LEASE, "manager", _present, requires=(METADATA,), config=NoOptions),
    Plugin(GC, "scheduler", lambda init: Policy.from_config(init.config), requires=(METADATA,), config=Policy),
    Plugin(DIFFER, "walking", _present, requires=(METADATA,), config=NoOptions),
    Plugin(
        SERVICE, "diff-service", lambda init: differ_order(init.config, init.all(DIFFER)),
        requires=(DIFFER,), config=DiffOptions,
    ),
    Plugin(IMAGE_VERIFIER, "bindir", _present, config=ImageVerifiers),
    Plugin(STREAMING, "manager", lambda init: StreamManager(), requires=(METADATA,), config=NoOptions),
    Plugin(
        TRANSFER, "local", lambda init: TransferConfig.from_config(init.config),
        requires=(LEASE, METADATA, DIFFER), config=TransferOptions,
    ),
    Plugin(RUNTIME, "task", _present, requires=(METADATA, EVENT), config=NoOptions),
    Plugin(MOUNT_MANAGER, "sqlite", _present, requires=(METADATA,), after=(MOUNT_HANDLER,), config=NoOptions),
    Plugin(SANDBOX_STORE, "local", _present, requires=(METADATA,), config=NoOptions),
    Plugin(SANDBOX_CONTROLLER, "shim", _present, requires=(RUNTIME, EVENT), config=NoOptions),
    Plugin(
        CONTAINER_MONITOR,
        "restart",
        lambda init: init.settings,
        requires=(METADATA, EVENT),
        capabilities=("no", "always", "on-failure", "unless-stopped"),
        config=RestartConfig,
    ),
    Plugin(WARNING, "deprecations", _present, config=NoOptions),
    Plugin(
        VERBS, "logs", lambda init: init.make_root(),
        exports=lambda init: {LOG_DIRECTORY: str(init.root)}, config=NoOptions,
    ),
)  # fmt: skip
