"""Changes between trees as layers: by the worker, checked with tarfile and by unpacking them again."""

import gzip
import io
import os
import shutil
import stat
import tarfile

import pytest
import zstandard

from portside.errors import FailedPrecondition
from portside.layers.tar import Entry, TarParser
from portside.layers.tarwriter import header
from portside.layers.unpack import Whiteouts
from portside.layers.workers import apply_layer, compare_trees
from portside.oci.digest import Digest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="makes devices")]


async def layer_of(lower, upper, *, compression="", epoch_ns=None):
    """The archive and what the worker said, for stacks of paths."""
    fds = [[os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths] for paths in (lower, upper)]
    out = os.memfd_create("layer")
    try:
        compared = await compare_trees(*fds, out, compression=compression, epoch_ns=epoch_ns)
        assert compared.not_isolated == ()
        data = os.pread(out, compared.size + 1, 0)
    finally:
        for fd in (out, *fds[0], *fds[1]):
            os.close(fd)
    assert Digest.of(data) == compared.digest and len(data) == compared.size
    return data, compared


async def names_of(lower, upper, **options):
    data, compared = await layer_of(lower, upper, **options)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
    assert len(names) == compared.entries
    return names


def write(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (1000, 1000))
    return root


def whiteout(path):
    os.mknod(path, stat.S_IFCHR, 0)


@pytest.fixture
def lower(tmp_path):
    return write(tmp_path / "lower", d__a="a", d__b="b", d__sub__c="c", e__f="f", g="g")


async def test_nothing_changed(lower, tmp_path):
    assert await names_of([lower], [lower]) == []
    copy = tmp_path / "copy"
    shutil.copytree(lower, copy)
    assert await names_of([lower], [copy]) == []
    (tmp_path / "upper").mkdir()
    assert await names_of([lower], [tmp_path / "upper", lower]) == []


async def test_everything_is_new(lower):
    assert await names_of([], [lower]) == ["d", "d/a", "d/b", "d/sub", "d/sub/c", "e", "e/f", "g"]


async def test_an_upper_directory(lower, tmp_path):
    upper = write(tmp_path / "upper", d__new="n", d__sub__c="changed")
    whiteout(upper / "g")
    whiteout(upper / "d" / "a")
    os.utime(upper / "d", (0, 5))
    assert await names_of([lower], [upper, lower]) == ["d", "d/.wh.a", "d/new", "d/sub", "d/sub/c", ".wh.g"]


async def test_an_opaque_directory_hides_each_name(lower, tmp_path):
    upper = write(tmp_path / "upper", d__own="x")
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
    assert await names_of([lower], [upper, lower]) == ["d", "d/.wh.a", "d/.wh.b", "d/own", "d/.wh.sub"]


async def test_kinds_that_change_are_replaced_without_whiteouts(lower, tmp_path):
    upper = write(tmp_path / "upper", d="now a file", g__in="now a directory")
    assert await names_of([lower], [upper, lower]) == ["d", "g", "g/in"]


async def test_whiteouts_of_what_was_never_there_are_nothing(lower, tmp_path):
    upper = tmp_path / "upper"
    upper.mkdir()
    whiteout(upper / "never")
    assert await names_of([lower], [upper, lower]) == []


async def test_full_copies(lower, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(lower, copy, symlinks=True)
    (copy / "d" / "a").unlink()
    (copy / "d" / "b").write_text("B")
    (copy / "g").chmod(0o600)
    shutil.rmtree(copy / "e")
    names = await names_of([lower], [copy])
    assert names == ["d", "d/.wh.a", "d/b", ".wh.e", "g"]


async def test_same_size_and_whole_seconds_are_compared_by_content(tmp_path):
    lower, upper = write(tmp_path / "l", f="aa", same="x"), write(tmp_path / "u", f="bb", same="x")
    assert await names_of([lower], [upper]) == ["f"]


async def test_unchanged_parents_come_with_what_changed_in_them(tmp_path):
    lower = write(tmp_path / "lower", a__b__c__f="1")
    copy = tmp_path / "copy"
    shutil.copytree(lower, copy)
    (copy / "a/b/c/f").write_text("2")
    for name in ("a/b/c", "a/b", "a"):
        os.utime(copy / name, ns=(0, os.stat(lower / name).st_mtime_ns))
    assert await names_of([lower], [copy]) == ["a", "a/b", "a/b/c", "a/b/c/f"]


async def test_all_kinds_and_attributes_survive_the_way_back(tmp_path):
    upper = tmp_path / "upper"
    write(upper, f="x" * 5000)
    (upper / "f").chmod(0o4755)
    os.chown(upper / "f", 3_000_000, 7)
    os.utime(upper / "f", ns=(0, 1_700_000_000_123_456_789))
    os.setxattr(upper / "f", "user.a", b"\0\n=")
    os.setxattr(upper / "f", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.link(upper / "f", upper / "hard")
    (upper / ("long" * 60)).symlink_to("t" * 300)
    os.mkfifo(upper / "fifo")
    os.mknod(upper / "dev", 0o660 | stat.S_IFBLK, os.makedev(8, 1000))
    (upper / "dïr").mkdir(mode=0o1777)
    os.setxattr(upper / "dïr", "user.d", b"1")
    data, compared = await layer_of([], [upper])
    back = tmp_path / "back"
    back.mkdir()
    blob, root = os.memfd_create("blob"), os.open(back, os.O_RDONLY | os.O_DIRECTORY)
    os.write(blob, data)
    applied = await apply_layer("x", "application/vnd.oci.image.layer.v1.tar", blob, root)
    os.close(blob)
    os.close(root)
    assert applied.diff_id == compared.diff_id
    assert sorted(os.listdir(back)) == sorted(os.listdir(upper))
    for name in os.listdir(upper):
        old, new = os.lstat(upper / name), os.lstat(back / name)
        for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink", "st_rdev"):
            assert getattr(old, field) == getattr(new, field), (name, field)
    assert os.getxattr(back / "f", "user.a") == b"\0\n=" and os.getxattr(back / "dïr", "user.d") == b"1"
    assert os.getxattr(back / "f", "security.capability") == os.getxattr(upper / "f", "security.capability")
    assert await names_of([upper], [back]) == []


async def test_changes_applied_on_the_lower_give_the_upper(lower, tmp_path):
    """There and back for overlayfs: what compare writes, apply turns into the same upper directory."""
    upper = write(tmp_path / "upper", d__new="n", e="file now")
    whiteout(upper / "g")
    data, _ = await layer_of([lower], [upper, lower])
    again = tmp_path / "again"
    again.mkdir()
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (again, lower)]
    blob = os.memfd_create("blob")
    os.write(blob, data)
    await apply_layer(
        "x", "application/vnd.oci.image.layer.v1.tar", blob, fds[0], lowers=fds[1:], whiteouts=Whiteouts.OVERLAY
    )
    for fd in (*fds, blob):
        os.close(fd)
    assert await names_of([upper, lower], [again, lower]) == []


@pytest.mark.parametrize(("kind", "undo"), [("", bytes), ("gzip", gzip.decompress), ("zstd", None)])
async def test_equal_trees_give_equal_bytes(lower, tmp_path, kind, undo):
    undo = undo or (lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data))
    copy = tmp_path / "copy"
    shutil.copytree(lower, copy)
    first, compared = await layer_of([], [lower], compression=kind)
    second, _ = await layer_of([], [copy], compression=kind)
    assert first == second
    assert Digest.of(undo(first)) == compared.diff_id and len(undo(first)) == compared.diff_size


async def test_the_epoch_caps_times(lower, tmp_path):
    os.utime(lower / "g", (5, 5))
    whiteout_in = tmp_path / "upper"
    whiteout_in.mkdir()
    whiteout(whiteout_in / "e")
    write(whiteout_in, new="x")
    data, _ = await layer_of([lower], [whiteout_in, lower], epoch_ns=500 * 10**9)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {member.name: member.mtime for member in archive} == {".wh.e": 500, "new": 500}
    data, _ = await layer_of([], [lower], epoch_ns=500 * 10**9)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getmember("g").mtime == 5 and archive.getmember("d/a").mtime == 500


async def test_renamed_directories_are_refused(lower, tmp_path):
    upper = tmp_path / "upper"
    (upper / "moved").mkdir(parents=True)
    os.setxattr(upper / "moved", "trusted.overlay.redirect", b"d")
    with pytest.raises(FailedPrecondition, match=r"^compare snapshots: a directory was"):
        await layer_of([lower], [upper, lower])


async def test_links_are_never_followed(tmp_path):
    (tmp_path / "secret").write_text("host")
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "l").symlink_to(tmp_path / "secret")
    (upper / "d").symlink_to(tmp_path)
    data, _ = await layer_of([], [upper])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(member.name, member.issym()) for member in archive] == [("d", True), ("l", True)]
    assert b"host" not in data


def test_headers_are_read_by_tarfile_and_by_us():
    entry = Entry(b"n" * 150 + b"/\xff", b"0")
    entry.mode, entry.uid, entry.gid, entry.size = 0o7777, 1 << 31, 5, 9 << 30
    entry.mtime_ns = -1_500_000_000
    entry.xattrs = {b"user.x": b"1" * 90}
    data = header(entry)
    parser = TarParser()
    parser.feed(data)
    ours = parser.next_event()
    theirs = tarfile.TarFile(fileobj=io.BytesIO(data)).next()
    for field in ("name", "mode", "uid", "gid", "size", "mtime_ns", "xattrs"):
        assert getattr(ours, field) == getattr(entry, field), field
    assert (theirs.name.encode("utf-8", "surrogateescape"), theirs.uid, theirs.size) == (entry.name, 1 << 31, 9 << 30)
    assert theirs.mtime == -1.5
