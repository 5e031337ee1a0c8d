"""From what people write to what there is: containers by id, start of an id or name; images by name or id."""

from __future__ import annotations

from collections.abc import Sequence

from portside.client.labels import NAME
from portside.client.names import check_name
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import FailedPrecondition, InvalidArgument, NotFound
from portside.oci.reference import Reference


def name_of(container: Container) -> str:
    """Its name; the id of one that was made elsewhere, which has none."""
    return container.labels.get(NAME) or container.id


async def find_container(services: Services, text: str) -> Container:
    """The container with this id or name, or the only one whose id starts so; NotFound, FailedPrecondition."""
    if not text:
        raise InvalidArgument("container: empty name")
    try:
        return await services.containers.get(text)
    except (NotFound, InvalidArgument):
        pass
    named = await _named(services, text)
    if named:
        return named[0]
    if text.isascii() and text.isalnum():
        found = [entry for entry in await services.containers.list() if entry.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise FailedPrecondition(f"container {text!r}: {len(found)} ids start so")
    raise NotFound(f"container {text!r}: no such container in namespace {services.namespace}")


async def _named(services: Services, name: str) -> Sequence[Container]:
    """Those that carry the name; nothing that could not be a name gets into a filter."""
    try:
        return await services.containers.list([f'labels."{NAME}"=="{check_name(name)}"'])
    except InvalidArgument:
        return ()


async def find_image(services: Services, text: str) -> Image:
    """The image called ``text`` as it stands, or as people abbreviate it; NotFound."""
    names = [text]
    try:
        names.append(str(Reference.parse_familiar(text)))
    except InvalidArgument:
        pass
    for name in dict.fromkeys(names):
        try:
            return await services.images.get(name)
        except (NotFound, InvalidArgument):
            continue
    found = await _by_digest(services, text)
    if found is None:
        raise NotFound(f"image {text!r}: no such image in namespace {services.namespace}")
    return found


async def _by_digest(services: Services, text: str) -> Image | None:
    """The image whose target's digest starts with ``text``; FailedPrecondition if there are several different ones."""
    hexadecimal = text.removeprefix("sha256:")
    if len(hexadecimal) < 4 or not all(character in "0123456789abcdef" for character in hexadecimal):
        return None
    found = [image for image in await services.images.list() if image.target.digest.hex.startswith(hexadecimal)]
    if len({image.target.digest for image in found}) > 1:
        raise FailedPrecondition(f"image {text!r}: {len(found)} digests start so")
    return found[0] if found else None
