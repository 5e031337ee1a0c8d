"""Messages against bytes worked out by hand from the specification, and a bus of ours that answers as scripted."""

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import DeadlineExceeded, Unavailable
from portside.linux.cgroups import dbus
from portside.linux.cgroups.dbus import Bus, DBusError, call_message, marshal, message_length, parse_message


def body(signature, *values):
    out = bytearray()
    marshal(out, signature, values)
    return bytes(out)


@pytest.mark.parametrize(
    ("signature", "values", "expected"),
    [
        ("u", [7], "07000000"),
        ("yu", [1, 2], "01000000 02000000"),
        ("b", [True], "01000000"),
        ("yt", [1, 2], "01 00000000000000 0200000000000000"),
        ("s", ["ab"], "02000000 616200"),
        ("g", ["as"], "02 617300"),
        ("as", [[]], "00000000"),
        ("as", [["a", "b"]], "0e000000 01000000 6100 0000 01000000 6200"),
        ("at", [[]], "00000000 00000000"),
        ("at", [[1]], "08000000 00000000 0100000000000000"),
        ("v", [("u", 5)], "01 7500 00 05000000"),
        ("a(sv)", [[("a", ("b", False))]], "10000000 00000000 01000000 6100 01 6200 000000 00000000"),
    ],
)
def test_marshalling(signature, values, expected):
    assert body(signature, *values).hex() == expected.replace(" ", "")


def test_types_are_split_off_one_by_one():
    signature, found = "ssa(sv)a(sa(sv))u", []
    while signature:
        kind, signature = dbus.one_type(signature)
        found.append(kind)
    assert found == ["s", "s", "a(sv)", "a(sa(sv))", "u"]


def test_a_call_reads_back():
    message = call_message(9, "org.example", "/org/example", "org.example.Face", "Do", "su", ["x", 3])
    assert message_length(message[:16]) == len(message)
    found = parse_message(message)
    assert found.kind == 1
    assert found.fields == {1: "/org/example", 2: "org.example.Face", 3: "Do", 6: "org.example", 8: "su"}
    assert found.body == ["x", 3]


def answer(kind, fields, signature="", values=(), order="<"):
    """A message as a bus would send it."""
    assert order == "<"
    content = body(signature, *values)
    if signature:
        fields = [*fields, (8, ("g", signature))]
    head = bytearray(struct.pack("<cBBBII", b"l", kind, 0, 1, len(content), 77))
    marshal(head, "a(yv)", [fields])
    return bytes(head) + b"\0" * (-len(head) % 8) + content


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise(data):
    try:
        message_length((data + b"\0" * 16)[:16])
        parse_message(b"l" + data + b"\0" * 16)
    except (ValueError, struct.error):
        pass


@pytest.fixture
def bus(tmp_path):
    """Start a bus that lets us in, answers Hello, then sends what it is given, in one piece."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "bus"))
    server.listen(1)
    threads = []

    def start(*messages, greeting=b"OK 1234\r\n", timeout=5.0):
        def serve():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(greeting)
                if not greeting.startswith(b"OK"):
                    return
                seen = b""
                while b"Hello" not in seen:
                    seen += peer.recv(4096)
                peer.sendall(answer(2, [(5, ("u", 1))], "s", [":1.5"]))
                peer.recv(4096)
                peer.sendall(b"".join(messages))
                try:
                    peer.recv(4096)  # until the client has hung up
                except ConnectionResetError:
                    return

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return Bus(str(tmp_path / "bus"), timeout)

    yield start
    server.close()
    for thread in threads:
        thread.join(10)


def ask(connection):
    return connection.call("a.b", "/a", "a.b", "Ask")


def test_an_answer_and_signals_around_it(bus):
    removed = [(3, ("s", "JobRemoved"))]
    first = answer(4, removed, "uoss", [1, "/job/1", "x.scope", "done"])
    second = answer(4, removed, "uoss", [2, "/job/2", "y.scope", "failed"])
    other = answer(4, [(3, ("s", "Other"))])
    with bus(other, first, answer(2, [(5, ("u", 2))], "o", ["/job/1"]), other, second) as connection:
        assert ask(connection) == ["/job/1"]
        assert connection.wait_signal("JobRemoved") == [1, "/job/1", "x.scope", "done"]
        assert connection.wait_signal("JobRemoved") == [2, "/job/2", "y.scope", "failed"]


def test_an_error_has_its_name(bus):
    with (
        bus(answer(3, [(5, ("u", 2)), (4, ("s", "a.b.NoSuch"))], "s", ["not here"])) as connection,
        pytest.raises(DBusError, match="Ask: not here") as caught,
    ):
        ask(connection)
    assert caught.value.name == "a.b.NoSuch"


def test_values_we_cannot_read_are_left(bus):
    with bus(answer(2, [(5, ("u", 2))], "uas", [7, ["x"]])) as connection:
        assert ask(connection) == [7]


def test_being_refused(bus):
    with pytest.raises(Unavailable, match="REJECTED"):
        bus(greeting=b"REJECTED\r\n")


def test_rubbish(bus):
    with (
        bus(b"HTTP/1.1 400 Bad Request\r\n\r\n") as connection,
        pytest.raises(Unavailable, match="not a D-Bus message"),
    ):
        ask(connection)


def test_a_message_without_end_is_not_waited_for(bus):
    huge = struct.pack("<cBBBII", b"l", 2, 0, 1, 1 << 26, 1) + struct.pack("<I", 0)
    with bus(huge) as connection, pytest.raises(Unavailable, match="bytes"):
        ask(connection)


def test_no_answer(bus):
    with bus(timeout=0.05) as connection, pytest.raises(DeadlineExceeded, match="Ask"):
        ask(connection)


def test_no_bus(tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        Bus(str(tmp_path / "none"))
