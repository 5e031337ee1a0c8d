"""From one version of containerd's configuration to another: 1 to 4 on reading, 4 to 3 or 2 when asked to write them.

    1 → 2   plugins get their full names (``cri`` becomes ``io.containerd.grpc.v1.cri``)
    2 → 3   plugins that were renamed or split: restart, cgroups, cri, runtime v2
    3 → 4   what the server listens on moves from its tables into plugins (``io.containerd.server.v1.grpc`` …)

A document is the decoded file; all functions return a new one and leave theirs alone. A key that the older version did
not know stays where it is, so that it can be told as unknown under the name that the user wrote.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from portside.errors import FailedPrecondition, InvalidArgument

NEWEST = 4
WRITABLE = (2, 3, 4)
SERVER = "io.containerd.server.v1."

MOVED: tuple[tuple[str, str, str, str], ...] = (
    ("grpc", "address", SERVER + "grpc", "address"),
    ("grpc", "uid", SERVER + "grpc", "uid"),
    ("grpc", "gid", SERVER + "grpc", "gid"),
    ("grpc", "max_recv_message_size", SERVER + "grpc", "max_recv_message_size"),
    ("grpc", "max_send_message_size", SERVER + "grpc", "max_send_message_size"),
    ("grpc", "tcp_address", SERVER + "grpc-tcp", "address"),
    ("grpc", "tcp_tls_ca", SERVER + "grpc-tcp", "tls_ca"),
    ("grpc", "tcp_tls_cert", SERVER + "grpc-tcp", "tls_cert"),
    ("grpc", "tcp_tls_key", SERVER + "grpc-tcp", "tls_key"),
    ("ttrpc", "address", SERVER + "ttrpc", "address"),
    ("ttrpc", "uid", SERVER + "ttrpc", "uid"),
    ("ttrpc", "gid", SERVER + "ttrpc", "gid"),
    ("debug", "address", SERVER + "debug", "address"),
    ("debug", "uid", SERVER + "debug", "uid"),
    ("debug", "gid", SERVER + "debug", "gid"),
    ("metrics", "address", SERVER + "metrics", "address"),
    ("metrics", "grpc_histogram", "io.containerd.metrics.v1.grpc-prometheus", "grpc_histogram"),
)
"""Table and key up to version 3, plugin and key in version 4."""

RENAMED = {
    "io.containerd.monitor.v1.cgroups": "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.internal.v1.restart": "io.containerd.monitor.container.v1.restart",
}
"""Plugins of version 2 that have another name since."""

_CRI = "io.containerd.grpc.v1.cri"
_CRI_IMAGES = "io.containerd.cri.v1.images"
_CRI_RUNTIME = "io.containerd.cri.v1.runtime"
_CRI_SERVER_KEYS = frozenset((
    "disable_tcp_service", "stream_server_address", "stream_server_port", "stream_idle_timeout",
    "enable_tls_streaming", "x509_key_pair_streaming",
))  # fmt: skip
_CRI_IMAGE_KEYS = frozenset((
    "registry", "image_decryption", "max_concurrent_downloads", "image_pull_progress_timeout",
    "image_pull_with_sync_fs", "stats_collect_period",
))  # fmt: skip
_CRI_SNAPSHOT_KEYS = frozenset(("snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"))

_SHORT = {
    "cri": _CRI,
    "cgroups": "io.containerd.monitor.v1.cgroups",
    "linux": "io.containerd.runtime.v1.linux",
    "scheduler": "io.containerd.gc.v1.scheduler",
    "bolt": "io.containerd.metadata.v1.bolt",
    "task": "io.containerd.runtime.v2.task",
    "opt": "io.containerd.internal.v1.opt",
    "restart": "io.containerd.internal.v1.restart",
    "tracing": "io.containerd.internal.v1.tracing",
    "otlp": "io.containerd.tracing.processor.v1.otlp",
}
_SHORT_SNAPSHOTTERS = ("aufs", "btrfs", "devmapper", "native", "overlayfs", "zfs")


def version_of(document: Mapping[str, Any]) -> int:
    """The document's version; without one it is 1, as for containerd. InvalidArgument for those that nobody knows."""
    version = document.get("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= NEWEST:
        raise InvalidArgument(f"version {version!r}: want 2, 3 or 4")
    return max(version, 1)


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` as version 4. InvalidArgument where a table is none."""
    new = copy.deepcopy(dict(document))
    version = version_of(new)
    if version < 2:
        _rename(new, _full_name)
    if version < 4:
        _rename(new, lambda name: RENAMED.get(name, name))
        plugins = _plugins(new)
        _move_scheduling(plugins)
        _split_cri(plugins)
        _to_plugins(new, plugins)
    new["version"] = NEWEST
    return new


def written_as(document: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A document of version 4 as ``version``, for older servers; FailedPrecondition where it cannot be said in it."""
    if version not in WRITABLE:
        raise InvalidArgument(f"version {version}: want one of {', '.join(map(str, WRITABLE))}")
    new = copy.deepcopy(dict(document))
    if version < 4:
        _to_tables(new, _plugins(new))
    if version < 3:
        if split := [name for name in (_CRI_IMAGES, _CRI_RUNTIME) if _plugins(new).get(name)]:
            raise FailedPrecondition(f"plugins {split[0]}: cannot be written as version 2; want 3 or 4")
        back = {new_name: old for old, new_name in RENAMED.items()}
        _rename(new, lambda name: back.get(name, name))
    new["version"] = version
    return new


def _full_name(name: str) -> str:
    if "." in name:
        return name
    if name in _SHORT_SNAPSHOTTERS:
        return f"io.containerd.snapshotter.v1.{name}"
    if name.endswith("-service"):
        return f"io.containerd.service.v1.{name}"
    return _SHORT.get(name, f"io.containerd.grpc.v1.{name}")


def _rename(document: dict[str, Any], rename: Any) -> None:
    for key in ("disabled_plugins", "required_plugins"):
        if isinstance(document.get(key), list):
            document[key] = [rename(name) if isinstance(name, str) else name for name in document[key]]
    if "plugins" in document:
        plugins: dict[str, Any] = {}
        for name, table in _plugins(document).items():
            # Under both names: what stands under the newer one is meant.
            if rename(name) == name or rename(name) not in document["plugins"]:
                plugins[rename(name)] = table
        document["plugins"] = plugins


def _move_scheduling(plugins: dict[str, Any]) -> None:
    task = _subtable(plugins, "io.containerd.runtime.v2.task")
    if task is not None and task.pop("sched_core", False) is True:
        manager = plugins.setdefault("io.containerd.shim.v1.manager", {})
        environment = manager.get("env", [])
        if not isinstance(environment, list):
            raise InvalidArgument(f"plugins.'io.containerd.shim.v1.manager'.env: want a list, not {environment!r}")
        manager["env"] = [*(entry for entry in environment if entry != "SCHED_CORE=1"), "SCHED_CORE=1"]


def _split_cri(plugins: dict[str, Any]) -> None:
    """The one table of version 2 becomes three: the server, the images, and how containers run."""
    old = _subtable(plugins, _CRI)
    if old is None or _CRI_SERVER_KEYS.issuperset(old):
        return
    images, runtime = plugins.setdefault(_CRI_IMAGES, {}), plugins.setdefault(_CRI_RUNTIME, {})
    if "sandbox_image" in old:
        pinned = _subtable(images, "pinned_images") or {}
        images["pinned_images"] = {"sandbox": old.pop("sandbox_image"), **pinned}
    for key in sorted(_CRI_IMAGE_KEYS & old.keys()):
        images.setdefault(key, old.pop(key))
    containerd = _subtable(old, "containerd") or {}
    for key in sorted(_CRI_SNAPSHOT_KEYS & containerd.keys()):
        images.setdefault(key, containerd.pop(key))
    for settings in _runtimes(containerd):
        if "sandbox_mode" in settings:
            settings.setdefault("sandboxer", settings.pop("sandbox_mode"))
    cni = _subtable(old, "cni") or {}
    if cni.get("bin_dir"):
        cni.setdefault("bin_dirs", [cni.pop("bin_dir")])
    for key in sorted(old.keys() - _CRI_SERVER_KEYS):
        _fill(runtime, key, old.pop(key))


def _runtimes(containerd: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for settings in (_subtable(containerd, "runtimes") or {}).values():
        if isinstance(settings, dict):
            yield settings


def _fill(table: dict[str, Any], key: str, value: Any) -> None:
    """Set what is not set, in tables below too."""
    if isinstance(value, dict) and isinstance(table.get(key), dict):
        for name, item in value.items():
            _fill(table[key], name, item)
    else:
        table.setdefault(key, value)


def _to_plugins(document: dict[str, Any], plugins: dict[str, Any]) -> None:
    grpc, ttrpc = _subtable(document, "grpc") or {}, _subtable(document, "ttrpc") or {}
    if grpc and not ttrpc.get("address"):
        # The ttrpc socket follows the gRPC socket; in version 4 each stands for itself.
        owner = {key: grpc[key] for key in ("uid", "gid") if grpc.get(key) and not ttrpc.get(key)}
        if owner:
            document["ttrpc"] = {**ttrpc, **owner}
    for table, key, plugin, name in MOVED:
        source = _subtable(document, table)
        # Empty is how these versions say "not set"; it must not override what another file sets.
        if source is not None and key in source and (value := source.pop(key)):
            plugins.setdefault(plugin, {}).setdefault(name, value)
    for table in ("grpc", "ttrpc", "metrics"):
        if not document.get(table, True):
            del document[table]


def _to_tables(document: dict[str, Any], plugins: dict[str, Any]) -> None:
    for table, key, plugin, name in MOVED:
        source = _subtable(plugins, plugin)
        if source is not None and name in source:
            document.setdefault(table, {})[key] = source.pop(name)
    for plugin in {plugin for *_, plugin, _ in MOVED}:
        if not plugins.get(plugin, True):
            del plugins[plugin]


def _plugins(document: dict[str, Any]) -> dict[str, Any]:
    plugins = document.setdefault("plugins", {})
    if not isinstance(plugins, dict):
        raise InvalidArgument("plugins: want a table")
    for name, table in plugins.items():
        if not isinstance(table, dict):
            raise InvalidArgument(f"plugins.'{name}': want a table")
    return plugins


def _subtable(document: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The table ``key``, None if there is none; InvalidArgument if it is something else."""
    table = document.get(key)
    if table is not None and not isinstance(table, dict):
        raise InvalidArgument(f"{key}: want a table")
    return table
