"""What a layer may do to a tree, and above all what it may not."""

import errno
import os
import stat
import tarfile

import pytest

from portside.errors import InvalidArgument, NotFound, PortsideError
from portside.layers.tar import Entry, TarParser
from portside.layers.unpack import Unpacker, Whiteouts
from tests.layers.archives import END, body, header, info, make, pax

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="changes owners and makes devices")]

OPAQUE = "trusted.overlay.opaque"


@pytest.fixture(autouse=True)
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "outside" / "root"
    path.mkdir(parents=True)
    path.chmod(0o755)
    return path


def unpack(root, data, **options):
    lowers = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in options.pop("lowers", ())]
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    unpacker = Unpacker(fd, lowers=lowers, **options)
    parser = TarParser()
    try:
        for at in range(0, len(data), 777):
            parser.feed(data[at : at + 777])
            while (event := parser.next_event()) is not None:
                if isinstance(event, Entry):
                    unpacker.entry(event)
                else:
                    unpacker.data(event)
        unpacker.finish()
        return unpacker
    finally:
        unpacker.close()
        assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
        for each in (fd, *lowers):
            os.close(each)


def file(name, data=b"", **fields):
    return info(name, **({"mode": 0o644, "mtime": 1000} | fields)), data


def directory(name, **fields):
    return info(name, **({"type": tarfile.DIRTYPE, "mode": 0o755, "mtime": 2000} | fields)), b""


def symlink(name, target, **fields):
    return info(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777, mtime=3000, **fields), b""


def hard_link(name, target, **fields):
    return info(name, **({"type": tarfile.LNKTYPE, "linkname": target, "mode": 0o644, "mtime": 1000} | fields)), b""


def attributes(path):
    status = os.lstat(path)
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime


def tree(root):
    found = set()
    for path, directories, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(path, name), root) for name in (*directories, *files)}
    return found


def test_files_with_everything(root):
    unpack(root, make(
        directory("d", mode=0o2750, uid=3, gid=4, mtime=5_000_000),
        file("d/f", b"content" * 1000, mode=0o4755, uid=1, gid=2, mtime=1_600_000_000),
        file("d/empty", mode=0o600),
        symlink("d/s", "/target", uid=7, gid=8),
        (info("d/p", type=tarfile.FIFOTYPE, mode=0o622, uid=9, gid=9, mtime=4000), b""),
        (info("d/c", type=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3, mtime=4000), b""),
        hard_link("d/h", "d/f", mode=0o4755, uid=1, gid=2, mtime=1_600_000_000),
    ))  # fmt: skip
    assert attributes(root / "d") == (0o2750, 3, 4, 5_000_000)
    assert attributes(root / "d" / "f") == (0o4755, 1, 2, 1_600_000_000)
    status = os.lstat(root / "d" / "f")
    assert status.st_nlink == 2
    assert (root / "d" / "f").read_bytes() == b"content" * 1000
    assert os.lstat(root / "d" / "h").st_ino == status.st_ino
    status = os.lstat(root / "d" / "s")
    assert (os.readlink(root / "d" / "s"), status.st_uid, status.st_gid, status.st_mtime) == ("/target", 7, 8, 3000)
    status = os.lstat(root / "d" / "p")
    assert stat.S_ISFIFO(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o622 and status.st_uid == 9
    status = os.lstat(root / "d" / "c")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3) and status.st_mtime == 4000
    status = os.lstat(root / "d" / "empty")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)


def test_the_owner_is_as_said_in_setgid_directories_too(root):
    unpack(root, make(directory("d", mode=0o2755, gid=50), file("d/f"), directory("d/e"), file("d/e/g")))
    assert [os.lstat(root / path).st_gid for path in ("d/f", "d/e", "d/e/g")] == [0, 0, 0]
    assert stat.S_IMODE(os.lstat(root / "d" / "e").st_mode) == 0o755


