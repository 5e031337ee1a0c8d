"""How a client comes to be: over a daemon's socket, or over an engine in this process."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from portside.client.places import discover
from portside.core.services import Backend
from portside.sdk.client import Client
from portside.sdk.runner import LoopThread
from portside.sdk.sync import SyncClient

DEFAULT_ADDRESS = "/run/portside/portside.sock"
DEFAULT_ROOT = "/var/lib/portside"
DEFAULT_STATE = "/run/portside"
DEFAULT_NAMESPACE = "default"
GRACE = 1.0
"""Seconds that calls of other processes get when an engine in this one is closed."""

if TYPE_CHECKING:
    from portside.daemon.host import Host


class _Door:
    """Opens a backend when entered, closes it when left; containers go on unless their own block ended them."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._backend: Backend | None = None

    async def __aenter__(self) -> Client:
        self._backend = backend = await self._open()
        try:
            return Client(backend, self._namespace, await discover(backend.introspection))
        except BaseException:
            await self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self) -> Backend:
        raise NotImplementedError

    async def _close(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()


class connect(_Door):
    """``async with portside.connect() as c``: a client of a daemon, ours or upstream containerd.

    ``address`` is a socket's path, with or without ``unix://``; None: ``PORTSIDE_ADDRESS``, ``CONTAINERD_ADDRESS``,
    else our daemon's. Unavailable if nobody serves there.
    """

    def __init__(self, address: str | None = None, namespace: str | None = None) -> None:
        super().__init__(namespace or default_namespace())
        self.address = (address or default_address()).removeprefix("unix://")

    async def _open(self) -> Backend:
        return await _remote(self.address)


class Engine(_Door):
    """``async with portside.Engine(root=…) as c``: the whole engine in this process, no daemon.

    ``root`` keeps images and containers, ``state`` what need not survive a reboot (None: below ``root`` unless that is
    the default one). Who finds the root owned by another process becomes a client of that, and notices no difference.
    Containers that are not removed go on when the engine is closed; the next owner of the root adopts them.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, state: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(namespace or default_namespace())
        self.root = Path(root or DEFAULT_ROOT).absolute()
        self.state = Path(state or (DEFAULT_STATE if root is None else self.root / "state")).absolute()
        self._host: Host | None = None

    async def _open(self) -> Backend:
        from portside.daemon.config import DaemonConfig
        from portside.daemon.host import Host
        from portside.engine.ownership import RootLocked

        try:
            self._host = await Host.start(DaemonConfig(root=self.root, state=self.state))
        except RootLocked as locked:
            if not locked.address:
                raise
            return await _remote(locked.address)
        return self._host.backend

    async def _close(self) -> None:
        host, self._host = self._host, None
        if host is None:
            await super()._close()
        else:
            self._backend = None
            await host.stop(GRACE)


async def _remote(address: str) -> Backend:
    from portside.remote.backend import RemoteBackend

    return await RemoteBackend.connect(address)


def default_address() -> str:
    """The socket that is meant when none is named."""
    return os.environ.get("PORTSIDE_ADDRESS") or os.environ.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS


def default_namespace() -> str:
    """The namespace that is meant when none is named."""
    return os.environ.get("PORTSIDE_NAMESPACE") or os.environ.get("CONTAINERD_NAMESPACE") or DEFAULT_NAMESPACE


class _SyncDoor:
    """A door whose client lives on an event loop in a thread of its own."""

    def __init__(self, door: _Door) -> None:
        self._door = door
        self._loop: LoopThread | None = None

    def __enter__(self) -> SyncClient:
        self._loop = loop = LoopThread()
        try:
            return SyncClient(loop, loop.run(self._door.__aenter__()))
        except BaseException:
            loop.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.run(self._door.__aexit__(kind, error, traceback))
            finally:
                loop.close()


class connect_sync(_SyncDoor):
    """``with portside.connect_sync() as c``: ``connect`` for code without asyncio."""

    def __init__(self, address: str | None = None, namespace: str | None = None) -> None:
        super().__init__(connect(address, namespace))


class EngineSync(_SyncDoor):
    """``with portside.EngineSync(root=…) as c``: ``Engine`` for code without asyncio."""

    def __init__(
        self, root: str | os.PathLike[str] | None = None, state: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(Engine(root, state, namespace))
