"""Layers out of a content store onto snapshots and back, with the real store and the real drivers."""

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile

import pytest

from portside.core.labels import UNCOMPRESSED
from portside.core.mount import Mount, split_lowers
from portside.core.snapshots import Kind
from portside.engine.diff import LocalDiff
from portside.engine.directories import Target, stack_of, target_of
from portside.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from portside.layers.unpack import Whiteouts
from portside.oci.descriptor import LAYER, LAYER_GZIP, LAYER_ZSTD, MANIFEST, Descriptor
from portside.oci.digest import Digest
from tests.contracts.local import LocalBackend
from tests.layers.archives import info, make

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners and makes devices")


def file(name, data=b"", **fields):
    return info(name, **({"mode": 0o644, "mtime": 1000} | fields)), data


@pytest.fixture
async def backend(tmp_path):
    made = LocalBackend(tmp_path / "engine")
    yield made
    await made.close()


@pytest.fixture
def content(backend):
    return backend.bind("test").content


async def store(content, data, media_type=LAYER_GZIP):
    descriptor = Descriptor(media_type, Digest.of(data), len(data))
    writer = await content.writer(f"test-{descriptor.digest}", len(data), descriptor.digest)
    await writer.write(data)
    await writer.commit(len(data), descriptor.digest)
    await writer.close()
    return descriptor


def test_targets():
    assert target_of([Mount("bind", "/a", options=("rw", "rbind"))]) == Target("/a")
    overlay = Mount("overlay", "overlay", options=("index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"))
    assert target_of([overlay]) == Target("/u", ("/b", "/a"), Whiteouts.OVERLAY)
    in_namespace = Mount("overlay", "overlay", options=("userxattr", "workdir=/w", "upperdir=/u", "lowerdir=/a"))
    assert target_of([in_namespace]).whiteouts == Whiteouts.USER_OVERLAY


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ([], InvalidArgument),
        ([Mount("bind", "/a", options=("ro", "rbind"))], FailedPrecondition),
        ([Mount("overlay", "overlay", options=("lowerdir=/a:/b",))], FailedPrecondition),
        ([Mount("ext4", "/dev/loop0", options=("ro",))], FailedPrecondition),
        ([Mount("bind", "/a", target="sub", options=("rw",))], Unimplemented),
        ([Mount("bind", "/a"), Mount("bind", "/b")], Unimplemented),
    ],
)
def test_no_targets(mounts, kind):
    with pytest.raises(kind):
        target_of(mounts)


def test_stacks():
    assert stack_of([]) == ()
    assert stack_of([Mount("bind", "/a", options=("ro", "rbind"))]) == ("/a",)
    assert stack_of([Mount("overlay", "overlay", options=("upperdir=/u", "lowerdir=/b:/a"))]) == ("/u", "/b", "/a")
    assert stack_of([Mount("erofs", "/x")]) is None and target_of([Mount("ext4", "/dev/loop0")]) is None


def test_colons_in_lower_directories():
    assert split_lowers(r"/a\:b:/c\\d::/e") == ("/a:b", r"/c\d", "/e")