def test_a_default_acl_does_not_change_modes(root):
    acl = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + b"\xff\xff\xff\xff"
        for tag, bits in ((1, 7), (4, 0), (0x20, 0))
    )
    try:
        os.setxattr(root, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")
    unpack(root, make(directory("d", mode=0o755), file("d/f", b"x", mode=0o664)))
    assert stat.S_IMODE(os.lstat(root / "d").st_mode) == 0o755
    assert stat.S_IMODE(os.lstat(root / "d" / "f").st_mode) == 0o664


def test_extended_attributes_and_capabilities(root):
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    records = [(b"user.note", b"\0\xff"), (b"security.capability", capability), (b"trusted.overlay.opaque", b"y")]
    data = pax([(b"SCHILY.xattr." + name, value) for name, value in records])
    data += header(b"f", uid=b"0000005\0", size=b"00000000003\0") + b"abc" + bytes(509)
    unpack(root, data + pax([(b"SCHILY.xattr.user.d", b"1")]) + header(b"d", kind=b"5") + END)
    assert os.getxattr(root / "f", "user.note") == b"\0\xff"
    assert os.getxattr(root / "f", "security.capability") == capability
    assert [name for name in os.listxattr(root / "f") if name.startswith("trusted.")] == []
    assert os.getxattr(root / "d", "user.d") == b"1"


def test_times_the_file_system_cannot_hold_become_the_epoch(root):
    unpack(root, body(file("past", mtime=-5)) + pax([(b"mtime", b"9" * 17)]) + header(b"future") + END)
    assert os.lstat(root / "past").st_mtime == 0
    assert os.lstat(root / "future").st_mtime == 0


def test_directories_keep_their_times_though_filled_later(root):
    unpack(root, make(directory("d"), directory("d/e"), file("d/e/f"), file("d/g"), directory("d/e", mtime=2500)))
    assert os.lstat(root / "d").st_mtime == 2000
    assert os.lstat(root / "d" / "e").st_mtime == 2500


def test_an_entry_replaces_what_has_its_name(root):
    unpack(root, make(
        directory("d"), file("d/f", b"gone"), file("d", b"now a file"),
        file("f"), directory("f"), file("f/in", b"x"),
        symlink("s", "f"), directory("s"), file("s/own"),
        file("twice", b"1"), file("twice", b"22"),
        symlink("l", "a"), symlink("l", "b"),
    ))  # fmt: skip
    assert (root / "d").read_bytes() == b"now a file"
    assert not (root / "s").is_symlink() and (root / "s" / "own").exists() and not (root / "f" / "own").exists()
    assert (root / "twice").read_bytes() == b"22" and os.readlink(root / "l") == "b"


def test_missing_parents_are_made(root):
    unpack(root, make(file("a/b/c", b"x")))
    assert (root / "a/b/c").read_bytes() == b"x"
    assert stat.S_IMODE(os.lstat(root / "a").st_mode) == 0o755


def test_the_root_entry_changes_nothing(root):
    unpacker = unpack(root, make(directory("./", mode=0o700, uid=5), directory(".", mode=0o700), file("./f")))
    assert stat.S_IMODE(os.lstat(root).st_mode) == 0o755 and os.lstat(root).st_uid == 0
    assert (unpacker.ignored, tree(root)) == (2, {"f"})


@pytest.mark.parametrize("name", ["/abs/file", "//abs/file", "./abs/file", "abs//file", "abs/./file", "x/../abs/file"])
def test_harmless_names(root, name):
    unpack(root, make(file(name, b"x")))
    assert (root / "abs" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "a/../..", "./../evil", "../root/x"])
@pytest.mark.parametrize("kind", [file, directory, lambda name: symlink(name, "x")])
def test_names_that_leave_the_root_are_refused(root, name, kind):
    with pytest.raises(InvalidArgument, match="name leaves the root") as caught:
        unpack(root, make(kind(name)))
    assert str(caught.value).startswith(f'entry "{name}')
    assert tree(root.parent) == {"root"}


