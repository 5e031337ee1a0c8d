"""``ctr images`` on records and on what is here; registries, archives and mounts have modules of their own."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import QUIET, Session, command, complain, each, pairs
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.image_content import contents, diff_ids, platforms
from portside.cli.ctr.text import binary_size, label_text, print_table
from portside.cli.ctr.tree import SNAPSHOTTER
from portside.cli.options import Option
from portside.client.store_image import store_image
from portside.client.unpack import is_unpacked
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import FailedPrecondition, InvalidArgument, NotFound, PortsideError
from portside.oci.descriptor import Descriptor
from portside.oci.digest import Digest, chain_id
from portside.oci.platform import host_platform
from portside.oci.reference import Reference


@command("[FILTER...]", QUIET)
async def list_images(session: Session, values: Values, words: Sequence[str]) -> None:
    """With target, size for this machine, platforms and labels."""
    services = session.services
    found = await services.images.list(list(words))
    if values["quiet"]:
        for image in found:
            print(image.name)
        return
    rows = []
    for image in found:
        size, names = 0, set[str]()
        try:
            size = (await contents(services, image.target, host_platform())).size
        except PortsideError as error:
            complain(f"image {image.name}: its size is not known: {error}")
        try:
            names = await platforms(services, image.target)
        except PortsideError as error:
            complain(f"image {image.name}: its platforms are not known: {error}")
        rows.append(
            f"{image.name}\t{image.target.media_type}\t{image.target.digest}\t{binary_size(size)}\t"
            f"{','.join(sorted(names)) or '-'}\t{label_text(image.labels)}\t"
        )
    print_table(("REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\t", *rows))


@command("[FILTER...]", QUIET, SNAPSHOTTER, asks_snapshotters=True)
async def check(session: Session, values: Values, words: Sequence[str]) -> int:
    """1 if an image could not be looked at; one that is not all here is told in its row."""
    services = session.services
    status, rows = 0, []
    for image in await services.images.list(list(words)):
        try:
            state, size, complete = await _state(services, image.target)
        except PortsideError as error:
            complain(f"image {image.name}: {error}")
            state, size, complete, status = "error", "-", False, 1
        unpacked = await _is_unpacked(services, image, values["snapshotter"])
        if values["quiet"]:
            if complete and unpacked:
                print(image.name)
        else:
            rows.append(
                f"{image.name}\t{image.target.media_type}\t{image.target.digest}\t{state}\t{size}\t"
                f"{'true' if unpacked else 'false'}"
            )
    if rows:
        print_table(("REF\tTYPE\tDIGEST\tSTATUS\tSIZE\tUNPACKED\t", *rows))
    return status


async def _state(services: Services, target: Descriptor) -> tuple[str, str, bool]:
    """How much of an image is here, and whether that is all."""
    try:
        required = (await contents(services, target, host_platform())).blobs
    except NotFound:
        return "unavailable (0/?)", f"{binary_size(0)}/?", False
    present = [blob for blob in required if await _is_here(services, blob.digest)]
    complete = len(present) == len(required)
    sizes = [binary_size(sum(blob.size for blob in blobs)) for blobs in (present, required)]
    return f"{'' if complete else 'in'}complete ({len(present)}/{len(required)})", "/".join(sizes), complete


async def _is_here(services: Services, digest: Digest) -> bool:
    try:
        await services.content.info(digest)
    except NotFound:
        return False
    return True


async def _is_unpacked(services: Services, image: Image, snapshotter: str) -> bool:
    try:
        found = await diff_ids(services, image.target, host_platform())
        return await is_unpacked(services, [Digest(each) for each in found], snapshotter)
    except PortsideError:
        return False


@command("SOURCE TARGET...",
         Option("--force", help="replace the name if it is taken"),
         Option("--local", help="without the server's transfer service; always so"),
         Option("--skip-reference-check", help="any text is a name"))  # fmt: skip
async def tag(session: Session, values: Values, words: Sequence[str]) -> None:
    """AlreadyExists without --force."""
    services = session.services
    image = await services.images.get(words[0])
    for name in words[1:]:
        if not values["skip_reference_check"]:
            Reference.parse_familiar(name)
        if values["force"]:
            await store_image(services, name, image.target, image.labels)
        else:
            await services.images.create(Image(name, image.target, image.labels))
        print(name)


@command("REF [LABEL...]", Option("-r", "--replace-all", help="drop the labels that are not named"))
async def label(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints what the labels are then."""
    changes = pairs(words[1:])
    images = session.services.images
    image = await images.get(words[0])
    if changes:
        paths = ["labels"] if values["replace_all"] else [f"labels.{key}" for key in changes]
        image = await images.update(Image(image.name, image.target, changes), paths)
    print(label_text(image.labels, ""))


@command("REF...", Option("--sync", help="return when what it kept alone is gone"))
async def delete(session: Session, values: Values, words: Sequence[str]) -> int:
    """One by one; the last one with ``--sync``. One that is not here is told, and fine."""

    async def one(name: str) -> None:
        try:
            await session.services.images.delete(name, bool(values["sync"]) and name == words[-1])
        except NotFound:
            complain(f"{name}: image not found")
            return
        print(name)

    return await each(words, one)


@command("", Option("--all", help="all that no container is made of; without it none is removed"))
async def prune(session: Session, values: Values, words: Sequence[str]) -> int:
    """What was removed is told on standard error."""
    if not values["all"]:
        complain("no images are removed without --all")
        return 0
    services = session.services
    used = {container.image for container in await services.containers.list()}
    names = [image.name for image in await services.images.list() if image.name not in used]

    async def one(name: str) -> None:
        try:
            await services.images.delete(name, name == names[-1])
        except NotFound:
            return
        complain(f"removed image {name}")

    return await each(names, one)


@command("REF", SNAPSHOTTER, asks_snapshotters=True)
async def usage(session: Session, values: Values, words: Sequence[str]) -> None:
    """Each from the top one down."""
    services = session.services
    snapshotter = services.snapshotter(values["snapshotter"])
    image = await services.images.get(words[0])
    layers = [Digest(each) for each in await diff_ids(services, image.target, host_platform())]
    if not layers:
        raise InvalidArgument(f"image {image.name}: no layers")
    if not await is_unpacked(services, layers, values["snapshotter"]):
        raise FailedPrecondition(f"image {image.name}: not unpacked in this snapshotter")
    key, rows = str(chain_id(layers)), []
    while key:
        used = await snapshotter.usage(key)
        rows.append(f"{key}\t{binary_size(used.size)}\t{used.inodes}\t")
        key = (await snapshotter.stat(key)).parent
    print_table(("KEY\tSIZE\tINODES\t", *rows))