@root_only
@pytest.mark.parametrize("name", ["overlayfs", "native"])
async def test_layers_onto_snapshots_and_back(backend, content, tmp_path, name):
    """Two layers, the second with a whiteout; then a change, compared, applied on the same parents: the same tree."""
    driver, diff = backend.drivers[name], LocalDiff(content)
    first = make(file("etc/keep", b"1"), file("etc/gone", b"2"), file("usr/x", b"3"))
    second = make(file("etc/.wh.gone"), file("etc/new", b"4"))
    driver.create(1, Kind.ACTIVE, ())
    applied = await diff.apply(await store(content, gzip.compress(first)), driver.mounts(1, Kind.ACTIVE, ()))
    assert applied == Descriptor(LAYER, Digest.of(first), len(first))
    driver.commit(1, sync=True)
    driver.create(2, Kind.ACTIVE, (1,))
    layer = await store(content, second, LAYER)
    await diff.apply(layer, driver.mounts(2, Kind.ACTIVE, (1,)), sync_fs=True)
    driver.commit(2, sync=False)
    driver.create(3, Kind.ACTIVE, (2, 1))
    upper = driver.files(3)
    (upper / "etc").mkdir(exist_ok=True)
    (upper / "etc" / "changed").write_text("5")
    if name == "native":
        (upper / "usr" / "x").unlink()
        (upper / "usr").rmdir()
    else:
        os.mknod(upper / "usr", stat.S_IFCHR, 0)
    driver.create(4, Kind.VIEW, (2, 1))
    mounts = driver.mounts(4, Kind.VIEW, (2, 1)), driver.mounts(3, Kind.ACTIVE, (2, 1))
    compared = await diff.compare(*mounts, ref="mine", labels={"a": "b"})
    stored = await content.info(compared.digest)
    assert compared.media_type == LAYER_GZIP and stored.size == compared.size and stored.labels["a"] == "b"
    reader = await content.open(compared.digest)
    plain = gzip.decompress(await reader.read(0, reader.size))
    await reader.close()
    assert stored.labels[UNCOMPRESSED] == "sha256:" + hashlib.sha256(plain).hexdigest()
    driver.create(5, Kind.ACTIVE, (2, 1))
    await diff.apply(compared, driver.mounts(5, Kind.ACTIVE, (2, 1)))
    again = await diff.compare(driver.mounts(3, Kind.ACTIVE, (2, 1)), driver.mounts(5, Kind.ACTIVE, (2, 1)))
    assert (await content.info(again.digest)).labels[UNCOMPRESSED] == "sha256:" + hashlib.sha256(
        bytes(1024)
    ).hexdigest()


def files_in_mounted(mount, target):
    target.mkdir()
    made = subprocess.run(["mount", "-t", "overlay", "-o", ",".join(mount.options), "overlay", target], check=False)
    if made.returncode:
        pytest.skip("this kernel or file system has no overlayfs")
    try:
        return {os.path.relpath(os.path.join(at, each), target) for at, _, files in os.walk(target) for each in files}
    finally:
        subprocess.run(["umount", target], check=True)


@root_only
async def test_the_kernel_sees_the_whiteouts(backend, content, tmp_path):
    driver, diff = backend.drivers["overlayfs"], LocalDiff(content)
    first = make(file("d/a"), file("d/b"), file("e/c"), file("top"))
    second = make(file("d/.wh.a"), file("e/.wh..wh..opq"), file("e/own"), file(".wh.top"))
    for number, data in ((1, first), (2, second)):
        parents = tuple(range(number - 1, 0, -1))
        driver.create(number, Kind.ACTIVE, parents)
        await diff.apply(await store(content, data, LAYER), driver.mounts(number, Kind.ACTIVE, parents))
    driver.create(3, Kind.VIEW, (2, 1))
    (mount,) = driver.mounts(3, Kind.VIEW, (2, 1))
    assert files_in_mounted(mount, tmp_path / "mnt") == {"d/b", "e/own"}


@root_only
@pytest.mark.parametrize("media_type", [LAYER, LAYER_GZIP, LAYER_ZSTD])
async def test_the_same_comparison_twice_is_the_same_blob(content, tmp_path, media_type):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_bytes(os.urandom(3 << 20))
    mounts = [Mount("bind", str(tmp_path / "t"), options=("ro", "rbind"))]
    diff = LocalDiff(content)
    first = await diff.compare([], mounts, media_type=media_type)
    assert await diff.compare([], mounts, media_type=media_type, labels={"more": "x"}) == first
    assert (await content.info(first.digest)).labels["more"] == "x"
    assert await content.list_statuses() == []


