"""Objects of transfers as typed values and back, and values that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.convert.transfer import (
    auth_response,
    credentials_from_any,
    data_from_any,
    data_to_any,
    image_store_from_pb,
    image_store_to_pb,
    pack_any,
    platforms_from_pb,
    progress_from_any,
    progress_to_any,
    snapshot_from_pb,
    snapshot_to_pb,
    window_from_any,
    window_to_any,
)
from portside.core.anymessage import AnyMessage
from portside.core.transfer import (
    ImageReference,
    ImageStore,
    Progress,
    RegistryCredentials,
    Snapshot,
    UnpackConfiguration,
)
from portside.errors import InvalidArgument
from portside.oci.descriptor import LAYER, Descriptor
from portside.oci.digest import Digest
from portside.oci.platform import Platform
from portside.wire.pb.containerd.types import platform_pb2
from portside.wire.pb.containerd.types.transfer import imagestore_pb2, registry_pb2

AMD64, ARM = Platform("linux", "amd64"), Platform("linux", "arm", "v7")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT, TEXT.filter(bool), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_image_stores(name: str, reference: str, one: bool, other: bool, limit: int) -> None:
    store = ImageStore(
        name, {"color": name}, (AMD64, ARM), one, limit,
        (ImageReference(reference, one, other, other, one),),
        (UnpackConfiguration(AMD64, "native"), UnpackConfiguration()),
    )  # fmt: skip
    assert image_store_from_pb(image_store_to_pb(store)) == store


@given(TEXT, TEXT, TEXT)
def test_snapshots(key: str, parent: str, snapshotter: str) -> None:
    snapshot = Snapshot(key, parent, snapshotter, {"a": "b"})
    assert snapshot_from_pb(snapshot_to_pb(snapshot)) == snapshot


@given(TEXT, TEXT, st.integers(0, 2**62), st.booleans())
def test_progress(event: str, name: str, size: int, described: bool) -> None:
    descriptor = Descriptor(LAYER, Digest.of(b"x"), size) if described else None
    progress = Progress(event, name, ("a", "b"), size, size, descriptor)
    assert progress_from_any(progress_to_any(progress)) == progress


@given(st.binary(max_size=1000), st.integers(0, 2**31 - 1))
def test_bytes_and_leave(data: bytes, window: int) -> None:
    assert data_from_any(data_to_any(data), "x") == data
    assert window_from_any(window_to_any(window), "x") == window


def test_type_urls_are_bare_names_and_read_with_a_host() -> None:
    value = data_to_any(b"x")
    assert value.type_url == "containerd.types.transfer.Data"
    assert data_from_any(AnyMessage("type.googleapis.com/" + value.type_url, value.value), "x") == b"x"


@pytest.mark.parametrize(
    "found",
    [
        None,
        RegistryCredentials("user", "secret"),
        RegistryCredentials(secret="a token"),
        RegistryCredentials(header="Bearer abc"),
    ],
)
def test_credentials(found: RegistryCredentials | None) -> None:
    assert credentials_from_any(auth_response(found), "x") == found


def test_credentials_without_any() -> None:
    """What ctr answers for a host that it knows nothing of."""
    answer = pack_any(registry_pb2.AuthResponse(authType=registry_pb2.REFRESH))
    assert credentials_from_any(answer, "x") is None


def test_what_is_refused() -> None:
    for value in (
        AnyMessage("", b""),
        AnyMessage("other.Type", b"x"),
        AnyMessage("containerd.types.transfer.Data", b"\xff"),
    ):
        with pytest.raises(InvalidArgument, match="stream x"):
            data_from_any(value, "stream x")
    with pytest.raises(InvalidArgument, match="want both parts"):
        platforms_from_pb([platform_pb2.Platform(os="linux")])
    with pytest.raises(InvalidArgument, match="has no name"):
        image_store_from_pb(imagestore_pb2.ImageStore(extra_references=[imagestore_pb2.ImageReference(is_prefix=True)]))
    unknown = registry_pb2.AuthResponse(authType=9, secret="s")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="kind 9"):
        credentials_from_any(pack_any(unknown), "x")
