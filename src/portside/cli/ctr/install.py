"""``ctr install``: the programs (and libraries) of an image into a directory of this machine.

Of each layer the files straight below ``bin`` (with ``--libs`` also ``lib``), nothing else: no directories below
them, no devices. What an archive calls its members is never a path here, only the last part of its name is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Flag, Values
from portside.cli.options import Option
from portside.client.closure import manifest_of
from portside.client.uncompressed import uncompressed
from portside.core.services import Services
from portside.errors import AlreadyExists, FailedPrecondition
from portside.layers.tar import HARD_LINK, REGULAR, SYMBOLIC_LINK, Entry, TarParser
from portside.oci.descriptor import Descriptor


@command(
    "REF",
    Option("-l", "--libs", help="libraries, too"),
    Option("-r", "--replace", help="replace what is there"),
    Flag("--path", value="DIR", help="where; default: the directory that the server tells (plugin opt)"),
)
async def install(session: Session, values: Values, words: Sequence[str]) -> None:
    """AlreadyExists for a file that is there, without ``--replace``."""
    services = session.services
    image = await services.images.get(words[0])
    path = values["path"] or await _managed_path(session)
    _, manifest = await manifest_of(services, image.target)
    directories = ("bin", "lib") if values["libs"] else ("bin",)
    target = _Target(path, directories, values["replace"])
    for layer in manifest.layers:
        await _layer(services, layer, target)


async def _managed_path(session: Session) -> str:
    plugins = await session.backend.introspection.plugins(["id==opt"])
    if not plugins or not plugins[0].exports.get("path"):
        raise FailedPrecondition("the server has no directory of its own for programs; say where with --path")
    return plugins[0].exports["path"]


async def _layer(services: Services, layer: Descriptor, target: _Target) -> None:
    parser = TarParser()
    try:
        async for data in uncompressed(services.content, layer.digest):
            parser.feed(data)
            while (event := parser.next_event()) is not None:
                if isinstance(event, Entry):
                    target.begin(event)
                else:
                    target.write(event)
        target.finish()
    finally:
        target.abandon()


class _Target:
    """Files that are installed: written under another name, then renamed."""

    def __init__(self, path: str, directories: Sequence[str], replace: bool) -> None:
        self._path, self._directories, self._replace = path, directories, replace
        self._fd, self._temporary, self._final = -1, "", ""

    def begin(self, entry: Entry) -> None:
        """The next member of the archive."""
        self.finish()
        parts = [part for part in entry.name.decode("utf-8", "surrogateescape").split("/") if part not in ("", ".")]
        if len(parts) != 2 or parts[0] not in self._directories or ".." in parts or parts[1].startswith(".wh."):
            return
        if entry.kind not in (REGULAR, SYMBOLIC_LINK, HARD_LINK):
            return
        directory = os.path.join(self._path, parts[0])
        os.makedirs(directory, exist_ok=True)
        final = os.path.join(directory, parts[1])
        if not self._replace and os.path.lexists(final):
            raise AlreadyExists(f"cannot replace {'/'.join(parts)} in {self._path}")
        temporary = os.path.join(directory, f".{parts[1]}.{os.urandom(4).hex()}")
        link = entry.link.decode("utf-8", "surrogateescape")
        if entry.kind == SYMBOLIC_LINK:
            os.symlink(link, temporary)
            os.rename(temporary, final)
        elif entry.kind == HARD_LINK:
            os.link(os.path.join(directory, os.path.basename(link)), temporary, follow_symlinks=False)
            os.rename(temporary, final)
        else:
            self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._temporary, self._final = temporary, final
            os.fchown(self._fd, entry.uid, entry.gid)
            os.fchmod(self._fd, entry.mode & 0o7777)

    def write(self, data: memoryview) -> None:
        """Bytes of the member."""
        while self._fd >= 0 and data:
            data = data[os.write(self._fd, data) :]

    def finish(self) -> None:
        """The member is complete."""
        if self._fd >= 0:
            os.close(self._fd)
            os.rename(self._temporary, self._final)
            self._fd = -1

    def abandon(self) -> None:
        """What is half written goes."""
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._temporary)
            self._fd = -1
