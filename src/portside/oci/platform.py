"""Platforms, and which of those that an image offers fits best (image-spec, image-index.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from portside.errors import InvalidArgument

_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm",
    "armv7l": "arm", "armv6l": "arm", "i386": "386", "i686": "386",
}  # fmt: skip
_VARIANTS = {"armv7l": "v7", "armv6l": "v6", "armhf": "v7", "armel": "v6"}


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform; ``variant`` is empty where it does not matter (amd64) or is the default (arm64 is v8)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/arch[/variant]``, or an architecture alone; normalised."""
        parts = text.split("/")
        if not 1 <= len(parts) <= 3 or not all(
            part and part.replace("_", "").replace("-", "").replace(".", "").isalnum() for part in parts
        ):
            raise InvalidArgument(f"platform {text!r}: want os/architecture[/variant]")
        if len(parts) == 1:
            parts = ["linux", parts[0]]
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "").normalized()

    @classmethod
    def from_json(cls, document: Any) -> Platform:
        """From an index's descriptor or an image config."""
        if not isinstance(document, dict):
            raise InvalidArgument("platform: not a JSON object")
        text = [document.get(key) or "" for key in ("os", "architecture", "variant", "os.version")]
        if not all(isinstance(value, str) for value in text):
            raise InvalidArgument("platform: os, architecture and variant must be strings")
        features = document.get("os.features") or []
        if not isinstance(features, list) or not all(isinstance(value, str) for value in features):
            raise InvalidArgument("platform: os.features must be a list of strings")
        return cls(text[0], text[1], text[2], text[3], tuple(features)).normalized()

    def to_json(self) -> dict[str, Any]:
        """As in an index's descriptor; empty fields left out."""
        document: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            document["variant"] = self.variant
        if self.os_version:
            document["os.version"] = self.os_version
        if self.os_features:
            document["os.features"] = list(self.os_features)
        return document

    def normalized(self) -> Platform:
        """With the field's usual names: x86_64 is amd64, arm64/v8 is arm64, arm is arm/v7."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        variant = self.variant or _VARIANTS.get(self.architecture, "")
        if architecture == "arm64" and variant in ("8", "v8"):
            variant = ""
        elif architecture == "arm":
            variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
        elif architecture == "amd64" and variant == "v1":
            variant = ""
        return Platform(self.os.lower(), architecture, variant, self.os_version, self.os_features)

    def rank_of(self, offered: Platform) -> int | None:
        """How well ``offered`` runs here: 0 is best, None not at all. Arm runs older variants, amd64 lower levels."""
        if (offered.os, offered.architecture) != (self.os, self.architecture):
            return None
        if offered.variant == self.variant:
            return 0
        mine, theirs = _level(self.variant), _level(offered.variant)
        if mine is None or theirs is None or theirs > mine:
            return None
        return mine - theirs

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _level(variant: str) -> int | None:
    if not variant:
        return 1
    return int(variant[1:]) if variant[:1] == "v" and variant[1:].isascii() and variant[1:].isdigit() else None


def host_platform() -> Platform:
    """The platform of this machine."""
    return Platform("linux", os.uname().machine).normalized()
