"""The pages' server over real sockets: what it answers, what it refuses, and what it does not wait for."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.daemon import http
from portside.daemon.http import Answer, HttpServer, Request, parse_request, text_answer
from portside.errors import NotFound, PortsideError, Unavailable


async def hello(request: Request) -> Answer:
    return text_answer(f"{request.path} {request.query} {request.headers.get('accept', '')}\n")


async def broken(request: Request) -> Answer:
    raise ValueError("secret")


async def away(request: Request) -> Answer:
    raise Unavailable("the shim sleeps")


async def endless(request: Request) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def large(request: Request) -> Answer:
    return Answer([b"x" * 1_000_000] * 40)


@pytest.fixture
async def server() -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer({"/hello": hello, "/broken": broken, "/away": away, "/endless": endless, "/large": large})
    ((_, port),) = await server.listen_tcp("127.0.0.1", 0)
    yield server, port
    await server.close()


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(20):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]) if head else 0, body


async def test_pages(server: tuple[HttpServer, int]) -> None:
    _, port = server
    assert await ask(port, b"GET /hello?a=b HTTP/1.1\r\nHost: x\r\nAccept: y\r\n\r\n") == (200, b"/hello a=b y\n")
    assert await ask(port, b"HEAD /hello HTTP/1.0\r\n\r\n") == (200, b"")
    assert (await ask(port, b"GET /other HTTP/1.1\r\n\r\n"))[0] == 404
    assert (await ask(port, b"GET /../etc/passwd HTTP/1.1\r\n\r\n"))[0] == 404
    assert (await ask(port, b"POST /hello HTTP/1.1\r\nContent-Length: 0\r\n\r\n"))[0] == 405
    status, body = await ask(port, b"GET /broken HTTP/1.1\r\n\r\n")
    assert status == 500 and b"secret" not in body
    assert await ask(port, b"GET /away HTTP/1.1\r\n\r\n") == (503, b"the shim sleeps\n")
    status, body = await ask(port, b"GET /large HTTP/1.1\r\n\r\n")
    assert (status, len(body)) == (200, 40_000_000)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET /hello HTTP/1.1\r\n folded\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n" + b"A: b\r\n" * 3000 + b"\r\n", 431),
    ],
)
async def test_what_is_refused(server: tuple[HttpServer, int], head: bytes, status: int) -> None:
    assert (await ask(server[1], head))[0] == status


async def test_the_slow_and_the_many(server: tuple[HttpServer, int], monkeypatch: pytest.MonkeyPatch) -> None:
    _, port = server
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.2)
    monkeypatch.setattr(http, "PAGE_TIMEOUT", 0.2)
    assert (await ask(port, b"GET /hello HT"))[0] == 0
    assert (await ask(port, b"GET /endless HTTP/1.1\r\n\r\n"))[0] == 503
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 20.0)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(http.MAX_CONNECTIONS)]
    await ask(port, b"")  # all of them have been accepted by then
    assert (await ask(port, b"GET /hello HTTP/1.1\r\n\r\n"))[0] == 0
    for _, writer in held:
        writer.close()


async def test_closing_ends_what_is_in_progress() -> None:
    server = HttpServer({"/endless": endless})
    ((_, port),) = await server.listen_tcp("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
    await writer.drain()
    await server.close()
    await server.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "http connection"]


async def test_a_socket_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "debug.sock"
    path.touch()  # left by somebody
    server = HttpServer({"/hello": hello})
    await server.listen_unix(str(path), os.getuid(), os.getgid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /hello HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await server.close()
    assert not os.listdir(tmp_path)


async def test_where_nobody_can_listen(tmp_path: Path) -> None:
    server = HttpServer({})
    with pytest.raises(NotFound, match="no-such"):
        await server.listen_unix(str(tmp_path / "no-such" / "socket"))
    with pytest.raises(PortsideError, match=r"192\.0\.2\.1"):
        await server.listen_tcp("192.0.2.1", 0)
    await server.close()


def test_repeated_headers_have_their_first_value() -> None:
    parsed = parse_request(b"GET /%68ello HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n")
    assert parsed == ("GET", Request("/hello", "", {"a": "1"}))
