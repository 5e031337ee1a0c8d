from __future__ import annotations

import socket

import pytest

from portside.daemon.addresses import is_loopback, listeners, parse_tcp
from portside.errors import InvalidArgument, PortsideError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:1338", ("127.0.0.1", 1338)),
        ("tcp://localhost:0", ("localhost", 0)),
        (":1338", ("", 1338)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert parse_tcp(text) == found


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "::1:80", "host:-1", "1:2:3", "h:٣"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        parse_tcp(text)


@pytest.mark.parametrize(("host", "local"), [("127.3.4.5", True), ("::1", True), ("localhost", True), ("", False)])
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


async def test_listening() -> None:
    made = await listeners("127.0.0.1", 0)
    assert [listener.family for listener in made] == [socket.AF_INET]
    with pytest.raises(PortsideError, match="listen on 127"):
        await listeners("127.0.0.1", made[0].getsockname()[1])
    for listener in made:
        listener.close()
    everywhere = await listeners("", 0)
    assert socket.AF_INET in {listener.family for listener in everywhere}
    for listener in everywhere:
        listener.close()
    with pytest.raises(PortsideError):
        await listeners("no-such-host.invalid", 1)