@pytest.mark.parametrize("target", ["../victim", "/../victim", "a/../../victim", "..", "/", ""])
def test_hard_links_out_of_the_root_are_refused(root, target):
    (root.parent / "victim").write_text("host")
    with pytest.raises(InvalidArgument, match='entry "l": link to'):
        unpack(root, make(hard_link("l", target)) if target else header(b"l", b"1") + END)
    assert tree(root) == set()


def test_hard_links_resolve_absolute_names_inside(root):
    (root.parent / "victim").write_text("host")
    unpack(root, make(file("victim", b"ours"), hard_link("d/l", "/victim")))
    assert (root / "d" / "l").read_bytes() == b"ours"


def test_a_hard_link_to_nothing(root):
    with pytest.raises(NotFound, match='entry "l": link to "missing"'):
        unpack(root, make(hard_link("l", "missing")))


def test_hard_links_through_symbolic_links_stay_inside(root):
    (root.parent / "victim").write_text("host")
    with pytest.raises(PortsideError):
        unpack(root, make(symlink("up", "../.."), hard_link("l", "up/victim")))
    assert os.lstat(root.parent / "victim").st_nlink == 1


@pytest.mark.parametrize("target", ["../../..", "/", "/../..", "..", "../outside", "/proc/self/root"])
def test_what_is_written_through_links_lands_inside(root, target):
    unpack(root, make(symlink("l", target), file("l/marker", b"x"), directory("l/new"), symlink("l/s", "y")))
    assert not any("marker" in path and not path.startswith("root") for path in tree(root.parent))
    assert any(path.endswith("marker") for path in tree(root))


def test_dangling_links_make_what_they_point_at(root):
    unpack(root, make(symlink("lib", "usr/lib"), file("lib/x/f", b"x"), symlink("abs", "/opt/deep"), file("abs/g")))
    assert (root / "usr/lib/x/f").read_bytes() == b"x" and (root / "opt/deep/g").exists()


def test_chains_and_loops_of_links(root):
    unpack(root, make(directory("d"), symlink("a", "b"), symlink("b", "/c"), symlink("c", "d"), file("a/f")))
    assert (root / "d" / "f").exists()
    with pytest.raises(InvalidArgument, match=r'entry "x/f": .*loop'):
        unpack(root, make(symlink("x", "y"), symlink("y", "x"), file("x/f")))
    with pytest.raises(InvalidArgument, match=r"loop|components"):
        unpack(root, make(symlink("z", "z/z/z/z"), file("z/f")))


def test_a_file_is_no_directory(root):
    with pytest.raises(InvalidArgument, match='entry "f/x": find its directory: Not a directory'):
        unpack(root, make(file("f"), file("f/x")))


def test_a_link_that_is_replaced_does_not_lead_anywhere_any_more(root):
    unpack(root, make(
        directory("real"), symlink("way", "real"), file("way/1"), symlink("way", "other"), file("way/2"),
        directory("way"), file("way/3"),
    ))  # fmt: skip
    assert tree(root) == {"real", "real/1", "other", "other/2", "way", "way/3"}


def test_a_link_never_gets_another_ones_attributes(root):
    """A hard link to a symbolic link, and then attributes for both: nothing may reach what it points at."""
    victim = root.parent / "victim"
    victim.write_text("host")
    before = os.lstat(victim)
    for target in (str(victim), "../victim"):
        data = body(symlink("a", target), hard_link("b", "a", mode=0o777, uid=1, gid=1, mtime=1))
        data += pax([(b"SCHILY.xattr.user.evil", b"1")])
        data += header(b"b", b"1", link=b"a", mode=b"0004777\0", uid=b"0000001\0") + body(symlink("a", target, uid=2))
        unpack(root, data)
    after = os.lstat(victim)
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink", "st_ctime_ns"):
        assert getattr(before, field) == getattr(after, field), field
    assert os.listxattr(victim) == []


