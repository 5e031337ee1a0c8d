"""The worker as a process: what it makes, what it says when it cannot, and what it may not do."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile

import pytest
import zstandard

from portside.errors import DataLoss, Internal, InvalidArgument, ResourceExhausted, Unimplemented
from portside.layers import workers
from portside.layers.unpack import Whiteouts
from portside.layers.workers import apply_layer
from portside.oci.descriptor import LAYER, LAYER_GZIP, LAYER_ZSTD
from tests.layers.archives import END, header, info, make

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")]

NAME = "sha256:0123"


def file(name, data=b"", **fields):
    return info(name, **({"mode": 0o644, "mtime": 1000} | fields)), data


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "outside" / "root"
    path.mkdir(parents=True)
    return path


async def apply(root, blob, media_type=LAYER_GZIP, **options):
    path = root.parent.parent / "blob"
    path.write_bytes(blob)
    opened = os.open(path, os.O_RDONLY)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return await apply_layer(NAME, media_type, opened, fd, **options)
    finally:
        os.close(fd)
        os.close(opened)


LAYER_OF_TWO = make(file("a", b"hello"), file("d/b", bytes(100_000)))


@pytest.mark.parametrize(
    ("media_type", "compress"),
    [(LAYER, bytes), (LAYER_GZIP, gzip.compress), (LAYER_ZSTD, zstandard.compress), (LAYER_GZIP, bytes)],
)
async def test_each_compression(root, media_type, compress):
    applied = await apply(root, compress(LAYER_OF_TWO), media_type)
    assert applied.diff_id == "sha256:" + hashlib.sha256(LAYER_OF_TWO).hexdigest()
    assert (applied.size, applied.entries, applied.bytes) == (len(LAYER_OF_TWO), 2, 100_005)
    assert (root / "a").read_bytes() == b"hello" and (root / "d" / "b").stat().st_size == 100_000


async def test_everything_is_given_up_on_this_machine(root):
    assert (await apply(root, LAYER_OF_TWO)).not_isolated == ()


async def test_what_follows_the_archive_counts_for_the_digest(root):
    data = LAYER_OF_TWO + b"signature or padding"
    assert (await apply(root, gzip.compress(data))).diff_id == "sha256:" + hashlib.sha256(data).hexdigest()


async def test_a_blob_is_read_from_its_start_whatever_its_offset(root):
    path = root.parent / "blob"
    path.write_bytes(LAYER_OF_TWO)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    blob = os.open(path, os.O_RDONLY)
    os.lseek(blob, 100, os.SEEK_SET)
    await apply_layer(NAME, LAYER, blob, fd)
    assert os.lseek(blob, 0, os.SEEK_CUR) == 100
    os.close(blob)
    os.close(fd)


async def test_from_a_pipe(root):
    data = gzip.compress(LAYER_OF_TWO)
    read, write = os.pipe()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    assert len(data) < 65536
    os.write(write, data)
    os.close(write)
    assert (await apply_layer(NAME, LAYER_GZIP, read, fd)).entries == 2
    os.close(read)
    os.close(fd)


@pytest.mark.parametrize(
    ("blob", "kind", "message"),
    [
        (make(file("../etc/passwd")), InvalidArgument, 'entry "../etc/passwd": name leaves the root'),
        (gzip.compress(LAYER_OF_TWO)[:-20], DataLoss, "the gzip stream ends early"),
        (gzip.compress(LAYER_OF_TWO[:9000]), DataLoss, 'the archive ends inside data of entry "d/b"'),
        (zstandard.compress(LAYER_OF_TWO)[:-5], DataLoss, "the zstd stream ends early"),
        (gzip.compress(b"no tar" * 1000), InvalidArgument, "not a tar header after entry 1"),
        (header(kind=b"S") + END, Unimplemented, 'entry "f": GNU sparse files are not supported'),
    ],
)
async def test_errors_name_layer_entry_and_step(root, blob, kind, message):
    with pytest.raises(kind) as caught:
        await apply(root, blob)
    assert str(caught.value) == f"apply layer {NAME}: {message}"
    assert os.listdir(root.parent) == ["root"]


async def test_media_types_that_are_no_layers_and_labels_that_lie(root):
    with pytest.raises(Unimplemented, match=r"^apply layer sha256:0123: media type 'text/plain' is not a layer"):
        await apply(root, LAYER_OF_TWO, "text/plain")
    with pytest.raises(InvalidArgument, match="says uncompressed, but the bytes are gzip"):
        await apply(root, gzip.compress(LAYER_OF_TWO), LAYER)


@pytest.fixture
def small_disk(root):
    """A file system of 20 MB."""
    mounted = root.parent / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


async def test_a_bomb_costs_disk_not_memory(small_disk):
    """300 MB of zeros from 300 kB, into a file system of 20 MB: a clear end, and the worker never holds much."""
    out = io.BytesIO()
    with gzip.open(out, "wb", 6) as packed:
        packed.write(header(b"zeros", size=b"%011o\0" % (300 << 20)))
        for _ in range(300):
            packed.write(bytes(1 << 20))
        packed.write(END)
    with pytest.raises(ResourceExhausted, match='entry "zeros": write: No space left on device'):
        await apply(small_disk, out.getvalue())


async def test_headers_that_promise_much_cost_nothing(root):
    with pytest.raises(InvalidArgument, match="extended header after entry 1"):
        await apply(root, header(kind=b"x", size=b"\x80" + bytes(4) + b"\xff" * 7) + END)
    with pytest.raises(DataLoss):
        await apply(root, header(size=b"\x80" + bytes(3) + b"\x10" + bytes(7)) + END)
    assert os.stat(root / "f").st_blocks < 10


async def test_hundreds_of_layers_below(root, tmp_path):
    fds = []
    for number in range(400):
        (tmp_path / f"lower-{number}" / "d").mkdir(parents=True)
        fds.append(os.open(tmp_path / f"lower-{number}", os.O_RDONLY | os.O_DIRECTORY))
    (tmp_path / "lower-0" / "d").rmdir()
    (tmp_path / "lower-1" / "d").chmod(0o711)
    applied = await apply(root, make(file("d/f", b"x"), file(".wh.g")), lowers=fds, whiteouts=Whiteouts.OVERLAY)
    assert applied.not_isolated == () and stat.S_IMODE((root / "d").stat().st_mode) == 0o711
    for fd in fds:
        os.close(fd)


async def test_several_at_once(tmp_path):
    roots = []
    for number in range(6):
        path = tmp_path / str(number) / "outside" / "root"
        path.mkdir(parents=True)
        roots.append(path)
    found = await asyncio.gather(*(apply(path, make(file(path.parts[-3]))) for path in roots))
    assert len(found) == 6
    assert [os.listdir(path) for path in roots] == [[str(number)] for number in range(6)]


async def test_layers_into_siblings_while_somebody_renames(tmp_path):
    """The same names as directory, link and file in layers side by side, swapped all the time: all stays inside."""
    victim = tmp_path / "victim"
    victim.mkdir()
    link, real = info("d", type=tarfile.SYMTYPE, linkname=str(victim)), info("d", type=tarfile.DIRTYPE, mode=0o755)
    blob = make(
        *[each for number in range(200) for each in ((real, b""), file(f"d/{number}"), (link, b""), file("d/x"))]
    )
    roots = []
    for number in range(2):
        path = tmp_path / str(number) / "outside" / "root"
        path.mkdir(parents=True)
        roots.append(path)
    stop = asyncio.Event()

    async def rename():
        while not stop.is_set():
            for path in roots:
                try:
                    os.rename(path / "d", path / "moved")
                    os.symlink(victim, path / "d")
                except OSError:
                    pass
            await asyncio.sleep(0)

    renaming = asyncio.create_task(rename())
    await asyncio.gather(*(apply(path, blob) for path in roots), return_exceptions=True)
    stop.set()
    await renaming
    assert os.listdir(victim) == []


async def test_giving_up_ends_the_worker(root):
    read, write = os.pipe()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    task = asyncio.create_task(apply_layer(NAME, LAYER, read, fd))
    os.write(write, header(b"waits", size=b"00000001000\0"))
    async with asyncio.timeout(20):
        while not os.listdir(root):  # noqa: ASYNC110  the other process has no event to give
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(read)
    os.set_blocking(write, False)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"nobody has the other end any more")
    os.close(write)
    os.close(fd)


def start_worker(job, fds):
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-E", workers._WORKER, workers._module_path()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=fds,
    )  # fmt: skip


def test_the_end_of_the_parent_is_the_end_of_the_worker(root):
    read, write = os.pipe()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    job = {"task": "apply", "blob": read, "root": fd, "lowers": [], "media_type": LAYER,
           "whiteouts": Whiteouts.DELETE, "devices": True, "isolate": True}  # fmt: skip
    process = start_worker(job, (read, fd))
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    os.write(write, header())
    process.stdin.close()
    assert process.wait(20) == 1
    assert process.stdout.read() == b""
    process.stdout.close()
    process.stderr.close()
    for each in (read, write, fd):
        os.close(each)


async def test_a_worker_that_dies_is_told(root, monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("import sys\nprint('no such thing', file=sys.stderr)\nsys.exit(3)\n")
    monkeypatch.setattr(workers, "_WORKER", broken)
    with pytest.raises(Internal, match=r"^apply layer sha256:0123: the worker ended with status 3: no such thing$"):
        await apply(root, LAYER_OF_TWO)


async def test_modules_and_the_environment_of_the_caller_are_not_looked_at(root, monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (await apply(root, LAYER_OF_TWO)).entries == 2
