"""TCP addresses as a configuration has them: ``host:port``, ``[::1]:port``, ``:port`` for all of the machine's."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any

from portside.errors import InvalidArgument, from_oserror

_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""A machine without IPv6, asked for all of its addresses, is told of that one too."""


def parse_tcp(text: str) -> tuple[str, int]:
    """Host (empty: all) and port; InvalidArgument."""
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not (port.isascii() and port.isdigit()) or int(port[:6]) > 65535 or (":" in host) != bracketed:
        raise InvalidArgument(f"address {text[:200]!r}: want host:port")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address that ``host`` means; the caller closes them. Errors name the address.

    With port 0 and several addresses each gets a port of its own.
    """
    loop = asyncio.get_running_loop()
    made: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            try:
                made.append(_listener(family, address))
            except OSError as error:
                if host or error.errno not in _NOT_HERE:
                    raise
    except OSError as error:
        for listener in made:
            listener.close()
        raise from_oserror(error, f"listen on {host}:{port}") from error
    return made


def _listener(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener
