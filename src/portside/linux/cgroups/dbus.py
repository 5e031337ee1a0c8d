"""As much of D-Bus as it takes to ask systemd for a unit: calls with their answers, and one signal.

Bytes in, bytes out in the upper half (``call_message``, ``parse_message``), a blocking connection to the system bus in
the lower. Source: the D-Bus specification, *Message Protocol* and *Authentication Protocol*. A general client does not
belong here.
"""

from __future__ import annotations

import _socket
import os
import struct

from portside.errors import DeadlineExceeded, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

SYSTEM_BUS = "/run/dbus/system_bus_socket"
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_MAX_MESSAGE = 1 << 20
"""Far beyond any answer that we ask for; the specification allows 128 MiB."""
_ALIGNMENT = {"y": 1, "b": 4, "u": 4, "t": 8, "s": 4, "o": 4, "g": 1, "a": 4, "v": 1, "(": 8}


class DBusError(Exception):
    """The answer to a call is an error; ``name`` is what programs look at."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text} ({name})")
        self.name = name


class Message:
    """One that came: its kind, the header's fields by number, and the leading values of its body."""

    __slots__ = ("body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


def one_type(signature: str) -> tuple[str, str]:
    """The first complete type of a signature, and the rest."""
    if signature[0] == "a":
        inner, rest = one_type(signature[1:])
        return "a" + inner, rest
    if signature[0] != "(":
        return signature[0], signature[1:]
    depth = 0
    for place, letter in enumerate(signature):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return signature[: place + 1], signature[place + 1 :]
    raise ValueError(f"D-Bus signature {signature!r}")


def _pad(out: bytearray, size: int) -> None:
    out += b"\0" * (-len(out) % size)


def marshal(out: bytearray, signature: str, values: Sequence[Any]) -> None:
    """Append ``values``; a variant is a pair of signature and value, an array or a struct a sequence."""
    for value in values:
        kind, signature = one_type(signature)
        _pad(out, _ALIGNMENT[kind[0]])
        if kind in ("b", "u"):
            out += struct.pack("<I", value)
        elif kind == "y":
            out.append(value)
        elif kind == "t":
            out += struct.pack("<Q", value)
        elif kind in ("s", "o"):
            data = value.encode()
            out += struct.pack("<I", len(data)) + data + b"\0"
        elif kind == "g":
            out += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            marshal(out, "g", [value[0]])
            marshal(out, value[0], [value[1]])
        elif kind[0] == "(":
            marshal(out, kind[1:-1], value)
        else:
            _marshal_array(out, kind[1:], value)


def _marshal_array(out: bytearray, element: str, values: Sequence[Any]) -> None:
    out += b"\0\0\0\0"
    length_at = len(out) - 4
    _pad(out, _ALIGNMENT[element[0]])  # not counted, and there even before nothing
    start = len(out)
    for value in values:
        marshal(out, element, [value])
    struct.pack_into("<I", out, length_at, len(out) - start)


def call_message(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    values: Sequence[Any] = (),
) -> bytes:
    """A method call as bytes, little-endian."""
    body = bytearray()
    marshal(body, signature, values)
    fields: list[tuple[int, tuple[str, str]]] = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", member)),
        (_DESTINATION, ("s", destination)),
    ]
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    head = bytearray(struct.pack("<cBBBII", b"l", _CALL, 0, 1, len(body), serial))
    marshal(head, "a(yv)", [fields])
    _pad(head, 8)
    return bytes(head + body)


class _Reader:
    """Values out of a message's bytes; what does not fit raises ValueError or struct.error."""

    def __init__(self, data: bytes, order: str, place: int = 0) -> None:
        self._data = data
        self._order = order
        self.place = place

    def read(self, signature: str) -> Any:
        kind = signature[0]
        self.place += -self.place % _ALIGNMENT[kind]
        if kind in ("b", "u"):
            return self._number("I", 4)
        if kind == "t":
            return self._number("Q", 8)
        if kind == "y":
            return self._number("B", 1)
        if kind in ("s", "o", "g"):
            length = self._number("I", 4) if kind != "g" else self._number("B", 1)
            self.place += length + 1
            if self.place > len(self._data):
                raise ValueError("D-Bus string beyond its message")
            return self._data[self.place - length - 1 : self.place - 1].decode()
        if kind == "v":
            return self.read(one_type(self.read("g"))[0])
        raise ValueError(f"D-Bus type {signature!r} in an answer")

    def _number(self, letter: str, size: int) -> int:
        (value,) = struct.unpack_from(self._order + letter, self._data, self.place)
        self.place += size
        return int(value)


