"""HTTP for those who watch: a table of pages, GET and HEAD, one request for each connection.

Metrics and the debug socket are all that is served here, to a handful of clients that ask now and then; so there are no
bodies in, no connections kept, and everything that a client can make large or slow has a limit:

    connections at a time       32, further ones are closed
    the head of a request       8 KiB within 5 s
    a page's making             30 s, then 503
    a client's taking of it     30 s, then it is closed
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from portside.errors import PortsideError, from_oserror

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
MAX_HEAD = 8 << 10
HEAD_TIMEOUT = 5.0
PAGE_TIMEOUT = 30.0
WRITE_TIMEOUT = 30.0
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What a page may want to know of a request; names of headers are in lower case, of repeated ones the first."""

    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A page, in pieces."""

    pieces: Sequence[bytes]
    content_type: str = PLAIN
    status: int = 200


Page = Callable[[Request], Awaitable[Answer]]


def text_answer(text: str, status: int = 200) -> Answer:
    """A page of plain text."""
    return Answer([text.encode("utf-8", "replace")], PLAIN, status)


class HttpServer:
    """Serves ``pages`` by path on the sockets that it is told to. Whoever starts it closes it."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = dict(pages)
        self._servers: list[asyncio.Server] = []
        self._files: list[tuple[str, int]] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen_tcp(self, host: str, port: int) -> list[tuple[str, int]]:
        """Listen on all addresses of ``host`` (empty: all of the machine); the addresses. Errors name the address."""
        try:
            server = await asyncio.start_server(self._accept, host or None, port, limit=MAX_HEAD)
        except OSError as error:
            raise from_oserror(error, f"listen on {host}:{port}") from error
        self._servers.append(server)
        return [found.getsockname()[:2] for found in server.sockets]

    async def listen_unix(self, path: str, uid: int = 0, gid: int = 0) -> None:
        """Listen on a socket at ``path`` that its owner alone may use; a stale one is replaced."""
        try:
            listener = _bind(path, uid, gid)
            self._files.append((path, os.stat(path).st_ino))
        except OSError as error:
            raise from_oserror(error, f"listen on {path}") from error
        self._servers.append(await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_HEAD))

    async def close(self) -> None:
        """Stop listening, end what is in progress, remove our socket files. A second time does nothing."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for path, inode in self._files:
            try:
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
            except OSError:
                continue
        self._files.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="http connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, answer = await self._answer(reader)
            async with asyncio.timeout(WRITE_TIMEOUT):
                writer.write(_head(answer))
                if method != "HEAD":
                    for piece in answer.pieces:
                        writer.write(piece)
                        await writer.drain()
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # the client has gone, or sleeps
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "GET", text_answer("the request's head is too large\n", 431)
        parsed = parse_request(head)
        if isinstance(parsed, Answer):
            return "GET", parsed
        method, request = parsed
        page = self._pages.get(request.path)
        if page is None:
            return method, text_answer("404 page not found\n", 404)
        try:
            async with asyncio.timeout(PAGE_TIMEOUT):
                return method, await page(request)
        except TimeoutError:
            return method, text_answer("the page was not made in time\n", 503)
        except PortsideError as error:
            return method, text_answer(f"{error}\n", 503)
        except Exception:
            log.exception("page %s failed", request.path)
            return method, text_answer("a defect of ours, see the log\n", 500)


def parse_request(head: bytes) -> tuple[str, Request] | Answer:
    """Method and request of a head that ends with an empty line (RFC 9112), or the answer that refuses it."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return text_answer("this is no HTTP request\n", 400)
    method, target, version = words
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        return text_answer("HTTP/1.1 is spoken here\n", 505)
    if method not in ("GET", "HEAD"):
        return text_answer("GET and HEAD are served here\n", 405)
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            return text_answer("a header line cannot be read\n", 400)
        headers.setdefault(name.lower(), value.strip())
    try:
        parts = urlsplit(target)
    except ValueError:
        return text_answer("the target cannot be read\n", 400)
    return method, Request(unquote(parts.path), parts.query, headers)


def _head(answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {sum(map(len, answer.pieces))}",
        f"Date: {formatdate(usegmt=True)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status == 405:
        lines.append("Allow: GET, HEAD")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _bind(path: str, uid: int, gid: int) -> socket.socket:
    """A listening socket at ``path``, 0600, made under a private name, then renamed over a stale one."""
    private = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(private)
        os.chmod(private, 0o600)
        os.chown(private, uid, gid)
        listener.listen(16)
        os.rename(private, path)
    except OSError:
        listener.close()
        try:
            os.unlink(private)
        except OSError:
            pass
        raise
    listener.setblocking(False)
    return listener
