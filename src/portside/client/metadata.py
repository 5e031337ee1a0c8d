"""The documents of an image for all platforms, without layers: so that it can be pushed again as the whole it was."""

from __future__ import annotations

from portside.client.closure import MAX_DEPTH, add_labels, child_labels
from portside.client.fetch import fetch, fetch_document
from portside.client.flights import Flights
from portside.client.progress import ProgressCallback, ignore
from portside.client.sources import Source
from portside.core.services import Services
from portside.errors import InvalidArgument
from portside.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from portside.oci.image import Manifest, parse_document
from portside.oci.reference import Reference


async def fetch_metadata(
    services: Services, source: Source, reference: Reference, target: Descriptor,
    *, progress: ProgressCallback = ignore, depth: int = MAX_DEPTH,
) -> None:  # fmt: skip
    """Fetch indexes, manifests and configurations below ``target`` that are not here yet, and label them.

    The caller holds what comes by a lease. Errors are the registry's; InvalidArgument for indexes without an end.
    """
    if target.media_type not in INDEXES | MANIFESTS:
        return
    if not depth:
        raise InvalidArgument(f"image {reference}: more than {MAX_DEPTH} indexes within each other")
    flights = Flights()
    data = await fetch_document(services, source, reference, target, progress, flights)
    document = parse_document(data, target.media_type)
    await add_labels(services, target.digest, child_labels(document))
    if isinstance(document, Manifest):
        await fetch(services, source, reference, document.config, progress, flights)
        return
    for child in document.manifests:
        await fetch_metadata(services, source, reference, child, progress=progress, depth=depth - 1)
