"""Proxy plugins: parts of the engine that somebody else serves on a socket (containerd's ``[proxy_plugins]``).

A peer that is not there when the engine opens is no error: it is connected to with the first call, and again after
each time it was gone. What is asked of it ends in time (``bounded``), with Unavailable or DeadlineExceeded.

What does not belong here: the records of what is made in a foreign snapshotter (``metadata/foreign.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from portside.core.diff import DiffService
from portside.core.foreign import ForeignSnapshotter
from portside.core.plugin import CONTENT, DIFFER, METADATA, SANDBOX_CONTROLLER, SNAPSHOTTER, Init, Plugin
from portside.core.sandboxes import ControllerOf
from portside.core.settings import ProxyPlugin
from portside.core.snapshots import Snapshotter
from portside.engine.bounded import BoundedController, BoundedDiff, BoundedSnapshotter, Limits, Peer
from portside.engine.graph import PluginGraph
from portside.errors import InvalidArgument
from portside.oci.platform import Platform

if TYPE_CHECKING:
    from portside.content.foreign import ForeignBlobs
    from portside.wire.grpc.client import Channel

log = logging.getLogger(__name__)

ADDRESS = "address"
"""The export by which a plugin is known to be a proxy, as in containerd."""
CONTENT_NAMESPACE = "default"
"""Of a foreign content store: there is one for all of ours, whose keys have their namespace in them."""
_TYPES = {"snapshot": SNAPSHOTTER, "content": CONTENT, "diff": DIFFER, "sandbox": SANDBOX_CONTROLLER}


class Proxies:
    """The proxy plugins of one engine: their rows for the registry, and the connections, which ``close`` drops."""

    def __init__(self, settings: Mapping[str, ProxyPlugin], timeouts: Mapping[str, float]) -> None:
        self._limits = Limits.from_timeouts(timeouts)
        self._channels: dict[str, Channel] = {}
        self._stores: list[ForeignBlobs] = []
        self.plugins = [row for id, proxy in settings.items() if (row := self._row(id, proxy)) is not None]
        """In the order of the configuration."""

    def differs(self, graph: PluginGraph) -> Mapping[str, Callable[[str], DiffService]]:
        """The differs that came up and are not our own, by id, each for a namespace: proxies, and packages' plugins."""
        return {id: differ for id, differ in graph.all(DIFFER).items() if callable(differ)}

    async def close(self) -> None:
        """Drop the connections: calls in progress end with Unavailable, so do those that come."""
        for channel in self._channels.values():
            await channel.close()
        for store in self._stores:
            await store.close()

    def _row(self, id: str, proxy: ProxyPlugin) -> Plugin | None:
        kinds: dict[str, Callable[[str, ProxyPlugin, Init], Any]] = {
            SNAPSHOTTER: self._snapshotter, CONTENT: self._content, DIFFER: self._differ,
            SANDBOX_CONTROLLER: self._sandboxes,
        }  # fmt: skip
        type = _TYPES.get(proxy.type, proxy.type)
        if type not in kinds:
            log.warning("proxy plugin %s: there are none of type %r", id, proxy.type)
            return None
        make, exports = kinds[type], {**proxy.exports, ADDRESS: proxy.address}
        return Plugin(
            type, id, lambda init: make(id, proxy, init),
            requires=(METADATA,) if type == DIFFER else (),
            exports=lambda init: exports, capabilities=tuple(proxy.capabilities),
            platforms=_platforms(id, proxy.platform),
        )  # fmt: skip

    def _snapshotter(self, id: str, proxy: ProxyPlugin, init: Init) -> ForeignSnapshotter:
        channel, peer = self._channel(id, proxy), self._peer("snapshotter", id, proxy)
        from portside.remote.snapshots import RemoteSnapshotter

        def bind(namespace: str) -> Snapshotter:
            return BoundedSnapshotter(RemoteSnapshotter(channel, namespace, "", id), peer)

        return ForeignSnapshotter(id, bind)

    def _content(self, id: str, proxy: ProxyPlugin, init: Init) -> ForeignBlobs:
        channel = self._channel(id, proxy)
        from portside.content.foreign import ForeignBlobs
        from portside.remote.content import RemoteContent

        store = RemoteContent(channel, CONTENT_NAMESPACE, "")
        blobs = ForeignBlobs(store, f"content store {id} at {proxy.address}", self._limits.call, self._limits.work)
        self._stores.append(blobs)
        return blobs

    def _differ(self, id: str, proxy: ProxyPlugin, init: Init) -> Callable[[str], BoundedDiff]:
        channel, peer = self._channel(id, proxy), self._peer("differ", id, proxy)
        from portside.remote.diff import RemoteDiff

        return lambda namespace: BoundedDiff(RemoteDiff(channel, namespace, ""), peer)

    def _sandboxes(self, id: str, proxy: ProxyPlugin, init: Init) -> ControllerOf:
        channel, peer = self._channel(id, proxy), self._peer("sandbox controller", id, proxy)
        from portside.remote.sandboxes import RemoteSandboxController

        return lambda namespace: BoundedController(RemoteSandboxController(channel, namespace, "", id), peer)

    def _peer(self, what: str, id: str, proxy: ProxyPlugin) -> Peer:
        return Peer(f"{what} {id} at {proxy.address}", self._limits)

    def _channel(self, id: str, proxy: ProxyPlugin) -> Channel:
        """One for each address: several plugins of one peer share it."""
        from portside.wire.grpc.client import Channel

        if not proxy.address:
            raise InvalidArgument(f"proxy plugin {id}: no address")
        if proxy.address not in self._channels:
            self._channels[proxy.address] = Channel(proxy.address)
        return self._channels[proxy.address]


def _platforms(id: str, text: str) -> tuple[Platform, ...]:
    try:
        return (Platform.parse(text),) if text else ()
    except InvalidArgument as error:
        log.warning("proxy plugin %s: %s; taken for one of this machine", id, error)
        return ()
