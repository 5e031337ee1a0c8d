"""Stream processors: programs that turn a layer of a media type of their own into one that can be unpacked, or into
what the next of them takes (containerd's ``[stream_processors.<id>]``, docs/stream_processors.md).

    blob → PROGRAM ARGS… → … → we, who count → layer worker

A program reads the layer on its standard input and writes the result to its standard output. The payload that the
caller gave under the processor's id comes as a serialized google.protobuf.Any on descriptor 3, the media type that it
is to read in ``STREAM_PROCESSOR_MEDIATYPE``. A status that is not 0 is an error, which standard error explains.

What comes out is unpacked in a confined worker like any other layer. A program that stops writing, or that writes
without end, is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from portside.core.anymessage import AnyMessage
from portside.core.settings import StreamProcessor
from portside.engine.programs import Program, read_all, start, words, write, write_all
from portside.errors import DeadlineExceeded, InvalidArgument, PortsideError, ResourceExhausted, Unknown, from_oserror
from portside.layers.compression import compression_of
from portside.oci.descriptor import LAYER

STALLED = 60.0
"""Seconds without a byte of output after which a program is given up."""
ROOM, RATIO = 64 << 20, 1100
"""At most so many bytes come out, and so many for each that the layer has: gzip's largest ratio is 1032."""
MAX_STEPS = 8
_CHUNK = 1 << 20
_ENDING = 2.0
"""Seconds for a program that has closed its output to end, where something has failed already."""


@dataclass(frozen=True, slots=True)
class Step:
    """A processor that is to be run."""

    id: str
    media_type: str
    """What it reads."""
    processor: StreamProcessor


def chain_for(media_type: str, processors: Mapping[str, StreamProcessor]) -> tuple[Step, ...]:
    """The processors for a layer, in order; none for one that we understand and nobody claims.

    Unimplemented for a media type that nobody takes; InvalidArgument for processors that go round in circles.
    """
    steps: list[Step] = []
    while len(steps) <= MAX_STEPS:
        step = None if steps and media_type == LAYER else _step_for(media_type, processors)
        if step is None:
            compression_of(media_type)
            return tuple(steps)
        steps.append(step)
        media_type = step.processor.returns
    raise InvalidArgument(f"media type {steps[0].media_type!r}: more than {MAX_STEPS} stream processors in a row")


def _step_for(media_type: str, processors: Mapping[str, StreamProcessor]) -> Step | None:
    for id, processor in processors.items():
        if media_type in processor.accepts:
            return Step(id, media_type, processor)
    return None


@contextlib.asynccontextmanager
async def processed(
    blob: int, size: int, chain: Sequence[Step], payloads: Mapping[str, AnyMessage], stalled: float = STALLED
) -> AsyncIterator[int]:
    """A pipe with what ``chain`` makes of the layer ``blob`` (``size`` bytes); without a chain that itself.

    At the end of the block all programs must have ended well: Unknown with what one said, DeadlineExceeded for one
    that stalls, ResourceExhausted for one that writes too much. That explains errors of the block itself, too.
    """
    if not chain:
        yield blob
        return
    line = _Line(ROOM + RATIO * size, stalled)
    try:
        try:
            yield line.begin(blob, chain, payloads)
        except PortsideError as error:
            reason = await line.reason(_ENDING)
            if reason is not None:
                raise reason from error
            raise
        reason = await line.reason(stalled)
        if reason is not None:
            raise reason
    finally:
        await line.close()


