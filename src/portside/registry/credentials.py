"""Credentials as ``docker login`` leaves them: ``~/.docker/config.json`` and credential helpers (docs.docker.com,
docker login).

What does not belong here: asking people, and sending anything to a registry.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portside.errors import InvalidArgument, Unavailable
from portside.registry.endpoints import Credentials

IDENTITY_TOKEN = "<token>"
AUTHORIZATION_HEADER = "<header>"
"""In the place of a user: the secret is a whole ``Authorization`` header."""
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_MAX_CONFIG = 4 << 20
_HELPER_TIMEOUT = 20.0


class DockerCredentials:
    """Callable as ``RegistryConfig.credentials``; the file is read for each question, helpers are run in the asking
    thread."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        directory = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
        self.path = Path(path) if path is not None else Path(directory) / "config.json"

    def __call__(self, host: str) -> Credentials | None:
        """What is known for ``host``; None if nothing is. InvalidArgument for a broken file, without its content."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_CONFIG + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            document = json.loads(data) if len(data) <= _MAX_CONFIG else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise InvalidArgument(f"{self.path}: not a JSON object")
        key = _HUB_KEY if host in ("docker.io", "registry-1.docker.io", "index.docker.io") else host
        helper = _table(document, "credHelpers").get(host) or document.get("credsStore")
        if helper:
            found = self._ask_helper(str(helper), key)
            if found is not None:
                return found
        return self._from_auths(_table(document, "auths"), key)

    def _from_auths(self, auths: Mapping[str, Any], key: str) -> Credentials | None:
        for name, entry in auths.items():
            if isinstance(entry, dict) and (name == key or _host_of(name) == _host_of(key)):
                return self._decode(name, entry)
        return None

    def _decode(self, name: str, entry: Mapping[str, Any]) -> Credentials | None:
        if entry.get("identitytoken"):
            return IDENTITY_TOKEN, str(entry["identitytoken"])
        if entry.get("auth"):
            try:
                text = base64.b64decode(str(entry["auth"]), validate=True).decode()
            except (binascii.Error, ValueError):
                raise InvalidArgument(f"{self.path}: the entry for {name[:100]!r} cannot be decoded") from None
            user, colon, secret = text.partition(":")
            return (user, secret.strip("\0")) if colon and user else None
        if entry.get("username"):
            return str(entry["username"]), str(entry.get("password") or "")
        return None

    def _ask_helper(self, helper: str, key: str) -> Credentials | None:
        if not _HELPER.fullmatch(helper):
            raise InvalidArgument(f"{self.path}: credential helper {helper[:60]!r} is not a name")
        program = f"docker-credential-{helper}"
        try:
            result = subprocess.run(
                [program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False
            )
        except FileNotFoundError:
            raise Unavailable(f"credentials for {key}: {program} is not installed") from None
        except (OSError, subprocess.TimeoutExpired):
            raise Unavailable(f"credentials for {key}: {program} does not run") from None
        if result.returncode:
            return None  # by convention: "credentials not found"
        try:
            answer = json.loads(result.stdout)
            user, secret = answer["Username"], answer["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Unavailable(f"credentials for {key}: {program} gives no answer that can be read") from None
        return (str(user), str(secret)) if secret else None


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _host_of(name: str) -> str:
    """``https://host:port/v1/`` and ``host:port`` are the same to docker."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]
