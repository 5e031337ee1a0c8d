"""Import: an archive of images becomes content and names. OCI image layouts (image-spec, image-layout.md) and what
``docker save`` writes, old form and new, also as gzip and zstd.

Everything an archive can make large has a limit (CVE-2023-25153): documents are read up to ``MAX_DOCUMENT``, all else
goes straight to the content store. Nothing is written to the file system by a name from the archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from portside.client.closure import MAX_DEPTH, add_labels, child_labels, config_of, is_whole, manifest_of, read_document
from portside.client.flights import Flights
from portside.client.inflate import inflated
from portside.client.leasing import hold, leased
from portside.client.progress import DONE, SAVING, Progress, ProgressCallback, ignore
from portside.client.store_image import store_image
from portside.client.unpack import unpack
from portside.core.content import MAX_DOCUMENT, ContentReader, ContentWriter, read_blob
from portside.core.images import Image
from portside.core.labels import UNCOMPRESSED
from portside.core.services import Services
from portside.core.transfer import UnpackConfiguration
from portside.core.work import in_thread
from portside.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from portside.layers.compression import GZIP, MAGIC_SIZE, PLAIN, detect
from portside.layers.tar import HARD_LINK, REGULAR, SYMBOLIC_LINK, Entry, TarParser
from portside.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEX,
    INDEXES,
    LAYER_ZSTD,
    MANIFESTS,
    Descriptor,
)
from portside.oci.digest import Digest
from portside.oci.image import Index, Manifest, parse_config, parse_index
from portside.oci.platform import Platform, host_platform
from portside.oci.reference import Reference

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
MAX_ENTRIES = 65536
"""Members of one archive; the largest real ones have a few thousand."""
MAX_IMAGES = 4096

_DOCUMENTS = frozenset({"oci-layout", "index.json", "manifest.json"})
_BLOB = re.compile(r"blobs/(sha256|sha384|sha512)/([0-9a-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``base_name`` names images that the archive only gives a tag (``base_name:tag``); without it they get none."""

    base_name: str = ""
    platform: Platform | None = None
    """Whose manifest is unpacked; None: this machine's."""
    snapshotter: str = ""
    unpack: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    index_name: str = ""
    """A name for the archive's whole index: ``index.json`` as it is, or one that is made of what docker's archives
    hold."""
    platforms: Sequence[Platform] = ()
    """Images for other platforms alone are left out; empty: all are taken."""
    unpacks: Sequence[UnpackConfiguration] = ()
    """What to unpack besides, and where."""
    names: Callable[[Descriptor], Sequence[str]] | None = None
    """How to call an image, by its descriptor with annotations; None: as ``base_name`` and the annotations say."""
    compress: bool = False
    """Compress the layers of docker's archives that are not."""
    plain: bool = False
    """The archive is not compressed, whatever it begins with."""


async def import_images(
    services: Services, chunks: AsyncIterator[bytes], options: ImportOptions | None = None,
    *, progress: ProgressCallback = ignore, flights: Flights | None = None,
) -> list[Image]:  # fmt: skip
    """Read an archive; the images that it named. Manifests for other platforms that it lacks are fine.

    InvalidArgument for what is not such an archive; DataLoss for a blob that is not what its name says; NotFound for an
    image of which a part is missing. Nothing becomes visible unless all went well.
    """
    async with leased(services) as held:
        work = _Import(held, options or ImportOptions(), progress, flights or Flights())
        await work.read(chunks)
        return await work.finish()