class _Line:
    """Programs one after the other, and the pump at their end."""

    def __init__(self, limit: int, stalled: float) -> None:
        self._limit, self._stalled = limit, stalled
        self._programs: list[tuple[Program, asyncio.Task[bytes]]] = []
        self._feeders: list[asyncio.Task[None]] = []
        self._pump: asyncio.Task[None] | None = None
        self._output = -1
        self._files: list[io.FileIO] = []
        """What the pump closes, if it begins at all."""

    def begin(self, blob: int, chain: Sequence[Step], payloads: Mapping[str, AnyMessage]) -> int:
        """Start them; the pipe that the result comes out of, which ``close`` closes."""
        source = blob
        for step in chain:
            try:
                output = self._start(step, source, payloads.get(step.id))
            finally:
                if source != blob:
                    os.close(source)
            source = output
        reading = self._owned(source, "rb")
        self._output, entrance = os.pipe2(os.O_CLOEXEC)
        writing = self._owned(entrance, "wb")
        self._pump = asyncio.create_task(self._copy(reading, writing, f"stream processor {chain[-1].id}"))
        return self._output

    def _owned(self, fd: int, mode: str) -> io.FileIO:
        file = io.FileIO(fd, mode)
        self._files.append(file)
        return file

    def _start(self, step: Step, source: int, payload: AnyMessage | None) -> int:
        """One program; its output."""
        what, processor = f"stream processor {step.id}", step.processor
        given = dict(entry.partition("=")[::2] for entry in processor.env)
        environment = {**os.environ, **given, "STREAM_PROCESSOR_MEDIATYPE": step.media_type}
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            output, stdout = _pipe(ours, theirs)
            complaints, stderr = _pipe(ours, theirs)
            descriptors = {0: source, 1: stdout, 2: stderr}
            feeder = -1
            if payload is not None:
                descriptors[3], feeder = _pipe(theirs, ours)
            program = start(what, [processor.path, *processor.args], environment, descriptors)
            ours.pop_all()
        self._programs.append((program, asyncio.create_task(read_all(complaints))))
        if payload is not None:
            self._feeders.append(asyncio.create_task(write_all(feeder, _serialized(payload))))
        return output

    async def reason(self, patience: float) -> PortsideError | None:
        """Why it did not go well; None if it did, or if the programs are not to blame."""
        if self._pump is not None and self._pump.done() and (error := self._pump.exception()) is not None:
            if isinstance(error, OSError):
                return from_oserror(error, f"{self._programs[-1][0].what}: read what it writes")
            if not isinstance(error, PortsideError):
                raise error
            return error
        if self._pump is None or not self._pump.done():
            return None  # nobody reads to the end: it was the reader who stopped
        for program, complaints in self._programs:
            try:
                async with asyncio.timeout(patience):
                    status, text = await program.wait(), await asyncio.shield(complaints)
            except TimeoutError:
                return DeadlineExceeded(f"{program.what}: has written all and does not end")
            if status:
                return Unknown(f"{program.what}: ended with status {status}: {words(text) or 'no word why'}")
        return None

    async def close(self) -> None:
        """End what still runs; nothing stays open."""
        for program, _ in self._programs:
            await program.end()
        tasks = [*self._feeders, *(complaints for _, complaints in self._programs)]
        tasks += [self._pump] if self._pump is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for file in self._files:
            file.close()
        if self._output >= 0:
            os.close(self._output)

    async def _copy(self, source: io.FileIO, entrance: io.FileIO, what: str) -> None:
        """From the last program to the worker, watching both clock and size; closes both ends."""
        reader = asyncio.StreamReader(_CHUNK)
        left = self._limit
        with source, entrance:
            incoming, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), source
            )
            try:
                while data := await self._next(reader, what):
                    left -= len(data)
                    if left < 0:
                        raise ResourceExhausted(f"{what}: writes more than {self._limit} bytes")
                    await write(entrance.fileno(), data)
            except BrokenPipeError:
                return  # the worker has ended; its answer tells why
            finally:
                incoming.close()

    async def _next(self, reader: asyncio.StreamReader, what: str) -> bytes:
        try:
            async with asyncio.timeout(self._stalled):
                return await reader.read(_CHUNK)
        except TimeoutError:
            raise DeadlineExceeded(f"{what}: has written nothing for {self._stalled:g} s") from None


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed with the two stacks."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    reading.callback(os.close, reader)
    writing.callback(os.close, writer)
    return reader, writer


def _serialized(payload: AnyMessage) -> bytes:
    from portside.wire.pb.google.protobuf import any_pb2

    return any_pb2.Any(type_url=payload.type_url, value=payload.value).SerializeToString()
