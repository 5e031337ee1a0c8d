"""``ctr images convert``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import Session, command
from portside.cli.ctr.grammar import Values
from portside.cli.ctr.registry_options import PLATFORMS, platforms_of
from portside.cli.options import Option
from portside.client.convert import ConvertOptions
from portside.client.convert import convert as convert_image
from portside.oci.platform import host_platform


@command(
    "SOURCE TARGET",
    Option("--uncompress", help="layers without compression"),
    Option("--oci", help="documents and layers of Docker's kind as OCI's"),
    *PLATFORMS,
)
async def convert(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints the digest of what was made."""
    platforms = () if values["all_platforms"] else platforms_of(values) or (host_platform(),)
    services = session.services
    image = await services.images.get(words[0])
    options = ConvertOptions(values["uncompress"], values["oci"], platforms)
    print((await convert_image(services, image, words[1], options)).target.digest)
