"""What an examination says, as data: who has the bytes, what is wrong, what was verified. Printing is for ``cli/``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[str, int, int], None]
"""Told what is looked at, and how much of how much is done (bytes or objects)."""


def ignore(what: str, done: int, total: int) -> None:
    """A ``Progress`` for nobody."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who bytes belong to: ``name`` tells which one of ``kind``.

    Kinds are ``container``, ``image``, ``sandbox``, ``lease``, ``ingest``, ``namespace``, ``log``, ``cache``,
    ``plugin``, ``metadata``, ``removed`` (being deleted), ``orphan``, ``young`` (not judged beside a daemon),
    ``foreign`` (not ours) and ``layout`` (directories of all).
    """

    kind: str
    name: str = ""


@dataclass(slots=True)
class Use:
    """What one owner takes: bytes on disk (allocated blocks), files and directories."""

    bytes: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``kind`` names the rule: ``orphan blob``, ``missing snapshot``, ``corrupt blob`` …"""

    kind: str
    name: str
    detail: str
    path: str = ""
    bytes: int = 0
    subject: Any = None
    """What a repair acts on; its type follows from ``kind``."""

    def to_json(self) -> dict[str, Any]:
        """Without the subject."""
        return {"kind": self.kind, "name": self.name, "detail": self.detail, "path": self.path, "bytes": self.bytes}


@dataclass(slots=True)
class Report:
    """All of it."""

    root: str
    running: bool
    """A daemon has the root: everything was only read, and what is young was not judged."""
    uses: dict[Owner, Use] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be told, and why."""
    verified: dict[str, int] = field(default_factory=dict)
    """How many ``blobs``, ``bytes`` and ``layers`` were verified and found right."""
    repaired: list[str] = field(default_factory=list)
    """What a repair did."""
    failed: list[str] = field(default_factory=list)
    """What a repair could not do."""

    def add(self, owner: Owner, bytes: int, inodes: int = 1) -> None:
        """Book bytes on an owner."""
        use = self.uses.setdefault(owner, Use())
        use.bytes += bytes
        use.inodes += inodes

    @property
    def bytes(self) -> int:
        """All that is on disk."""
        return sum(use.bytes for use in self.uses.values())

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return {
            "root": self.root,
            "running": self.running,
            "bytes": self.bytes,
            "owners": [
                {"kind": owner.kind, "name": owner.name, "bytes": use.bytes, "inodes": use.inodes}
                for owner, use in sorted(self.uses.items(), key=lambda item: -item[1].bytes)
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "notes": self.notes,
            "verified": self.verified,
            "repaired": self.repaired,
            "failed": self.failed,
        }