class _Import:
    """One import at work."""

    def __init__(
        self, services: Services, options: ImportOptions, progress: ProgressCallback, flights: Flights
    ) -> None:
        self._services, self._options, self._progress, self._flights = services, options, progress, flights
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}

    # Reading --------------------------------------------------------------------------------------------------------

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Every member to where it belongs."""
        events = _events(chunks if self._options.plain else inflated(chunks))
        count = 0
        async for entry in events:
            if not isinstance(entry, Entry):
                continue
            count += 1
            if count > MAX_ENTRIES:
                raise ResourceExhausted(f"archive: more than {MAX_ENTRIES} members")
            name = _clean(entry.name)
            if entry.kind in (SYMBOLIC_LINK, HARD_LINK):
                self._links[name] = _target(name, _text(entry.link), hard=entry.kind == HARD_LINK)
            elif entry.kind == REGULAR:
                await self._file(name, entry.size, events)

    async def _file(self, name: str, size: int, events: AsyncIterator[Entry | memoryview]) -> None:
        blob = _BLOB.fullmatch(name)
        if name in _DOCUMENTS:
            self._documents[name] = await _collect(name, size, events)
        elif blob:
            digest = Digest.parse(f"{blob[1]}:{blob[2]}")
            await self._ingest(f"import-{digest}", name, size, digest, events)
        elif name.rpartition("/")[2] not in ("json", "VERSION", "repositories"):
            # docker save: what it is, manifest.json will say.
            await self._ingest(f"import-{os.urandom(8).hex()}", name, size, None, events)

    async def _ingest(
        self, ref: str, name: str, size: int, expected: Digest | None, events: AsyncIterator[Entry | memoryview]
    ) -> None:
        self._progress(Progress(name, SAVING, 0, size))
        try:
            writer = await self._services.content.writer(ref, size, expected)
        except AlreadyExists:
            assert expected is not None
            await hold(self._services, "content", expected)
            self._files[name] = Descriptor("", expected, size)
            return
        done = False
        try:
            if (await writer.status()).offset:
                await writer.truncate(0)
            written, hasher = 0, hashlib.sha256()
            while written < size:
                part = await anext(events)
                assert isinstance(part, memoryview)
                await writer.write(part)
                if expected is None:
                    await in_thread(hasher.update, part)
                written += len(part)
            digest = expected or Digest(f"sha256:{hasher.hexdigest()}")
            try:
                await writer.commit(size, digest)
            except AlreadyExists:
                pass
            except FailedPrecondition as error:
                raise DataLoss(f"archive: {name} is not what its name says ({error})") from error
            done = True
        finally:
            await writer.close()
            if not done:
                await self._abort(ref)
        await hold(self._services, "content", digest)
        self._files[name] = Descriptor("", digest, size)

    async def _abort(self, ref: str) -> None:
        try:
            await self._services.content.abort(ref)
        except NotFound:
            return

    # Naming ---------------------------------------------------------------------------------------------------------

    async def finish(self) -> list[Image]:
        """Make images of what was read."""
        if "oci-layout" in self._documents:
            named = self._layout()
        elif "manifest.json" in self._documents:
            named = await self._docker()
        else:
            raise InvalidArgument("archive: neither an OCI image layout nor made by docker save")
        named = [(name, target) for name, target in named if self._is_wanted(target)]
        if not named:
            asked = ", ".join(map(str, self._options.platforms))
            raise NotFound(f"archive: no image in it{f' for {asked}' if asked else ''}")
        for target in {target.digest: target for _, target in named}.values():
            await self._adopt(target)
        images: list[Image] = []
        for name, target in named:
            if name:
                plain = replace(target, annotations={}, platform=None)
                images.append(await store_image(self._services, name, plain, self._options.labels))
                self._progress(Progress(name, DONE))
        if self._options.index_name:
            images.append(await self._store_index([target for _, target in named]))
        if not images:
            raise InvalidArgument("archive: it names no image, and no name was given")
        return images

    def _layout(self) -> list[tuple[str, Descriptor]]:
        version = _json(self._documents["oci-layout"], "oci-layout")
        if not isinstance(version, dict) or version.get("imageLayoutVersion") != "1.0.0":
            raise InvalidArgument("archive: oci-layout is not of version 1.0.0")
        if "index.json" not in self._documents:
            raise InvalidArgument("archive: no index.json")
        index = parse_index(self._documents["index.json"], INDEX)
        if len(index.manifests) > MAX_IMAGES:
            raise ResourceExhausted(f"archive: more than {MAX_IMAGES} images")
        return [(name, child) for child in index.manifests for name in self._names(child)]

    def _is_wanted(self, target: Descriptor) -> bool:
        wanted = self._options.platforms
        if target.platform is None or not wanted:
            return True
        return any(platform.rank_of(target.platform) is not None for platform in wanted)

    def _names(self, descriptor: Descriptor) -> Sequence[str]:
        """What to call an image; an empty name for none, which is read all the same."""
        if self._options.names is None:
            return [self._name(descriptor)]
        return self._options.names(descriptor) or [""]

    def _name(self, descriptor: Descriptor) -> str:
        full = descriptor.annotations.get(NAME_ANNOTATION, "")
        tag = descriptor.annotations.get(REF_ANNOTATION, "")
        if full:
            return _checked(full)
        if tag and self._options.base_name:
            return _checked(f"{self._options.base_name}:{tag.rpartition(':')[2]}")
        if "/" in tag and ":" in tag:
            return _checked(tag)
        if self._options.base_name:
            return _checked(f"{self._options.base_name}@{descriptor.digest}")
        return ""

    async def _docker(self) -> list[tuple[str, Descriptor]]:
        entries = _json(self._documents["manifest.json"], "manifest.json")
        if not isinstance(entries, list) or len(entries) > MAX_IMAGES:
            raise InvalidArgument(f"archive: manifest.json is not a list of at most {MAX_IMAGES} images")
        named: list[tuple[str, Descriptor]] = []
        for entry in entries:
            target = await self._docker_image(entry)
            tags = entry.get("RepoTags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise InvalidArgument("archive: RepoTags of manifest.json must be strings")
            names = [str(Reference.parse_familiar(tag)) for tag in tags]
            if self._options.names is not None:
                annotated = [_annotated(target, name) for name in names] or [target]
                named += [(name, target) for each in annotated for name in self._names(each)]
                continue
            if not names and self._options.base_name:
                names = [_checked(f"{self._options.base_name}@{target.digest}")]
            named += [(name, target) for name in names or [""]]
        return named

    async def _docker_image(self, entry: Any) -> Descriptor:
        """Write the manifest that an entry of manifest.json stands for."""
        layers = entry.get("Layers") if isinstance(entry, dict) else None
        if not isinstance(layers, list) or not isinstance(entry.get("Config"), str):
            raise InvalidArgument("archive: an entry of manifest.json has no Config or no Layers")
        config = replace(self._found(entry["Config"]), media_type=DOCKER_CONFIG)
        parsed = parse_config(await read_blob(self._services.content, config.digest))
        descriptors = [await self._layer(path) for path in layers]
        manifest = Manifest(DOCKER_MANIFEST, config, tuple(descriptors))
        return replace(await self._write(manifest), platform=parsed.platform)

    async def _layer(self, path: Any) -> Descriptor:
        found = self._found(path)
        reader = await self._services.content.open(found.digest)
        try:
            kind = detect(await reader.read(0, MAGIC_SIZE))
        finally:
            await reader.close()
        if kind == PLAIN and self._options.compress:
            return replace(await self._compressed(found), media_type=DOCKER_LAYER_GZIP)
        media_type = DOCKER_LAYER if kind == PLAIN else DOCKER_LAYER_GZIP if kind == GZIP else LAYER_ZSTD
        return replace(found, media_type=media_type)

    async def _compressed(self, layer: Descriptor) -> Descriptor:
        """The layer as gzip, always the same for the same layer."""
        ref = f"compress-{layer.digest}"
        reader = await self._services.content.open(layer.digest)
        try:
            writer = await self._services.content.writer(ref)
            try:
                await writer.truncate(0)
                digest, size = await _deflate(reader, writer)
                await writer.commit(size, digest, {UNCOMPRESSED: layer.digest})
            except AlreadyExists:
                pass
            except BaseException:
                await writer.close()
                await self._abort(ref)
                raise
            finally:
                await writer.close()
        finally:
            await reader.close()
        await hold(self._services, "content", digest)
        return Descriptor("", digest, size)

    def _found(self, path: Any) -> Descriptor:
        name = _clean(path.encode("utf-8", "surrogateescape")) if isinstance(path, str) else ""
        for _ in range(MAX_DEPTH):
            if name in self._files:
                return self._files[name]
            name = self._links.get(name, "")
        raise NotFound(f"archive: manifest.json names {str(path)[:200]!r}, which is not in it")

    async def _write(self, document: Manifest | Index, data: bytes = b"") -> Descriptor:
        data = data or json.dumps(document.to_json(), separators=(",", ":")).encode()
        digest = Digest.of(data)
        labels = child_labels(document)
        try:
            writer = await self._services.content.writer(f"import-{digest}", len(data), digest)
        except AlreadyExists:
            await hold(self._services, "content", digest)
            await add_labels(self._services, digest, labels)
            return Descriptor(document.media_type, digest, len(data))
        try:
            await writer.truncate(0)
            await writer.write(data)
            await writer.commit(len(data), digest, labels)
        except AlreadyExists:
            pass
        finally:
            await writer.close()
        return Descriptor(document.media_type, digest, len(data))

    async def _store_index(self, targets: list[Descriptor]) -> Image:
        data = self._documents["index.json"] if "oci-layout" in self._documents else b""
        unique = tuple({target.digest: target for target in targets}.values())
        written = await self._write(parse_index(data, INDEX) if data else Index(INDEX, unique), data)
        # Names that a caller makes by rules of its own are not ours to change.
        name = self._options.index_name if self._options.names else _checked(self._options.index_name)
        return await store_image(self._services, name, written, self._options.labels)

    # Checking -------------------------------------------------------------------------------------------------------

    async def _adopt(self, target: Descriptor) -> None:
        """Label the tree below ``target`` and unpack what this machine runs; NotFound if nothing in it is whole."""
        if not await self._label(target, MAX_DEPTH):
            raise NotFound(f"archive: of image {target.digest} a part is missing")
        if target.media_type not in INDEXES | MANIFESTS:
            return
        for each in self._options.unpacks:
            await self._unpack(target, each.platform or host_platform(), each.snapshotter)
        if self._options.unpack:
            await self._unpack(target, self._options.platform or host_platform(), self._options.snapshotter)

    async def _unpack(self, target: Descriptor, wanted: Platform, snapshotter: str) -> None:
        """Make the snapshots of what of ``target`` runs on ``wanted``, if anything does."""
        try:
            _, manifest = await manifest_of(self._services, target, wanted)
            config = await config_of(self._services, manifest)
        except (NotFound, InvalidArgument):
            return
        if wanted.rank_of(config.platform) is not None and config.diff_ids:
            await unpack(self._services, manifest, config, snapshotter, progress=self._progress, flights=self._flights)

    async def _label(self, target: Descriptor, depth: int) -> bool:
        """Whether ``target`` is whole, or, for an index, something in it is; its labels are set then."""
        if target.media_type not in INDEXES | MANIFESTS or not depth:
            return await is_whole(self._services, target)
        try:
            document = await read_document(self._services, target)
        except NotFound:
            return False
        if isinstance(document, Manifest):
            whole = all([await is_whole(self._services, child) for child in document.children() if not child.urls])
        else:
            whole = any([await self._label(child, depth - 1) for child in document.children()])
        if whole:
            await add_labels(self._services, target.digest, child_labels(document))
        return whole


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Entry | memoryview]:
    """Entries and their data; a part of data is good until the next is asked for."""
    parser = TarParser()
    async for chunk in chunks:
        if chunk:
            parser.feed(chunk)
            while (event := parser.next_event()) is not None:
                yield event
    parser.feed(b"")
    while (event := parser.next_event()) is not None:
        yield event


async def _deflate(reader: ContentReader, writer: ContentWriter) -> tuple[Digest, int]:
    """All that ``reader`` has, as gzip without a time; its digest and size."""
    import zlib

    deflater, hasher = zlib.compressobj(6, zlib.DEFLATED, 31), hashlib.sha256()
    offset = size = 0
    while True:
        part = await reader.read(offset, 1 << 20)
        offset += len(part)
        packed = await in_thread(deflater.compress, part) if part else await in_thread(deflater.flush)
        if packed:
            await in_thread(hasher.update, packed)
            await writer.write(packed)
            size += len(packed)
        if not part:
            return Digest(f"sha256:{hasher.hexdigest()}"), size


def _annotated(target: Descriptor, name: str) -> Descriptor:
    """``target`` as an OCI layout would name it."""
    return replace(target, annotations={**target.annotations, NAME_ANNOTATION: name})


async def _collect(name: str, size: int, events: AsyncIterator[Entry | memoryview]) -> bytes:
    if size > MAX_DOCUMENT:
        raise ResourceExhausted(f"archive: {name} has {size} bytes, more than the {MAX_DOCUMENT} of a document")
    data = bytearray()
    while len(data) < size:
        part = await anext(events)
        assert isinstance(part, memoryview)
        data += part
    return bytes(data)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _clean(name: bytes) -> str:
    """A member's name without ``./`` and the like, to compare by; it is never used as a path."""
    return "/".join(part for part in _text(name).split("/") if part not in ("", "."))


def _target(name: str, link: str, *, hard: bool) -> str:
    """The member that a link stands for."""
    parts = [] if hard or link.startswith("/") else name.split("/")[:-1]
    for part in link.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"archive: {what} is not JSON: {str(error)[:200]}") from error


def _checked(name: str) -> str:
    """A name for an image, as strict as a reference; InvalidArgument."""
    return str(Reference.parse_familiar(name))
