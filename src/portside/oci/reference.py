"""Image references: ``host[:port]/path[:tag][@digest]`` (distribution-spec; familiar names as Docker expands them)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from portside.errors import InvalidArgument
from portside.oci.digest import Digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?",
    re.ASCII,
)
DEFAULT_HOST = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """A full reference: the host is always there; tag and digest may both be, and the digest then decides."""

    host: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """A full reference, strict: the first component is the host."""
        name, _, digest = text.partition("@")
        host, slash, rest = name.partition("/")
        tag = ""
        head, colon, last = rest.rpartition(":")
        if colon and "/" not in last:
            rest, tag = head, last
        if not slash or not _HOST.fullmatch(host) or not _PATH.fullmatch(rest) or len(rest) > 255:
            raise InvalidArgument(f"image reference {text[:300]!r}: want host/name[:tag][@digest] in lower case")
        if (colon and "/" not in last) and not _TAG.fullmatch(tag):
            raise InvalidArgument(f"image reference {text[:300]!r}: tag {tag[:140]!r} is not valid")
        return cls(host, rest, tag, Digest.parse(digest) if "@" in text else None)

    @classmethod
    def parse_familiar(cls, text: str) -> Reference:
        """What people type: ``busybox`` is ``docker.io/library/busybox:latest``."""
        first, slash, _ = text.partition("/")
        is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
        full = text if is_host else f"{DEFAULT_HOST}/{text}" if slash else f"{DEFAULT_HOST}/library/{text}"
        reference = cls.parse(full)
        if not reference.tag and reference.digest is None:
            return cls(reference.host, reference.path, "latest")
        return reference

    @property
    def name(self) -> str:
        """Host and path, without tag and digest."""
        return f"{self.host}/{self.path}"

    @property
    def object(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag or "latest"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
