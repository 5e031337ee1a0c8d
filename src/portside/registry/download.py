"""One blob's bytes over as many requests as it takes: resumed by Range where a connection broke (RFC 9110 14)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import urllib3

from portside.errors import DataLoss, Unavailable
from portside.registry.transport import Response, check, explain

CHUNK = 1 << 20


class Download:
    """Bytes ``offset`` to ``end`` (default: all) of a blob of ``size``. Used by one thread at a time.

    ``open`` sends the request with further headers; ``delays`` are between tries. Tries are counted anew whenever
    bytes have come, so a blob of any size survives any number of breaks that are far enough apart. A server that
    knows no ranges answers with the whole: then ``end`` becomes ``size``.
    """

    def __init__(
        self, open: Callable[[dict[str, str]], Response], size: int, offset: int, delays: Sequence[float],
        end: int | None = None,
    ) -> None:  # fmt: skip
        self._open = open
        self.size = size
        self.end = size if end is None else end
        self._offset = offset
        self._delays = delays
        self._tries = 0
        self._response: Response | None = None

    def start(self) -> None:
        """Have the first answer, so that an error in it is the caller's before any byte."""
        if self._offset < self.end:
            self._connect()

    def part(self, offset: int, end: int) -> Download:
        """Another part of the same blob, not started."""
        return Download(self._open, self.size, offset, self._delays, end)

    def read_all(self) -> bytes:
        """All of it, and the connection let go."""
        try:
            parts = []
            while data := self.read():
                parts.append(data)
            return b"".join(parts)
        finally:
            self.close()

    def read(self) -> bytes:
        """The next part; empty when all have come. DataLoss for more, Unavailable for too few."""
        while True:
            if self._offset == self.end:
                self._check_end()
                return b""
            try:
                if self._response is None:
                    self._connect()
                assert self._response is not None
                data = self._response.read(min(CHUNK, self.end - self._offset))
                broken = "the answer ends early"
            except (urllib3.exceptions.HTTPError, OSError) as error:
                data, broken = b"", explain(error)
            if data:
                self._offset += len(data)
                self._tries = 0
                return data
            self._pause(broken)

    def close(self) -> None:
        """Let go of the connection; a second time does nothing."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _pause(self, broken: str) -> None:
        self.close()
        if self._tries >= len(self._delays):
            raise Unavailable(f"{broken} after {self._offset} of {self.size} bytes")
        time.sleep(self._delays[self._tries])
        self._tries += 1

    def _connect(self) -> None:
        partial = self.end < self.size
        wanted = f"bytes={self._offset}-{self.end - 1 if partial else ''}"
        response = self._open({"Range": wanted} if self._offset or partial else {})
        check(response, 200, 206)
        self._response = response
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(self._offset):
                self.close()
                raise Unavailable(f"the registry answers a range from {self._offset} with another one")
        elif self._offset:
            self._skip(self._offset)
        else:
            self.end = self.size

    def _skip(self, size: int) -> None:
        """The server knows no ranges: read over what is there already."""
        assert self._response is not None
        while size:
            data = self._response.read(min(CHUNK, size))
            if not data:
                raise urllib3.exceptions.ProtocolError("ended while skipping")
            size -= len(data)

    def _check_end(self) -> None:
        """What is announced or follows beyond the size is not what was asked for."""
        if self._response is None:
            return
        try:
            more = self._response.read(1)
        except (urllib3.exceptions.HTTPError, OSError):
            more = b""
        if more:
            self.close()
            if self.end < self.size:
                return  # the range was answered with more of the blob than asked for
            raise DataLoss(f"there is more than the {self.size} bytes announced")
        response, self._response = self._response, None
        response.release_conn()
