"""The OCI distribution protocol: resolve, fetch, push, authenticate."""

from __future__ import annotations

from portside.registry.client import Registry as Registry
from portside.registry.credentials import DockerCredentials as DockerCredentials
from portside.registry.endpoints import RegistryConfig as RegistryConfig
