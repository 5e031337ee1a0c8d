"""Content digests: ``algorithm:hex`` (OCI image-spec, descriptor.md, Digests)."""

from __future__ import annotations

import hashlib
import re

from portside.errors import InvalidArgument

_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Digest(str):
    """A checked digest; it is its own text, so it serves wherever the text is wanted."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check ``text``; unknown algorithms, wrong lengths and upper case are InvalidArgument."""
        algorithm, _, value = text.partition(":")
        if _LENGTHS.get(algorithm) != len(value) or not _HEX.fullmatch(value):
            raise InvalidArgument(f"digest {text[:160]!r}: want sha256:, sha384: or sha512: and lower-case hex")
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of ``data``."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def algorithm(self) -> str:
        """``sha256`` …, also hashlib's name for it."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]


def chain_id(diff_ids: list[Digest]) -> Digest:
    """The name of the snapshot with all of ``diff_ids`` applied, lowest first (image-spec config.md, Layer ChainID)."""
    if not diff_ids:
        raise InvalidArgument("chain ID of no layers")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = Digest.of(f"{chain} {diff_id}".encode())
    return chain