async def test_a_layer_that_is_not_in_the_store(content, tmp_path):
    missing = Descriptor(LAYER, Digest.of(b"missing"), 7)
    with pytest.raises(NotFound):
        await LocalDiff(content).apply(missing, [Mount("bind", str(tmp_path), options=("rw",))])


@root_only
async def test_errors_name_the_layer(content, tmp_path):
    diff = LocalDiff(content)
    mounts = [Mount("bind", str(tmp_path), options=("rw",))]
    evil = await store(content, make(file("../etc/passwd")), LAYER)
    with pytest.raises(InvalidArgument) as caught:
        await diff.apply(evil, mounts)
    assert str(caught.value) == f'apply layer {evil.digest}: entry "../etc/passwd": name leaves the root'
    with pytest.raises(Unimplemented, match=f"^apply layer {evil.digest}: media type"):
        await diff.apply(Descriptor(MANIFEST, evil.digest, evil.size), mounts)
    with pytest.raises(NotFound, match=f"^apply layer {evil.digest}: open /nowhere/at/all: No such file"):
        await diff.apply(evil, [Mount("bind", "/nowhere/at/all", options=("rw",))])


@root_only
async def test_a_failed_comparison_leaves_no_ingest(content, tmp_path):
    (tmp_path / "u" / "moved").mkdir(parents=True)
    (tmp_path / "l").mkdir()
    os.setxattr(tmp_path / "u" / "moved", "trusted.overlay.redirect", b"x")
    mounts = [Mount("overlay", "overlay", options=(f"lowerdir={tmp_path}/u:{tmp_path}/l",))]
    with pytest.raises(FailedPrecondition, match=r"^compare snapshots: a directory was"):
        await LocalDiff(content).compare([], mounts, ref="mine")
    assert await content.list_statuses() == []


class Remote:
    """A store as one over gRPC: readers without a descriptor."""

    def __init__(self, content):
        self.content = content

    async def open(self, digest):
        reader = await self.content.open(digest)

        class Reader:
            size = reader.size
            read, close = reader.read, reader.close

            def fileno(self):
                return -1

        return Reader()


@root_only
async def test_from_a_store_without_descriptors(content, tmp_path):
    data = os.urandom(3_000_000)
    layer = await store(content, make(file("f", data)), LAYER)
    mounts = [Mount("bind", str(tmp_path), options=("rw",))]
    await LocalDiff(Remote(content)).apply(layer, mounts)
    assert (tmp_path / "f").read_bytes() == data
    evil = await store(content, make(file("../f", data)), LAYER)
    with pytest.raises(InvalidArgument, match="name leaves the root"):
        await LocalDiff(Remote(content)).apply(evil, mounts)


@pytest.fixture
def block_image(tmp_path):
    """An ext4 on a loop device."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(20 << 20)
    if subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=False).returncode:
        pytest.skip("mkfs.ext4 is not installed")
    found = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("no loop device to be had")
    device = found.stdout.strip()
    yield device
    subprocess.run(["losetup", "-d", device], check=True)


@root_only
async def test_snapshots_on_a_block_device_are_mounted_where_nobody_sees_it(content, block_image):
    before = open("/proc/self/mountinfo").read()  # noqa: ASYNC230, SIM115
    diff, mounts = LocalDiff(content), [Mount("ext4", block_image)]
    layer = await store(content, make(file("a", b"1"), file("b", b"2")), LAYER)
    await diff.apply(layer, mounts, sync_fs=True)
    await diff.apply(await store(content, make(file(".wh.a")), LAYER), mounts)
    compared = await diff.compare([], [Mount("ext4", block_image, options=("ro",))], media_type=LAYER)
    reader = await content.open(compared.digest)
    with tarfile.open(fileobj=io.BytesIO(await reader.read(0, reader.size))) as archive:
        assert archive.getnames() == ["b", "lost+found"]
    await reader.close()
    assert open("/proc/self/mountinfo").read() == before  # noqa: ASYNC230, SIM115
