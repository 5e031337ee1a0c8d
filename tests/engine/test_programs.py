"""Programs of others: what they inherit, how they end, and that nothing of them stays."""

import asyncio
import errno
import os
import signal

import pytest

from portside.engine.programs import read_all, start, words, write_all
from portside.errors import NotFound, PermissionDenied, ResourceExhausted
from tests.support.peers import wait_for


async def output(argv, environment=None, **descriptors):
    """What a program writes to descriptor 1."""
    reader, writer = os.pipe()
    program = start("a test", argv, environment or os.environ, {1: writer} | descriptors.get("more", {}))
    os.close(writer)
    try:
        return await read_all(reader), await program.wait()
    finally:
        await program.end()


async def test_it_gets_what_it_is_given_and_no_more():
    """Also where the numbers that are wanted are those of other descriptors that are given."""
    first, second = os.pipe(), os.pipe()
    os.write(first[1], b"first\n")
    os.write(second[1], b"second\n")
    extra = os.open("/dev/null", os.O_RDONLY)
    more = {first[0]: second[0], second[0]: first[0]}
    text = f"echo $(ls /proc/self/fd); head -n1 /proc/self/fd/{first[0]}; head -n1 /proc/self/fd/{second[0]}"
    told, status = await output(["sh", "-c", text], more=more)
    numbers, *lines = told.decode().splitlines()
    assert (lines, status) == (["second", "first"], 0)
    assert str(extra) not in numbers.split()
    for fd in (*first, *second, extra):
        os.close(fd)


async def test_environment_and_signals():
    told, _ = await output(["sh", "-c", "echo $ONE; kill -PIPE $$; echo no"], {"ONE": "1", "PATH": os.environ["PATH"]})
    assert told == b"1\n"


@pytest.mark.parametrize(("text", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", -signal.SIGKILL)])
async def test_how_it_ended(text, status):
    assert (await output(["sh", "-c", text]))[1] == status


@pytest.mark.parametrize(
    ("name", "kind"), [("/no/such", NotFound), ("no-such-program", NotFound), ("/etc", PermissionDenied)]
)
async def test_what_cannot_be_started(name, kind):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=f"start it .*{name}"):
        start("it", [name], {}, {0: 0})
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_that_nobody_could_wait_for_is_ended(monkeypatch):
    started, spawn = [], os.posix_spawnp

    def posix_spawnp(*arguments, **options):
        started.append(spawn(*arguments, **options))
        return started[-1]

    def pidfd_open(pid):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "posix_spawnp", posix_spawnp)
    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with pytest.raises(ResourceExhausted, match=r"start it \(sleep\): Too many open files"):
        start("it", ["sleep", "600"], os.environ, {})
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


async def test_the_end_takes_all_of_it(tmp_path):
    program = start("it", ["sh", "-c", f"sleep 600 & echo $! >{tmp_path}/pid; wait"], os.environ, {})
    file = tmp_path / "pid"
    await asyncio.to_thread(wait_for, lambda: file.exists() and file.read_text().strip(), "a child")
    waiting = asyncio.create_task(program.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await program.end()
    assert await program.wait() == -signal.SIGKILL
    child = int(file.read_text())
    wait_for(lambda: not alive(child), "the child to end")


async def test_writing_to_somebody_who_does_not_read():
    reader, writer = os.pipe()
    writing = asyncio.create_task(write_all(writer, b"x" * 1_000_000))
    await asyncio.sleep(0)
    assert not writing.done()
    os.close(reader)
    await writing
    reader, writer = os.pipe()
    writing = asyncio.create_task(write_all(writer, b"x" * 1_000_000))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(writer)
    os.close(reader)


def test_words():
    assert words(b" a\x1b[31m\xff\n") == "a [31m\ufffd"
    assert words(b"12345", 3) == "123 (cut)"


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
