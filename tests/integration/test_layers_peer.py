"""The same layers unpacked by Debian's containerd and by us: the upper directories must be the same."""

import os
import stat
import tarfile

import pytest

from portside.core.snapshots import Kind
from portside.engine.directories import target_of
from portside.layers.workers import apply_layer
from portside.oci.descriptor import LAYER_GZIP
from portside.snapshots.overlay import OverlayDriver
from tests.layers.archives import END, body, header, info, pax
from tests.support import images, peers
from tests.support.containerd import containerd

pytestmark = pytest.mark.root


def entry(name, data=b"", **fields):
    return info(name, **({"mode": 0o644, "mtime": 1_600_000_000} | fields)), data


def directory(name, **fields):
    return entry(name, **({"type": tarfile.DIRTYPE, "mode": 0o755} | fields))


def link(name, target, kind=tarfile.SYMTYPE, **fields):
    return entry(name, **({"type": kind, "linkname": target, "mode": 0o777} | fields))


TIME = 5
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
FIRST = (
    body(
        directory("./"), directory("./etc", mode=0o750, uid=5, gid=6), entry("./etc/passwd", b"root"),
        entry("./etc/gone", b"x"), directory("./usr"), directory("./usr/bin", mtime=1_500_000_000),
        entry("./usr/bin/su", b"\x7fELF" * 1000, mode=0o4755),
        entry("./usr/bin/shared", b"s" * 70_000, mode=0o2755, gid=9),
        link("./usr/bin/hard", "./usr/bin/su", tarfile.LNKTYPE, mode=0o4755), link("./bin", "usr/bin"),
        link("./abs", "/usr/bin"), link("./up", "../../../.."), directory("./tmp", mode=0o1777),
        entry("./dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=1),
        entry("./run/fifo", type=tarfile.FIFOTYPE, mode=0o600), directory("./opaque"), entry("./opaque/old"),
        entry("/absolute/name", b"a"), entry("deep//er/./x/../name", b"d"), entry("long/" + "n" * 200, b"l"),
        link("lnk/" + "t" * 150, "t" * 300), entry("twice", b"1"), entry("twice", b"22", mode=0o600),
        directory("later-a-file"), entry("later-a-file/in"), entry("later-a-file", b"f"),
        link("was-a-link", "etc"), directory("was-a-link"), entry("was-a-link/own"),
        entry("abs/through", b"via a link"), entry("up/clamped", b"inside"), link("dangle", "no/where"),
        entry("dangle/made", b"m"), entry("owned", uid=70_000, gid=70_001), entry("old", mtime=-5),
        entry("größe", b"u"),
        format=tarfile.GNU_FORMAT,
    )
    + pax([(b"SCHILY.xattr.security.capability", CAPABILITY), (b"mtime", b"1600000000.123456789")])
    + header(b"usr/bin/ping", mode=b"0000755\0", size=b"00000000004\0") + b"ping" + bytes(508)
    + END
)  # fmt: skip
SECOND = (
    body(
        directory("etc", mode=0o750, uid=5, gid=6), entry("etc/.wh.gone"), entry("etc/new", b"n"),
        entry("opaque/.wh..wh..opq"), entry("opaque/new", b"n"), entry(".wh.twice"), entry("tmp/f", b"t"),
        entry("usr/bin/extra", b"e"), link("usr/bin/link", "usr/bin/extra", tarfile.LNKTYPE, mode=0o644),
        directory("bin"), entry("bin/in-a-directory"), entry(".wh.not-there-at-all"),
    )
    + END
)  # fmt: skip


def listing(root):
    """All there is to see of a tree; a time of now is None."""
    found, inodes = {}, {}
    for path in [os.path.join(at, name) for at, names, files in os.walk(root) for name in (*names, *files)]:
        status = os.lstat(path)
        name = os.path.relpath(path, root)
        kind = stat.S_IFMT(status.st_mode)
        attributes = {}
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            attributes = {each: os.getxattr(path, each) for each in os.listxattr(path)}
        found[name] = (
            oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, attributes,
            None if status.st_mtime > 1_700_000_000 else status.st_mtime_ns,
            inodes.setdefault(status.st_ino, name) if kind == stat.S_IFREG else "",
            os.readlink(path) if kind == stat.S_IFLNK else "",
            open(path, "rb").read() if kind == stat.S_IFREG else b"",  # noqa: SIM115
        )  # fmt: skip
    return found


def theirs(directory, image):
    images.write_layout(image, directory / "layout", "peer/test:1")
    peers.run("tar", "cf", str(directory / "image.tar"), "-C", str(directory / "layout"), ".")
    with containerd(directory / "containerd") as socket:
        peers.run("ctr", "-a", str(socket), "images", "import", str(directory / "image.tar"))
    snapshots = directory / "containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots"
    return [listing(snapshots / number / "fs") for number in sorted(os.listdir(snapshots), key=int)]


async def ours(directory, image):
    driver = OverlayDriver(directory / "ours")
    blobs = [blob for blob in image.blobs.values() if blob.startswith(b"\x1f\x8b")]
    for number, blob in enumerate(blobs, 1):
        parents = tuple(range(number - 1, 0, -1))
        driver.create(number, Kind.ACTIVE, parents)
        target = target_of(driver.mounts(number, Kind.ACTIVE, parents))
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (target.path, *target.lowers)]
        source = os.memfd_create("layer")
        os.write(source, blob)
        await apply_layer(str(number), LAYER_GZIP, source, fds[0], lowers=fds[1:], whiteouts=target.whiteouts)
        for fd in (*fds, source):
            os.close(fd)
    return [listing(driver.files(number)) for number in range(1, len(blobs) + 1)]


def same(own, peer):
    """Parents that a layer does not bring keep their time with us; with containerd theirs is that of the unpacking."""
    return own == peer or (peer[TIME] is None and own[:TIME] + own[TIME + 1 :] == peer[:TIME] + peer[TIME + 1 :])


async def test_the_same_trees_as_containerd(tmp_path):
    image = images.make_image([FIRST, SECOND])
    for own, peer in zip(await ours(tmp_path, image), theirs(tmp_path, image), strict=True):
        assert own.keys() == peer.keys()
        different = {name: (own[name], peer[name]) for name in own if not same(own[name], peer[name])}
        assert different == {}