def message_length(head: bytes) -> int:
    """The length of the message that begins with these 16 bytes; ValueError for what is none or too long."""
    order = {b"l": "<", b"B": ">"}.get(head[:1])
    if order is None or head[3] != 1:
        raise ValueError("not a D-Bus message")
    body, _serial, fields = struct.unpack_from(order + "III", head, 4)
    length = 16 + fields + (-fields % 8) + body
    if length > _MAX_MESSAGE:
        raise ValueError(f"a D-Bus message of {length} bytes")
    return int(length)


def parse_message(data: bytes) -> Message:
    """A whole message; of its body the leading simple values are read."""
    order = "<" if data[:1] == b"l" else ">"
    (fields_length,) = struct.unpack_from(order + "I", data, 12)
    reader = _Reader(data, order, 16)
    fields: dict[int, Any] = {}
    while reader.place < 16 + fields_length:
        reader.place += -reader.place % 8
        number = reader.read("y")
        fields[number] = reader.read("v")
    body, signature = [], str(fields.get(_SIGNATURE, ""))
    reader.place += -reader.place % 8
    while signature and signature[0] in "busotgy":
        body.append(reader.read(signature[0]))
        signature = signature[1:]
    return Message(data[1], fields, body)


class Bus:
    """A connection to the system bus, as whoever runs this process. Close it, or use it in a ``with`` statement.

    Unavailable where there is no bus or it goes away, DeadlineExceeded where it does not answer within ``timeout``
    seconds.
    """

    def __init__(self, address: str = SYSTEM_BUS, timeout: float = 30.0) -> None:
        self._serial = 0
        self._signals: list[Message] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address)
            self._authenticate()
            self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except OSError as error:
            self.close()
            raise Unavailable(f"system bus {address}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _authenticate(self) -> None:
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n") and len(answer) < 512:
            data = self._socket.recv(512)
            if not data:
                break
            answer += data
        if not answer.startswith(b"OK "):
            raise Unavailable(f"system bus: it does not let us in: {answer[:80]!r}")
        self._socket.sendall(b"BEGIN\r\n")

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> list[Any]:
        """The values of the answer; DBusError if that is an error. Signals that come meanwhile are kept."""
        self._serial += 1
        try:
            self._socket.sendall(call_message(self._serial, destination, path, interface, member, signature, values))
            while True:
                message = self._receive()
                if message.kind == _SIGNAL:
                    self._signals.append(message)
                elif message.fields.get(_REPLY_SERIAL) == self._serial:
                    break
        except TimeoutError:
            raise DeadlineExceeded(f"system bus: no answer to {member}") from None
        except OSError as error:
            raise Unavailable(f"system bus: {member}: {error.strerror or error}") from error
        if message.kind == _ERROR:
            text = message.body[0] if message.body else ""
            raise DBusError(str(message.fields.get(_ERROR_NAME, "")), f"{member}: {text}")
        return message.body

    def wait_signal(self, member: str) -> list[Any]:
        """The values of the next signal of that name, the kept ones first."""
        try:
            while True:
                message = self._signals.pop(0) if self._signals else self._receive()
                if message.kind == _SIGNAL and message.fields.get(_MEMBER) == member:
                    return message.body
        except TimeoutError:
            raise DeadlineExceeded(f"system bus: no signal {member}") from None

    def _receive(self) -> Message:
        head = self._exactly(16)
        try:
            return parse_message(head + self._exactly(message_length(head) - 16))
        except (ValueError, struct.error) as error:
            raise Unavailable(f"system bus: {error}") from error

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise Unavailable("system bus: it hung up")
            data += more
        return data

    def close(self) -> None:
        """Hang up; a second time does nothing."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
