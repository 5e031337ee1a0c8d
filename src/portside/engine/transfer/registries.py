"""A registry as a transfer names it: the client of ``registry/`` with its credentials, headers and hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portside.core.transfer import OCIRegistry
from portside.engine.transfer.config import TransferConfig
from portside.errors import InvalidArgument
from portside.oci.reference import DEFAULT_HOST
from portside.registry.client import Registry
from portside.registry.credentials import AUTHORIZATION_HEADER, IDENTITY_TOKEN
from portside.registry.endpoints import Credentials, RegistryConfig

HUB = "registry-1.docker.io"
_PLAIN = {"": None, "http": True, "https": False}


@asynccontextmanager
async def registry_of(end: OCIRegistry, config: TransferConfig) -> AsyncIterator[Registry]:
    """For the length of the block. InvalidArgument for a scheme that is none or headers that cannot be sent."""
    if end.default_scheme not in _PLAIN:
        raise InvalidArgument(f"registry for {end.reference}: scheme {end.default_scheme[:40]!r}: want http or https")
    for name, value in end.headers.items():
        if not name or any(not 32 <= ord(character) < 127 for character in name + value):
            raise InvalidArgument(f"registry for {end.reference}: header {name[:40]!r} cannot be sent")

    async def credentials(host: str) -> Credentials | None:
        assert end.credentials is not None
        # Clients know Docker Hub by the address that containerd asks it by.
        found = await end.credentials(HUB if host == DEFAULT_HOST else host, end.reference)
        if found is None:
            return None
        if found.header:
            return AUTHORIZATION_HEADER, found.header
        return found.username or IDENTITY_TOKEN, found.secret

    loop = asyncio.get_running_loop()

    def trace(text: str) -> None:
        assert end.trace is not None
        loop.call_soon_threadsafe(end.trace, text)

    registry = Registry(
        RegistryConfig(
            plain_http=_PLAIN[end.default_scheme], headers=dict(end.headers),
            hosts_dir=end.host_dir or config.config_path or None,
            credentials=credentials if end.credentials is not None else None,
            trace=trace if end.trace is not None else None,
        )
    )  # fmt: skip
    try:
        yield registry
    finally:
        await registry.close()
