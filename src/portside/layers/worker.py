"""The layer worker: one process, one layer (or one comparison), then it ends. Started by ``layers/workers.py``.

It is exec'ed as ``python -I -S -E worker.py PATH``, ``PATH`` being where our package and the decompressors are. The
dialogue, one JSON document each way::

    parent → worker (stdin)    {"task": "apply", "blob": FD, "root": FD, "lowers": [FD…], "media_type": …, …} newline
    worker → parent (stdout)   {"diff_id": …, "size": …, …}   or   {"error": KIND, "message": TEXT}

The descriptors are inherited. The parent keeps stdin open; its end means that nobody waits any more, and the worker
ends at once. Imports stay few and cheap: this is on the way of every layer.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.extend(sys.argv[1].split(":"))

import gc
import hashlib
import json
import os
import queue
import stat
import threading

from portside.errors import Internal, PortsideError, ResourceExhausted, from_oserror
from portside.layers import compression, sandbox
from portside.layers.tar import TarParser
from portside.layers.unpack import Unpacker, Whiteouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_JOB = 1 << 20
_READ_AHEAD = 4
"""Parts of up to ``compression.STEP`` bytes that wait between the thread that decompresses and the one that writes."""


class Blob:
    """An inherited descriptor, read from its start: by position if it is a file, since others share its offset."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._offset = 0
        self._start = b""

    def peek(self, size: int) -> bytes:
        """The first ``size`` bytes, or fewer if there are no more; they are read again."""
        while len(self._start) < size and (data := self._read(1 << 16)):
            self._start += data
        return self._start[:size]

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._read(size)

    def _read(self, size: int) -> bytes:
        if not self._is_file:
            return os.read(self._fd, size)
        data = os.pread(self._fd, size, self._offset)
        self._offset += len(data)
        return data


class Inflater:
    """Decompresses and hashes in a thread of its own; both release the interpreter lock."""

    def __init__(self, stream: compression.Decompressor) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._parts: queue.Queue[bytes | BaseException] = queue.Queue(_READ_AHEAD)
        self.size = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while data := self._stream.read():
                self._hash.update(data)
                self.size += len(data)
                self._parts.put(data)
            self._parts.put(b"")
        except BaseException as error:
            self._parts.put(error)

    def read(self) -> bytes:
        """The next part; empty at the end. What went wrong in the thread is raised here."""
        part = self._parts.get()
        if isinstance(part, BaseException):
            raise part
        return part

    @property
    def digest(self) -> str:
        """Of everything, once ``read`` has returned the end."""
        return "sha256:" + self._hash.hexdigest()


def apply(job: dict[str, Any]) -> dict[str, Any]:
    """Unpack one layer; the diffID and size of its uncompressed tar, and what was made."""
    blob = Blob(job["blob"])
    found = compression.detect(blob.peek(compression.MAGIC_SIZE))
    compression.check_media_type(job["media_type"], found)
    stream = compression.open_stream(blob, found)
    whiteouts = job["whiteouts"]
    os.umask(0)
    left = (
        sandbox.enter(job["root"], job["lowers"], attributes=whiteouts == Whiteouts.OVERLAY) if job["isolate"] else []
    )
    _watch_parent()
    inflater = Inflater(stream)
    unpacker = Unpacker(job["root"], whiteouts=whiteouts, lowers=job["lowers"], devices=job["devices"])
    try:
        unpack(inflater, TarParser(), unpacker)
        unpacker.finish()
    finally:
        unpacker.close()
    return {
        "diff_id": inflater.digest, "size": inflater.size, "compression": found, "not_isolated": left, "entries":
        unpacker.entries, "whiteouts": unpacker.whiteouts, "ignored": unpacker.ignored, "bytes": unpacker.bytes,
    }  # fmt: skip


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Write what ``upper`` changes over ``lower`` (descriptors, top first) to ``out``: digests and sizes."""
    from portside.layers.compare import Comparison, LayerOutput

    output = LayerOutput(job["out"], job["compression"])
    directories: list[int] = [*job["upper"], *job["lower"]]
    if job["isolate"]:
        left = sandbox.enter(directories[0], directories[1:], attributes=True, read_only=True)
    else:
        left = []
    _watch_parent()
    comparison = Comparison(output, job["epoch_ns"])
    comparison.run(job["lower"], job["upper"])
    return {**output.finish(), "entries": comparison.entries, "not_isolated": left}


def unpack(inflater: Inflater, parser: TarParser, unpacker: Unpacker) -> None:
    """Feed the archive through; all of the stream is read, since the diffID covers what follows the archive, too."""
    next_event, make, write = parser.next_event, unpacker.entry, unpacker.data
    while True:
        data = inflater.read()
        if parser.ended:
            if not data:
                return
            continue
        parser.feed(data)
        while (event := next_event()) is not None:
            if isinstance(event, memoryview):
                write(event)
            else:
                make(event)
        if not data:
            return


_TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"apply": apply, "compare": compare}


def _watch_parent() -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_job() -> dict[str, Any]:
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part or len(text) > _MAX_JOB:
            os._exit(1)
        text += part
    job: dict[str, Any] = json.loads(text)
    return job


def main() -> int:
    """Do the one job; 0 if it succeeded, 1 if the answer is an error."""
    gc.disable()  # short-lived, and makes no cycles to speak of
    try:
        job = _read_job()
        answer = _TASKS[job["task"]](job)
    except PortsideError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        failure = from_oserror(error, "read")
        answer = {"error": type(failure).__name__, "message": str(failure)}
    except MemoryError:
        answer = {"error": ResourceExhausted.__name__, "message": "more memory than a layer may take"}
    except Exception as error:
        answer = {"error": Internal.__name__, "message": f"{type(error).__name__}: {error}"}
    text = json.dumps(answer).encode()
    while text:
        text = text[os.write(1, text) :]
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    os._exit(main())
