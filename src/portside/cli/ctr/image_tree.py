"""``ctr images inspect``: an image as a tree of what it consists of, here or not."""

from __future__ import annotations

import json
from collections.abc import Sequence

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.text import plain_time
from portside.cli.options import Option
from portside.client.closure import MAX_DEPTH
from portside.core.content import ContentStore, read_blob
from portside.errors import InvalidArgument, NotFound
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.image import Index, parse_document

_MIDDLE, _LAST, _SKIP, _SPACE = "├── ", "└── ", "│   ", "    "


@command("REF", Option("--content", help="with labels and documents"))
async def inspect(session: Session, values: Values, words: Sequence[str]) -> None:
    """Name, times and labels, then the tree."""
    image = await session.services.images.get(words[0])
    print(image.name)
    print(f"{_SKIP} Created: {plain_time(image.created_ns)}")
    print(f"{_SKIP} Updated: {plain_time(image.updated_ns)}")
    for key, value in sorted(image.labels.items()):
        print(f"{_SKIP} Label {_quoted(key)}: {_quoted(value)}")
    await _Printer(session.services.content, values["content"]).tree(image.target, _LAST, _SPACE, MAX_DEPTH)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Printer:
    """Prints blobs below each other."""

    def __init__(self, store: ContentStore, verbose: bool) -> None:
        self._store, self._verbose = store, verbose

    async def tree(self, blob: Descriptor, prefix: str, below: str, depth: int) -> None:
        """``blob`` after ``prefix``, what it consists of after ``below``."""
        if not depth:
            raise InvalidArgument(f"image: more than {MAX_DEPTH} indexes within each other")
        self._line(prefix, blob)
        if blob.platform is not None and blob.platform.architecture:
            print(f"{below}{_SKIP} Platform: {blob.platform}")
        try:
            data = await read_blob(self._store, blob.digest)
        except NotFound:
            print(f"{below}{_LAST} Content does not exist locally, skipping")
            return
        await self._content(blob, below + _SKIP)
        if blob.media_type not in INDEXES | MANIFESTS:
            return
        document = parse_document(data, blob.media_type)
        children = document.children()
        for number, child in enumerate(children):
            last = number == len(children) - 1
            if isinstance(document, Index):
                await self.tree(
                    child, below + (_LAST if last else _MIDDLE), below + (_SPACE if last else _SKIP), depth - 1
                )
                continue
            self._line(below + (_LAST if last else _MIDDLE), child)
            if child is document.config:
                await self._content(child, below + (_SPACE if last else _SKIP))

    def _line(self, prefix: str, blob: Descriptor) -> None:
        print(f"{prefix}{blob.media_type} @{blob.digest} ({blob.size} bytes)")

    async def _content(self, blob: Descriptor, prefix: str) -> None:
        if not self._verbose:
            return
        info = await self._store.info(blob.digest)
        if info.labels:
            print(f"{prefix}┌────────Labels─────────")
            for key, value in sorted(info.labels.items()):
                print(f"{prefix}│{_quoted(key)}: {_quoted(value)}")
            print(f"{prefix}└───────────────────────")
        if not blob.media_type.endswith("json"):
            return
        data = await read_blob(self._store, blob.digest)
        try:
            text = json.dumps(json.loads(data), indent=3, ensure_ascii=False)
        except ValueError:
            text = data.decode("utf-8", "replace").strip()
        print(f"{prefix}┌────────Content────────")
        for line in text.splitlines():
            print(f"{prefix}│{line}")
        print(f"{prefix}└───────────────────────")
