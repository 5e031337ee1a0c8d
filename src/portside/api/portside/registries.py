"""The registry client for one request: what the request says, else what ``docker login`` left on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portside.registry.client import Registry
from portside.registry.credentials import DockerCredentials
from portside.registry.endpoints import RegistryConfig


@asynccontextmanager
async def registry_for(*, plain_http: bool = False, user: str = "", password: str = "") -> AsyncIterator[Registry]:
    """A registry client for the length of the block. Plain HTTP is also used, unasked, for hosts on loopback."""
    credentials = (lambda host: (user, password)) if user else DockerCredentials()
    registry = Registry(RegistryConfig(plain_http=True if plain_http else None, credentials=credentials))
    try:
        yield registry
    finally:
        await registry.close()
