"""From what people write to containers and images."""

from __future__ import annotations

import pytest

from portside.client.labels import NAME
from portside.client.lookup import find_container, find_image, name_of
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.services import Services
from portside.errors import FailedPrecondition, InvalidArgument, NotFound
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest


async def make(services: Services, id: str, name: str = "") -> Container:
    labels = {NAME: name} if name else {}
    return await services.containers.create(Container(id, "io.containerd.runc.v2", AnyMessage(SPEC, b"{}"), labels))


async def test_containers(services: Services) -> None:
    await make(services, "abc123", "web")
    await make(services, "abd456", "abc")
    await make(services, "made-by-ctr")
    for text, id in (
        ("abc123", "abc123"),
        ("abc1", "abc123"),
        ("web", "abc123"),
        ("abc", "abd456"),
        ("made-by-ctr", "made-by-ctr"),
    ):
        assert (await find_container(services, text)).id == id
    assert name_of(await find_container(services, "made-by-ctr")) == "made-by-ctr"
    with pytest.raises(FailedPrecondition, match="2 ids"):
        await find_container(services, "ab")
    for text in ("we", "zzz", 'we"b', "we\\b", "we\nb", "wëb", " ", "a" * 1000, "../x", "labels.x==y"):
        with pytest.raises(NotFound):
            await find_container(services, text)
    with pytest.raises(InvalidArgument):
        await find_container(services, "")


async def test_images(services: Services) -> None:
    digests = [Digest.of(bytes([number])) for number in range(2)]
    for name, digest in (
        ("docker.io/library/busybox:latest", digests[0]),
        ("example.org/x:v1", digests[0]),
        ("odd", digests[1]),
    ):
        await services.images.create(Image(name, Descriptor(MANIFEST, digest, 1)))
    assert (await find_image(services, "busybox")).name == "docker.io/library/busybox:latest"
    assert (await find_image(services, "example.org/x:v1")).name == "example.org/x:v1"
    assert (await find_image(services, "odd")).name == "odd"
    assert (await find_image(services, digests[1])).name == "odd"
    assert (await find_image(services, digests[1].hex[:12])).name == "odd"
    assert (await find_image(services, digests[0].hex[:12])).target.digest == digests[0]
    for text in ("nothing", "", "UPPER CASE", "sha256:abc", "0000"):
        with pytest.raises(NotFound):
            await find_image(services, text)