def test_directory_then_link_then_file(root):
    """The same name as directory, link and directory again, so that what is kept open would be the wrong place."""
    outside = root.parent / "target"
    outside.mkdir()
    unpack(root, make(
        directory("d"), file("d/1"), symlink("d", str(outside)), file("d/2"), directory("d"), file("d/3"),
        symlink("d", "../target"), file("d/4"),
    ))  # fmt: skip
    assert os.listdir(outside) == []


@pytest.mark.parametrize("base", [".wh.", ".wh..", ".wh..."])
@pytest.mark.parametrize("whiteouts", [Whiteouts.DELETE, Whiteouts.OVERLAY])
def test_whiteouts_of_no_name(root, base, whiteouts):
    (root / "d").mkdir()
    with pytest.raises(InvalidArgument, match="whiteout"):
        unpack(root, make(file("d/" + base)), whiteouts=whiteouts)
    assert tree(root) == {"d"}


@pytest.mark.parametrize("name", ["../.wh.victim", "../.wh..wh..opq", "d/../../.wh.victim"])
@pytest.mark.parametrize("whiteouts", [Whiteouts.DELETE, Whiteouts.OVERLAY])
def test_whiteouts_outside(root, name, whiteouts):
    (root.parent / "victim").write_text("host")
    with pytest.raises(InvalidArgument, match="name leaves the root"):
        unpack(root, make(file(name)), whiteouts=whiteouts)
    assert (root.parent / "victim").exists()
    unpack(root, make(symlink("up", ".."), file("up/.wh.victim"), file("up/.wh..wh..opq")), whiteouts=whiteouts)
    assert (root.parent / "victim").exists()


