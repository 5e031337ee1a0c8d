"""Stream processors: real little programs between a layer and its unpacking, well behaved and not."""

import asyncio
import errno
import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from portside.core.anymessage import AnyMessage
from portside.core.settings import StreamProcessor
from portside.engine import stream_processors
from portside.engine.diff import LocalDiff
from portside.engine.programs import read_all
from portside.engine.stream_processors import chain_for, processed
from portside.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PortsideError,
    ResourceExhausted,
    Unimplemented,
    Unknown,
)
from portside.oci.descriptor import LAYER, LAYER_GZIP, Descriptor
from portside.oci.digest import Digest
from portside.wire.pb.google.protobuf import any_pb2
from tests.contracts.local import LocalBackend

ODD = "application/vnd.example.layer+odd"
ODDER = "application/vnd.example.layer+odder"
ROT13 = "tr '\\000-\\377' '\\200-\\377\\000-\\177'"
"""Its own inverse, for all bytes."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")


def shell(text, accepts=ODD, returns=LAYER_GZIP, env=()):
    return StreamProcessor((accepts,), returns, "sh", ("-c", text), env)


def hello(mounts):
    return Path(mounts[0].source, "hello").read_bytes()


def scrambled(data):
    return bytes(byte ^ 0x80 for byte in data)


@pytest.fixture
def layer():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"world"))
    return buffer.getvalue()


@pytest.fixture
async def services(tmp_path):
    backend = LocalBackend(tmp_path / "engine")
    yield backend.bind("test")
    await backend.close()


@pytest.fixture
def unpack(services, layer):
    async def unpack(processors, data=None, media_type=ODD, payloads=None):
        data = scrambled(gzip.compress(layer)) if data is None else data
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        writer = await services.content.writer("ref", len(data), descriptor.digest)
        await writer.write(data)
        await writer.commit(len(data), descriptor.digest)
        mounts = await services.snapshotter("native").prepare("key")
        applied = await LocalDiff(services.content, processors).apply(descriptor, mounts, payloads=payloads)
        return applied, hello(mounts)

    return unpack


class TestChains:
    def test_none_for_what_we_know(self):
        assert chain_for(LAYER_GZIP, {}) == ()
        assert chain_for(LAYER, {"a": shell("cat")}) == ()

    def test_nobody_takes_it(self):
        with pytest.raises(Unimplemented, match="odd"):
            chain_for(ODD, {})
        with pytest.raises(Unimplemented, match="odder"):
            chain_for(ODD, {"a": shell("cat", returns=ODDER)})

    def test_several(self):
        processors = {"b": shell("cat", ODDER, LAYER), "a": shell("cat", ODD, ODDER)}
        assert [(step.id, step.media_type) for step in chain_for(ODD, processors)] == [("a", ODD), ("b", ODDER)]

    def test_one_may_claim_what_we_know(self):
        assert [step.id for step in chain_for(LAYER_GZIP, {"a": shell("zcat", LAYER_GZIP, LAYER)})] == ["a"]

    def test_a_circle(self):
        with pytest.raises(InvalidArgument, match="in a row"):
            chain_for(ODD, {"a": shell("cat", ODD, ODDER), "b": shell("cat", ODDER, ODD)})


@needs_root
class TestApply:
    async def test_one(self, unpack, layer):
        applied, content = await unpack({"odd": shell(ROT13)})
        assert content == b"world"
        assert applied == Descriptor(LAYER, Digest.of(layer), len(layer))

    async def test_two_in_a_row(self, unpack, layer):
        processors = {"odd": shell(ROT13, ODD, ODDER), "odder": shell("gzip -d", ODDER, LAYER)}
        assert (await unpack(processors))[1] == b"world"

    async def test_what_it_is_told(self, unpack, tmp_path):
        payload = AnyMessage("type.example/key", b"secret" * 100_000)
        text = f"cat <&3 >{tmp_path}/payload; echo $STREAM_PROCESSOR_MEDIATYPE $MINE $HOME >{tmp_path}/env; {ROT13}"
        await unpack({"odd": shell(text, env=("MINE=a=b",))}, payloads={"odd": payload, "other": payload})
        expected = any_pb2.Any(type_url=payload.type_url, value=payload.value).SerializeToString()
        assert (tmp_path / "payload").read_bytes() == expected
        assert (tmp_path / "env").read_text().split()[:2] == [ODD, "a=b"]

    async def test_without_a_payload_there_is_no_descriptor(self, unpack):
        assert (await unpack({"odd": shell(f"[ ! -e /proc/self/fd/3 ] && {ROT13}")}))[1] == b"world"

    @pytest.mark.parametrize(
        "text",
        [
            "echo no key >&2; exit 4",
            f"{ROT13}; echo no key >&2; exit 4",
            f"{ROT13} | head -c 50; echo no key >&2; exit 4",
        ],
    )
    async def test_one_that_fails_says_why(self, unpack, text):
        """Before, after and in the middle of its output."""
        with pytest.raises(Unknown, match=r"apply layer sha256:.*: stream processor odd: ended with status 4: no key"):
            await unpack({"odd": shell(text)})

    async def test_the_first_of_two_fails(self, unpack):
        processors = {"odd": shell("echo no key >&2; exit 4", ODD, ODDER), "odder": shell("cat", ODDER)}
        with pytest.raises(Unknown, match=r"stream processor odd: .*no key"):
            await unpack(processors)

    async def test_complaints_without_end_are_cut(self, unpack):
        with pytest.raises(Unknown) as caught:
            await unpack({"odd": shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1")})
        assert len(str(caught.value)) < 40_000 and str(caught.value).endswith("(cut)")

    async def test_there_is_no_such_program(self, unpack):
        with pytest.raises(NotFound, match=r"stream processor odd .*no/such"):
            await unpack({"odd": StreamProcessor((ODD,), LAYER, "/no/such")})

    async def test_it_makes_rubbish(self, unpack):
        with pytest.raises(PortsideError, match="apply layer sha256:"):
            await unpack({"odd": shell("yes")})

    async def test_it_writes_without_end(self, unpack, monkeypatch):
        """Zeros are a whole archive: only what follows it has no end."""
        monkeypatch.setattr(stream_processors, "ROOM", 1 << 20)
        with pytest.raises(ResourceExhausted, match="stream processor odd: writes more than"):
            await unpack({"odd": shell("cat /dev/zero", returns=LAYER)}, data=b"x")

    async def test_it_need_not_read_all(self, unpack, layer, tmp_path):
        (tmp_path / "layer").write_bytes(layer)
        big = os.urandom(1 << 20)
        assert (await unpack({"odd": shell(f"cat {tmp_path}/layer", returns=LAYER)}, data=big))[1] == b"world"


async def test_one_that_stalls(tmp_path):
    (tmp_path / "blob").write_bytes(b"x")
    chain = chain_for(ODD, {"odd": shell(f"echo $$ >{tmp_path}/pid; exec sleep 600")})
    before = os.listdir("/proc/self/fd")
    blob = os.open(tmp_path / "blob", os.O_RDONLY)
    with pytest.raises(DeadlineExceeded, match=r"stream processor odd: has written nothing for 0.2 s"):
        async with processed(blob, 1, chain, {}, stalled=0.2) as stream:
            assert await asyncio.to_thread(os.read, stream, 10) == b""
            raise InvalidArgument("ends early")
    os.close(blob)
    assert (tmp_path / "pid").read_text().strip() not in os.listdir("/proc")
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


async def test_one_that_closes_its_output_and_stays(tmp_path):
    (tmp_path / "blob").write_bytes(b"x")
    chain = chain_for(ODD, {"odd": shell("cat; exec >&-; exec sleep 600")})
    blob = os.open(tmp_path / "blob", os.O_RDONLY)
    with pytest.raises(DeadlineExceeded, match="does not end"):
        async with processed(blob, 1, chain, {}, stalled=0.2) as stream:
            while await asyncio.to_thread(os.read, stream, 10):
                pass
    os.close(blob)


@pytest.mark.parametrize("turns", range(6))
async def test_nothing_stays_open_where_the_block_fails_at_once(tmp_path, turns):
    """Or after a few turns of the loop, in which what copies gets to its first bytes."""
    (tmp_path / "blob").write_bytes(b"x")
    chain = chain_for(ODD, {"odd": shell("exec sleep 600")})
    blob = os.open(tmp_path / "blob", os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InvalidArgument, match="at once"):
        async with processed(blob, 1, chain, {"odd": AnyMessage("type.example/key", b"x" * 1_000_000)}):
            for _ in range(turns):
                await asyncio.sleep(0)
            raise InvalidArgument("at once")
    assert await closed_again(before)
    os.close(blob)


async def test_nothing_stays_open_where_there_is_no_pipe_for_the_result(tmp_path, monkeypatch):
    (tmp_path / "blob").write_bytes(b"x")
    chain = chain_for(ODD, {"odd": shell("exec sleep 600")})
    blob = os.open(tmp_path / "blob", os.O_RDONLY)
    before, pipes, pipe2 = os.listdir("/proc/self/fd"), [], os.pipe2

    def some_pipes(flags):
        if len(pipes) == 2:  # output and complaints of the program
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pipes.append(pipe2(flags))
        return pipes[-1]

    monkeypatch.setattr(os, "pipe2", some_pipes)
    with pytest.raises(OSError, match="Too many open files"):
        async with processed(blob, 1, chain, {}):
            pass
    assert await closed_again(before)
    os.close(blob)


async def test_a_result_that_cannot_be_read_ends_and_says_so(tmp_path, monkeypatch):
    """The reader of the result must not wait for ever, nor take what it got for all of it."""
    (tmp_path / "blob").write_bytes(b"x")
    chain = chain_for(ODD, {"odd": shell("cat")})
    blob = os.open(tmp_path / "blob", os.O_RDONLY)
    before, connected = os.listdir("/proc/self/fd"), []
    loop = asyncio.get_running_loop()
    connect = loop.connect_read_pipe

    async def connect_read_pipe(protocol, pipe):
        connected.append(pipe)
        if len(connected) == 3:  # after the reader below and the complaints
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await connect(protocol, pipe)

    monkeypatch.setattr(loop, "connect_read_pipe", connect_read_pipe)
    with pytest.raises(ResourceExhausted, match="stream processor odd: read what it writes: No space"):
        async with processed(blob, 1, chain, {}) as stream, asyncio.timeout(10):
            assert await read_all(os.dup(stream)) == b""
    connected.clear()
    assert await closed_again(before)
    os.close(blob)


async def closed_again(before):
    """Whether no more is open than ``before``; transports close in the loop's next turns."""
    for _ in range(10):
        await asyncio.sleep(0)
    return len(os.listdir("/proc/self/fd")) <= len(before)
