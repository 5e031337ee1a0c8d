"""``ctr pprof``: what the server's debug socket serves below ``/debug/pprof/``.

Our daemon is no program of Go's and has no such profiles; in place of its goroutines it shows threads and tasks.
"""

from __future__ import annotations

import os

from portside.cli.ctr.command import Command, Session, plain
from portside.cli.ctr.grammar import Flag, integer, seconds
from portside.errors import NotFound, Unavailable, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portside.cli.ctr.grammar import Values

    SocketOf = Callable[[Session, Values], str]

DEFAULT_SOCKET = "/run/containerd/debug.sock"
_PATIENCE = 30.0
"""Seconds that an answer may take beyond the time that is measured."""
_CHUNK = 64 << 10
_GOROUTINE = "goroutine"
_INSTEAD = ("/debug/stacks", "/debug/tasks")
"""What our daemon has for ``goroutine``."""


def profile_of(kind: str, socket_of: SocketOf, debug: int = 0, duration: float = 0.0) -> Command:
    """The command that prints the profile ``kind``; with a ``duration`` the server measures for so many seconds."""
    options = [integer("--debug", "0 is for tools, more for people", debug)]
    if duration:
        options.append(
            Flag("--seconds", "-s", value="DURATION", default=duration, convert=seconds, help="how long to measure")
        )

    @plain("", *options)
    def show(session: Session, values: Values, words: Sequence[str]) -> None:
        query = f"debug={values['debug']}"
        if duration:
            query = f"seconds={values['seconds']:g}&{query}"
        path, timeout = socket_of(session, values), values.get("seconds", 0.0) + _PATIENCE
        try:
            fetch(path, f"/debug/pprof/{kind}?{query}", timeout)
        except NotFound:
            if kind != _GOROUTINE:
                raise
            for request in _INSTEAD:
                fetch(path, request, timeout)

    return show


def fetch(path: str, request: str, timeout: float) -> None:
    """What a server on the unix socket ``path`` answers to a GET, to standard output.

    Unavailable if nobody listens there; NotFound if it does not serve this; Unknown for other answers.
    """
    import http.client
    import socket
    import sys

    class Connection(http.client.HTTPConnection):
        """HTTP over a unix socket."""

        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(path)

    connection = Connection("localhost", timeout=timeout)
    try:
        connection.request("GET", request)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            kind = NotFound if answer.status == http.client.NOT_FOUND else Unknown
            raise kind(f"{path}: GET {request}: status {answer.status} {answer.reason}")
        while data := answer.read(_CHUNK):
            sys.stdout.buffer.write(data)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"debug socket {path}: {error}; the server has none, or it is elsewhere") from None
    finally:
        connection.close()


def _server_socket(session: Session, values: Values) -> str:
    """What the command line says; by default containerd's place, else beside the server's socket."""
    path: str = values["debug_socket"]
    if path == DEFAULT_SOCKET and not os.path.exists(path):
        return os.path.join(os.path.dirname(session.address), "debug.sock")
    return path


block = profile_of("block", _server_socket)
goroutines = profile_of(_GOROUTINE, _server_socket, debug=2)
heap = profile_of("heap", _server_socket)
profile = profile_of("profile", _server_socket, duration=30.0)
threadcreate = profile_of("threadcreate", _server_socket)
trace = profile_of("trace", _server_socket, duration=5.0)