def below(root):
    """What a lower layer left in a plain tree."""
    for name in ("d/a", "d/b", "d/sub/c", "e/f"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("below")
    (root / "link").symlink_to("d")


def test_whiteouts_delete_in_a_plain_tree(root):
    below(root)
    unpacker = unpack(root, make(file("d/.wh.a"), file(".wh.e"), file(".wh.link"), file("d/.wh.not-there")))
    assert tree(root) == {"d", "d/b", "d/sub", "d/sub/c"}
    assert unpacker.whiteouts == 4


def test_opaque_deletes_what_is_below_and_keeps_what_is_of_this_layer(root):
    below(root)
    unpack(root, make(file("d/b", b"new"), file("d/sub/own"), file("d/.wh..wh..opq"), file("d/later")))
    assert tree(root) == {"d", "d/b", "d/sub", "d/sub/own", "d/later", "e", "e/f", "link"}


def test_whiteouts_leave_what_is_of_this_layer(root):
    below(root)
    unpack(root, make(directory("d"), file("d/new"), file(".wh.d"), file("e", b"a file"), file(".wh.e")))
    assert tree(root) == {"d", "d/new", "e", "link"}


def test_opaque_root_of_a_plain_tree(root):
    below(root)
    unpack(root, make(file("x"), file(".wh..wh..opq")))
    assert tree(root) == {"x"}


def is_whiteout(path):
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def opaque(path, name=OPAQUE):
    try:
        return os.getxattr(path, name) == b"y"
    except OSError as error:
        assert error.errno == errno.ENODATA
        return False


def test_whiteouts_for_overlayfs(root):
    unpack(root, make(
        directory("d"), file("d/.wh.gone", uid=5, gid=6), directory("o"), file("o/.wh..wh..opq"), file("o/f"),
    ), whiteouts=Whiteouts.OVERLAY)  # fmt: skip
    assert tree(root) == {"d", "d/gone", "o", "o/f"}
    assert is_whiteout(root / "d" / "gone") and os.lstat(root / "d" / "gone").st_uid == 5
    assert opaque(root / "o") and not opaque(root / "d")


def test_whiteouts_for_overlayfs_in_a_user_namespace(root):
    data = pax([(b"SCHILY.xattr.user.overlay.opaque", b"y")]) + header(b"d", b"5")
    unpack(root, data + make(file("o/.wh..wh..opq")), whiteouts=Whiteouts.USER_OVERLAY)
    assert opaque(root / "o", "user.overlay.opaque") and not opaque(root / "d", "user.overlay.opaque")


def test_a_directory_over_a_whiteout_is_opaque_in_either_order(root):
    unpack(root, make(file(".wh.a"), directory("a"), file("a/f")), whiteouts=Whiteouts.OVERLAY)
    unpack(root, make(directory("b"), file("b/f"), file(".wh.b")), whiteouts=Whiteouts.OVERLAY)
    assert opaque(root / "a") and opaque(root / "b")
    assert tree(root) == {"a", "a/f", "b", "b/f"}


def test_a_file_over_a_whiteout_in_either_order(root):
    unpack(root, make(file(".wh.a"), file("a", b"1"), file("b", b"2"), file(".wh.b")), whiteouts=Whiteouts.OVERLAY)
    assert (root / "a").read_bytes() + (root / "b").read_bytes() == b"12"


def test_an_opaque_root_for_overlayfs_hides_each_name_below(root, tmp_path):
    lower = tmp_path / "lower"
    below(lower)
    unpack(root, make(file("d/new"), file(".wh..wh..opq")), whiteouts=Whiteouts.OVERLAY, lowers=[lower])
    assert opaque(root / "d") and is_whiteout(root / "e") and is_whiteout(root / "link")


def test_aufs_bookkeeping_is_ignored(root):
    assert unpack(root, make(file(".wh..wh.plnk/x"), file(".wh..wh.aufs"))).ignored == 1
    assert "x" not in str(tree(root)) or tree(root) == {".wh..wh.plnk", ".wh..wh.plnk/x"}


def test_parents_look_as_in_the_layers_below(root, tmp_path):
    lowers = [tmp_path / "top", tmp_path / "bottom"]
    (lowers[1] / "var" / "tmp").mkdir(parents=True)
    (lowers[1] / "var" / "tmp").chmod(0o1777)
    os.chown(lowers[1] / "var" / "tmp", 10, 20)
    os.setxattr(lowers[1] / "var" / "tmp", "user.x", b"1")
    os.utime(lowers[1] / "var" / "tmp", (5, 6))
    (lowers[1] / "other").mkdir(mode=0o700)
    lowers[0].mkdir()
    (lowers[0] / "other").write_text("a file on top of the directory")
    unpack(root, make(file("var/tmp/f"), file("other/g")), whiteouts=Whiteouts.OVERLAY, lowers=lowers)
    assert attributes(root / "var" / "tmp") == (0o1777, 10, 20, 6)
    assert os.getxattr(root / "var" / "tmp", "user.x") == b"1"
    assert stat.S_IMODE(os.lstat(root / "other").st_mode) == 0o755


def test_links_in_lower_layers_do_not_lead_out(root, tmp_path):
    lower = tmp_path / "lower"
    lower.mkdir()
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o711)
    (lower / "up").symlink_to(secret)
    unpack(root, make(file("up/f")), whiteouts=Whiteouts.OVERLAY, lowers=[lower])
    assert stat.S_IMODE(os.lstat(root / "up").st_mode) == 0o755


def test_devices_are_left_out_where_they_cannot_be(root):
    data = make((info("c", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""), file("f"))
    assert unpack(root, data, devices=False).ignored == 1
    assert tree(root) == {"f"}


def test_names_longer_than_the_file_system_takes(root):
    with pytest.raises(InvalidArgument, match="create file: File name too long"):
        unpack(root, make(file("n" * 300)))


def test_names_that_are_not_text(root):
    name = b"\xff\xfe\n"
    unpack(root, header(name) + END)
    assert os.listdir(os.fsencode(root)) == [name]
    with pytest.raises(InvalidArgument, match=r'entry "\.\./\\xff"'):
        unpack(root, header(b"../\xff") + END)


def test_many_directories_do_not_need_many_descriptors(root):
    members = [file(f"d{number % 700}/e/f{number}") for number in range(1500)]
    unpack(root, make(*members))
    assert len(tree(root)) == 1500 + 2 * 700
