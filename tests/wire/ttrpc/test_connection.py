"""The rules of ttrpc as a table: what a peer sends, and what each side must do about it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.errors import Internal, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from portside.wire import codec
from portside.wire.pb.ttrpc import ttrpc_pb2
from portside.wire.tables import ttrpc as tables
from portside.wire.ttrpc import connection as module
from portside.wire.ttrpc.connection import (
    DATA,
    HEADER,
    MAX_BODY,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Closed,
    Data,
    Failed,
    Request,
    Response,
    TtrpcConnection,
)

BODY = codec.encode(tables.Request, {"service": "s", "method": "m", "payload": b"p"})
OK = codec.encode(tables.Response, {"status": {}, "payload": b"answer"})


def frame(stream_id: int, kind: int, flags: int = 0, body: bytes = b"", length: int | None = None) -> bytes:
    return HEADER.pack(len(body) if length is None else length, stream_id, kind, flags) + body


def shown(event: Any) -> Any:
    if isinstance(event, Failed):
        return ("failed", event.stream_id, type(event.error))
    if isinstance(event, Request):
        return ("request", event.stream_id, event.streaming)
    if isinstance(event, Response):
        return ("response", event.stream_id, event.payload, type(event.error) if event.error else None)
    if isinstance(event, Data):
        return ("data", event.stream_id, event.payload, event.end)
    return ("closed", event.truncated)


def answers(data: bytes) -> list[Any]:
    """What a server wrote, as (stream, status code) or (stream, data)."""
    found: list[Any] = []
    while data:
        length, stream_id, kind, flags = HEADER.unpack_from(data)
        body, data = data[HEADER.size : HEADER.size + length], data[HEADER.size + length :]
        if kind == RESPONSE:
            found.append((stream_id, ttrpc_pb2.Response.FromString(body).status.code))
        else:
            found.append((stream_id, body, flags))
    return found


SERVER_RULES = [
    # name, frames, events, answers
    ("a unary call", [frame(1, REQUEST, 0, BODY)], [("request", 1, False)], []),
    (
        "a call of which the client said that it sends no more",
        [frame(1, REQUEST, REMOTE_CLOSED, BODY)],
        [("request", 1, False)],
        [],
    ),
    (
        "a stream",
        [frame(1, REQUEST, REMOTE_OPEN, BODY), frame(1, DATA, 0, b"x"), frame(1, DATA, REMOTE_CLOSED | NO_DATA)],
        [("request", 1, True), ("data", 1, b"x", False), ("data", 1, None, True)],
        [],
    ),
    (
        "the last message may end the stream",
        [frame(1, REQUEST, REMOTE_OPEN, BODY), frame(1, DATA, REMOTE_CLOSED, b"x")],
        [("request", 1, True), ("data", 1, b"x", True)],
        [],
    ),
    (
        "an empty message is a message",
        [frame(1, REQUEST, REMOTE_OPEN, BODY), frame(1, DATA)],
        [("request", 1, True), ("data", 1, b"", False)],
        [],
    ),
    ("an even number", [frame(2, REQUEST, 0, BODY)], [], [(2, 3)]),
    ("number 0", [frame(0, REQUEST, 0, BODY)], [], [(0, 3)]),
    (
        "a number in use",
        [frame(1, REQUEST, 0, BODY)] * 2,
        [("request", 1, False), ("failed", 1, InvalidArgument)],
        [(1, 3)],
    ),
    (
        "a number below an earlier one",
        [frame(5, REQUEST, 0, BODY), frame(3, REQUEST, 0, BODY)],
        [("request", 5, False)],
        [(3, 3)],
    ),
    (
        "numbers may be left out",
        [frame(5, REQUEST, 0, BODY), frame(99, REQUEST, 0, BODY)],
        [("request", 5, False), ("request", 99, False)],
        [],
    ),
    ("the highest number", [frame(0xFFFFFFFF, REQUEST, 0, BODY)], [("request", 0xFFFFFFFF, False)], []),
    ("data on a stream never opened", [frame(7, DATA, 0, b"x")], [], [(7, 3)]),
    (
        "data on a unary call",
        [frame(1, REQUEST, 0, BODY), frame(1, DATA, 0, b"x")],
        [("request", 1, False), ("failed", 1, InvalidArgument)],
        [(1, 3)],
    ),
    (
        "data after the end",
        [frame(1, REQUEST, REMOTE_OPEN, BODY), *[frame(1, DATA, REMOTE_CLOSED)] * 2],
        [("request", 1, True), ("data", 1, b"", True), ("failed", 1, InvalidArgument)],
        [(1, 3)],
    ),
    ("a response to a server", [frame(1, RESPONSE, 0, OK), frame(1, REQUEST, 0, BODY)], [("request", 1, False)], []),
    ("a type nobody knows", [frame(1, 9, 0, b"zzz"), frame(1, REQUEST, 0, BODY)], [("request", 1, False)], []),
    ("flags nobody knows", [frame(1, REQUEST, 0xF8, BODY)], [("request", 1, False)], []),
    (
        "a request that is not one",
        [frame(1, REQUEST, 0, b"\xff"), frame(3, REQUEST, 0, BODY)],
        [("request", 3, False)],
        [(1, 3)],
    ),
    ("an empty request", [frame(1, REQUEST)], [("request", 1, False)], []),
    (
        "an oversized request",
        [frame(1, REQUEST, 0, bytes(MAX_BODY + 1)), frame(3, REQUEST, 0, BODY)],
        [("request", 3, False)],
        [(1, 8)],
    ),
    (
        "oversized data",
        [frame(1, REQUEST, REMOTE_OPEN, BODY), frame(1, DATA, 0, bytes(MAX_BODY + 1)), frame(3, REQUEST, 0, BODY)],
        [("request", 1, True), ("failed", 1, ResourceExhausted), ("request", 3, False)],
        [(1, 8)],
    ),
    (
        "the largest body",
        [frame(1, REQUEST, 0, codec.encode(tables.Request, {"payload": bytes(MAX_BODY - 5)}))],
        [("request", 1, False)],
        [],
    ),
    ("gone in a header", [frame(1, REQUEST, 0, BODY)[:7], b""], [("closed", True)], []),
    ("gone in a body", [frame(1, REQUEST, 0, BODY)[:-1], b""], [("closed", True)], []),
    ("gone in an oversized body", [frame(1, REQUEST, 0, b"", length=1 << 31), b""], [("closed", True)], [(1, 8)]),
    ("gone between frames", [frame(1, REQUEST, 0, BODY), b""], [("request", 1, False), ("closed", False)], []),
]


@pytest.mark.parametrize(
    ("frames", "events", "replies"), [rule[1:] for rule in SERVER_RULES], ids=[rule[0] for rule in SERVER_RULES]
)
def test_server_rule(frames: list[bytes], events: list[Any], replies: list[Any]) -> None:
    server = TtrpcConnection(client=False)
    found = [shown(event) for data in frames for event in server.receive(data)]
    assert (found, answers(server.take())) == (events, replies)


CLIENT_RULES = [
    # name, opened (unary or streaming), frames, events
    ("an answer", "u", [frame(1, RESPONSE, 0, OK)], [("response", 1, b"answer", None)]),
    (
        "an error",
        "u",
        [frame(1, RESPONSE, 0, codec.encode(tables.Response, {"status": {"code": 5, "message": "no"}}))],
        [("response", 1, b"", NotFound)],
    ),
    ("an answer without a status", "u", [frame(1, RESPONSE, 0, b"\x12\x01z")], [("response", 1, b"z", None)]),
    ("a second answer", "u", [frame(1, RESPONSE, 0, OK)] * 2, [("response", 1, b"answer", None)]),
    ("an answer nobody asked for", "u", [frame(3, RESPONSE, 0, OK), frame(2, RESPONSE, 0, OK), frame(0, DATA)], []),
    (
        "answers in another order",
        "uu",
        [frame(3, RESPONSE, 0, OK), frame(1, RESPONSE, 0, OK)],
        [("response", 3, b"answer", None), ("response", 1, b"answer", None)],
    ),
    ("data for a unary call", "u", [frame(1, DATA, 0, b"x"), frame(1, RESPONSE, 0, OK)], [("failed", 1, Internal)]),
    ("a request from the server", "u", [frame(1, REQUEST, 0, BODY)], [("failed", 1, Internal)]),
    ("an answer that is not one", "u", [frame(1, RESPONSE, 0, b"\xff")], [("failed", 1, Internal)]),
    (
        "an oversized answer",
        "uu",
        [frame(1, RESPONSE, 0, bytes(MAX_BODY + 1)), frame(3, RESPONSE, 0, OK)],
        [("failed", 1, ResourceExhausted), ("response", 3, b"answer", None)],
    ),
    (
        "a stream that ends by a flag",
        "s",
        [frame(1, DATA, 0, b"x"), frame(1, DATA, REMOTE_CLOSED | NO_DATA), frame(1, DATA, 0, b"y")],
        [("data", 1, b"x", False), ("data", 1, None, True)],
    ),
    (
        "a stream that ends by an answer",
        "s",
        [frame(1, DATA, 0, b"x"), frame(1, RESPONSE, 0, OK)],
        [("data", 1, b"x", False), ("response", 1, b"answer", None)],
    ),
    (
        "a type nobody knows",
        "u",
        [frame(1, 0, 0, b""), frame(1, 77, 0, b"z"), frame(1, RESPONSE, 0, OK)],
        [("response", 1, b"answer", None)],
    ),
    ("gone", "u", [b""], [("closed", False)]),
    ("gone in an answer", "u", [frame(1, RESPONSE, 0, OK)[:-3], b""], [("closed", True)]),
]


@pytest.mark.parametrize(
    ("opened", "frames", "events"), [rule[1:] for rule in CLIENT_RULES], ids=[rule[0] for rule in CLIENT_RULES]
)
def test_client_rule(opened: str, frames: list[bytes], events: list[Any]) -> None:
    client = TtrpcConnection(client=True)
    for kind in opened:
        client.request("s", "m", b"p", server_streams=kind == "s")
    client.take()
    found = [shown(event) for data in frames for event in client.receive(data)]
    assert (found, client.take()) == (events, b"")


def pair() -> tuple[TtrpcConnection, TtrpcConnection]:
    return TtrpcConnection(client=True), TtrpcConnection(client=False)


def test_a_call_end_to_end() -> None:
    client, server = pair()
    stream_id = client.request("svc", "Do", b"in", timeout_ns=5, metadata={"Containerd-Namespace-TTRPC": "k8s"})
    (request,) = server.receive(client.take())
    assert isinstance(request, Request)
    assert (request.service, request.method, request.payload, request.timeout_ns) == ("svc", "Do", b"in", 5)
    assert request.metadata == {"containerd-namespace-ttrpc": "k8s"}
    server.respond(stream_id, b"out")
    (response,) = client.receive(server.take())
    assert shown(response) == ("response", 1, b"out", None)
    assert (client.streams, server.streams) == (0, 0)


def test_an_error_keeps_its_meaning_and_its_text() -> None:
    client, server = pair()
    server.receive((client.request("s", "m", b""), client.take())[1])
    server.fail(1, NotFound("container x: no such task"))
    (response,) = client.receive(server.take())
    assert isinstance(response, Response)
    assert isinstance(response.error, NotFound) and str(response.error) == "container x: no such task"


def test_a_stream_both_ways() -> None:
    client, server = pair()
    stream_id = client.request("s", "m", b"", client_streams=True, server_streams=True)
    client.send_data(stream_id, b"1")
    client.send_data(stream_id, None, end=True)
    events = [shown(event) for event in server.receive(client.take())]
    assert events == [("request", 1, True), ("data", 1, b"1", False), ("data", 1, None, True)]
    server.send_data(stream_id, b"2")
    server.send_data(stream_id, None, end=True)
    server.send_data(stream_id, b"late")
    server.respond(stream_id, b"late")
    assert [shown(event) for event in client.receive(server.take())] == [
        ("data", 1, b"2", False),
        ("data", 1, None, True),
    ]
    client.send_data(stream_id, b"late")
    assert (client.take(), client.streams, server.streams) == (b"", 0, 0)


def test_the_same_bytes_as_ttrpcs_own_messages() -> None:
    client = TtrpcConnection(client=True)
    client.request("s", "m", b"p", timeout_ns=7, metadata={"k": "v"})
    sent = client.take()
    wanted = ttrpc_pb2.Request(
        service="s", method="m", payload=b"p", timeout_nano=7, metadata=[ttrpc_pb2.KeyValue(key="k", value="v")]
    )
    assert sent == frame(1, REQUEST, 0, wanted.SerializeToString())
    server = TtrpcConnection(client=False)
    server.receive(sent)
    server.respond(1, b"x")
    assert ttrpc_pb2.Response.FromString(server.take()[HEADER.size :]) == ttrpc_pb2.Response(status={}, payload=b"x")


@given(st.lists(st.integers(1, 40), max_size=60))
def test_frames_may_be_cut_anywhere(cuts: list[int]) -> None:
    raw = (
        frame(1, REQUEST, REMOTE_OPEN, BODY)
        + frame(3, REQUEST, 0, BODY)
        + frame(1, DATA, 0, b"x" * 50)
        + frame(2, REQUEST, 0, BODY)
    )
    server, found = TtrpcConnection(client=False), []
    for cut in [*cuts, len(raw)]:
        piece, raw = raw[:cut], raw[cut:]
        if piece:
            found += [shown(event) for event in server.receive(piece)]
    assert found == [("request", 1, True), ("request", 3, False), ("data", 1, b"x" * 50, False)]
    assert answers(server.take()) == [(2, 3)]


@given(st.booleans(), st.lists(st.binary(min_size=1, max_size=60)))
def test_noise_never_raises(client: bool, noise: list[bytes]) -> None:
    side = TtrpcConnection(client=client)
    if client:
        side.request("s", "m", b"")
    for data in noise:
        side.receive(data)
    assert isinstance(side.receive(b"")[-1], Closed)


def test_an_oversized_body_is_skipped_without_being_kept() -> None:
    server = TtrpcConnection(client=False)
    server.receive(frame(1, REQUEST, 0, b"", length=8 << 20))
    for _ in range(8):
        server.receive(bytes(1 << 20))
        assert len(server._buffer) == 0
    assert [shown(event) for event in server.receive(frame(3, REQUEST, 0, BODY))] == [("request", 3, False)]


def test_too_many_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    server = TtrpcConnection(client=False)
    events = [event for stream_id in (1, 3, 5) for event in server.receive(frame(stream_id, REQUEST, 0, BODY))]
    assert len(events) == 2 and answers(server.take()) == [(5, 8)]
    server.respond(1, b"")
    server.take()
    assert len(server.receive(frame(7, REQUEST, 0, BODY))) == 1


def test_what_is_too_large_is_not_sent() -> None:
    client, server = pair()
    with pytest.raises(ResourceExhausted):
        client.request("s", "m", bytes(MAX_BODY))
    assert client.take() == b"" and client.streams == 0
    assert client.request("s", "m", b"") == 1
    server.receive(client.take())
    with pytest.raises(ResourceExhausted):
        server.send_data(1, bytes(MAX_BODY + 1))
    server.respond(1, bytes(MAX_BODY))
    (response,) = client.receive(server.take())
    assert isinstance(response, Response) and isinstance(response.error, ResourceExhausted)


def test_numbers_run_out() -> None:
    client = TtrpcConnection(client=True)
    client._last = 0xFFFFFFFD
    assert client.request("s", "m", b"") == 0xFFFFFFFF
    with pytest.raises(Unavailable):
        client.request("s", "m", b"")


def test_a_call_given_up_is_ignored_when_answered() -> None:
    client, server = pair()
    server.receive((client.request("s", "m", b""), client.take())[1])
    client.forget(1)
    server.respond(1, b"late")
    assert client.receive(server.take()) == [] and client.streams == 0


def test_our_own_mistakes_are_told_apart() -> None:
    client, server = pair()
    for mistake in (
        lambda: server.request("s", "m", b""),
        lambda: server.respond(1, b""),
        lambda: client.respond(1, b""),
    ):
        with pytest.raises(Internal):
            mistake()
    client.request("s", "m", b"")
    with pytest.raises(Internal):
        client.send_data(1, b"unary calls have no data")


def test_light() -> None:
    code = "before = set(sys.modules); import portside.wire.ttrpc.connection; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    foreign = {name for name in loaded.stdout.split() if not name.startswith("portside")}
    assert foreign <= {"_struct", "struct", "errno", "__future__"}
