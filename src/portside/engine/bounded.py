"""Calls to a peer that may hang: every one ends in time, and its errors say which peer it was.

For what somebody else serves to us (proxy plugins); a daemon that a client is connected to is another matter, since
its calls may take as long as they take (``remote/``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from portside.core.anymessage import AnyMessage
from portside.core.diff import DiffService
from portside.core.mount import Mount
from portside.core.sandboxes import Sandbox, SandboxController, SandboxExit, SandboxInstance, SandboxStatus
from portside.core.snapshots import SnapshotInfo, Snapshotter, Usage
from portside.core.tasks import Metric
from portside.errors import DeadlineExceeded, PortsideError, ResourceExhausted, Unavailable
from portside.oci.descriptor import Descriptor
from portside.oci.platform import Platform

T = TypeVar("T")

MAX_LISTED = 1_000_000
"""Snapshots that one snapshotter may have; nobody's has, and they are read into memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a proxy plugin has."""

    call: float = 10.0
    """For what reads or changes a record there (``io.portside.timeout.proxy.call``)."""
    work: float = 120.0
    """For what may move data: preparing, committing, counting, removing (``io.portside.timeout.proxy.work``)."""
    layer: float = 3600.0
    """For unpacking or writing a whole layer (``io.portside.timeout.proxy.layer``)."""

    @classmethod
    def from_timeouts(cls, timeouts: Mapping[str, float]) -> Limits:
        """From the configuration's table; 0 or a missing name means the default."""
        names = ("call", "work", "layer")
        given = {name: timeouts.get(f"io.portside.timeout.proxy.{name}", 0) for name in names}
        return cls(**{name: seconds for name, seconds in given.items() if seconds > 0})


class Peer:
    """Who is asked, in words, and how long we wait."""

    def __init__(self, what: str, limits: Limits) -> None:
        self.what, self.limits = what, limits

    async def within(self, seconds: float, step: str, call: Awaitable[T]) -> T:
        """The answer; DeadlineExceeded after ``seconds``, and errors that name the peer."""
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError:
            raise DeadlineExceeded(f"{self.what}: {step}: no answer within {seconds:g} s") from None
        except (Unavailable, DeadlineExceeded) as error:
            raise type(error)(f"{self.what}: {step}: {error}") from error
        except PortsideError as error:
            raise type(error)(f"{self.what}: {error}") from error


class BoundedSnapshotter:
    """``core.snapshots.Snapshotter`` that asks another one."""

    def __init__(self, inner: Snapshotter, peer: Peer) -> None:
        self._inner, self._peer = inner, peer

    async def stat(self, key: str) -> SnapshotInfo:
        """As asked."""
        return await self._quick("stat", self._inner.stat(key))

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """As asked."""
        return await self._quick("update", self._inner.update(info, fieldpaths))

    async def usage(self, key: str) -> Usage:
        """As asked."""
        return await self._work("usage", self._inner.usage(key))

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """As asked."""
        return await self._quick("mounts", self._inner.mounts(key))

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """As asked."""
        return await self._work("prepare", self._inner.prepare(key, parent, labels))

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> tuple[Mount, ...]:
        """As asked."""
        return await self._work("view", self._inner.view(key, parent, labels))

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """As asked."""
        await self._work("commit", self._inner.commit(name, key, labels, parent))

    async def remove(self, key: str) -> None:
        """As asked."""
        await self._work("remove", self._inner.remove(key))

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """As asked; the time is for each message. ResourceExhausted for a list without end."""
        count = 0
        async with aclosing(self._inner.walk(filters)) as found:  # type: ignore[type-var]
            while (info := await self._quick("list", anext(found, None))) is not None:
                count += 1
                if count > MAX_LISTED:
                    raise ResourceExhausted(f"{self._peer.what}: list: more than {MAX_LISTED} snapshots")
                yield info

    async def cleanup(self) -> None:
        """As asked."""
        await self._work("cleanup", self._inner.cleanup())

    async def _quick(self, step: str, call: Awaitable[T]) -> T:
        return await self._peer.within(self._peer.limits.call, step, call)

    async def _work(self, step: str, call: Awaitable[T]) -> T:
        return await self._peer.within(self._peer.limits.work, step, call)


class BoundedDiff:
    """``core.diff.DiffService`` that asks another one."""

    def __init__(self, inner: DiffService, peer: Peer) -> None:
        self._inner, self._peer = inner, peer

    async def apply(
        self, layer: Descriptor, mounts: Sequence[Mount],
        *, payloads: Mapping[str, AnyMessage] | None = None, sync_fs: bool = False,
    ) -> Descriptor:  # fmt: skip
        """As asked."""
        call = self._inner.apply(layer, mounts, payloads=payloads, sync_fs=sync_fs)
        return await self._peer.within(self._peer.limits.layer, f"apply layer {layer.digest}", call)

    async def compare(
        self, lower: Sequence[Mount], upper: Sequence[Mount],
        *, media_type: str = "", ref: str = "", labels: Mapping[str, str] | None = None,
        source_date_epoch_ns: int | None = None,
    ) -> Descriptor:  # fmt: skip
        """As asked."""
        call = self._inner.compare(
            lower, upper, media_type=media_type, ref=ref, labels=labels, source_date_epoch_ns=source_date_epoch_ns
        )
        return await self._peer.within(self._peer.limits.layer, "compare snapshots", call)


class BoundedController:
    """``core.sandboxes.SandboxController`` that asks another one; waiting for an end takes as long as it takes."""

    def __init__(self, inner: SandboxController, peer: Peer) -> None:
        self._inner, self._peer = inner, peer

    async def create(
        self, sandbox: Sandbox, *, rootfs: Sequence[Mount] = (), options: AnyMessage | None = None,
        netns_path: str = "", annotations: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """As asked."""
        call = self._inner.create(
            sandbox, rootfs=rootfs, options=options, netns_path=netns_path, annotations=annotations
        )
        await self._work("create", call)

    async def start(self, id: str) -> SandboxInstance:
        """As asked."""
        return await self._work("start", self._inner.start(id))

    async def platform(self, id: str) -> Platform:
        """As asked."""
        return await self._quick("platform", self._inner.platform(id))

    async def stop(self, id: str, timeout: float = 0.0) -> None:
        """As asked; ``timeout`` comes on top."""
        await self._peer.within(self._peer.limits.work + timeout, "stop", self._inner.stop(id, timeout))

    async def wait(self, id: str) -> SandboxExit:
        """As asked."""
        return await self._inner.wait(id)

    async def status(self, id: str, verbose: bool = False) -> SandboxStatus:
        """As asked."""
        return await self._quick("status", self._inner.status(id, verbose))

    async def shutdown(self, id: str) -> None:
        """As asked."""
        await self._work("shutdown", self._inner.shutdown(id))

    async def metrics(self, id: str) -> Metric:
        """As asked."""
        return await self._quick("metrics", self._inner.metrics(id))

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """As asked."""
        await self._quick("update", self._inner.update(id, sandbox, fieldpaths))

    async def _quick(self, step: str, call: Awaitable[T]) -> T:
        return await self._peer.within(self._peer.limits.call, step, call)

    async def _work(self, step: str, call: Awaitable[T]) -> T:
        return await self._peer.within(self._peer.limits.work, step, call)
