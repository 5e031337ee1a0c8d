"""Long fuzzing of HTTP/2 with atheris (``pip install atheris``); ``tests/wire/http2/test_oracle.py`` has a short form.

    python -m tests.fuzz.fuzz_http2 server|client|hpack|huffman [CORPUS] [options of libFuzzer, -max_total_time=600]
    python -m tests.fuzz.fuzz_http2 seeds CORPUS

Not part of a test run: it ends when told. ``seeds`` writes the stimuli of ``test_rules.py`` to begin with. What must
hold: no exception but those named, every output is whole frames, cutting the input changes nothing, and what ``hpack``
decodes means the same to us.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["portside.wire.http2"]):
    from portside.wire.http2 import huffman
    from portside.wire.http2.connection import H2Connection
    from portside.wire.http2.errors import LocalProtocolError, RemoteProtocolError
    from portside.wire.http2.events import ConnectionFailed, DataReceived, Event, HeadersReceived
    from portside.wire.http2.frames import PREFACE, settings
    from portside.wire.http2.hpack import Decoder

import hpack

from tests.wire.http2.scripts import REQUEST, RESPONSE, TRAILERS, Clock, frames, headers


def feed(connection: H2Connection, pieces: list[bytes]) -> list[str]:
    """Carry ``pieces`` to a connection that answers each request; what happened, as text."""
    told: list[str] = []
    for piece in pieces:
        events: list[Event] = connection.receive_data(piece)
        for index, event in enumerate(events):
            told.append(repr(event))
            if isinstance(event, ConnectionFailed):
                assert index == len(events) - 1
            elif isinstance(event, DataReceived):
                connection.acknowledge(event.stream_id, event.size)
    frames(connection.data_to_send())
    return told


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


def fuzz_server(data: bytes) -> None:
    step = 1 + data[0] if data else 1
    raw = PREFACE + settings({}) + data[1:]
    results = [feed(H2Connection(False, clock=Clock()), pieces) for pieces in ([raw], cut(raw, step))]
    assert results[0] == results[1], "cutting changes what is told"
    connection = H2Connection(False, clock=Clock())
    for piece in cut(raw, step):
        for event in connection.receive_data(piece):
            if isinstance(event, HeadersReceived):
                try:
                    connection.send_response(event.stream_id, RESPONSE, data, TRAILERS)
                except LocalProtocolError:
                    assert not connection.is_open(event.stream_id) or event.trailers
        frames(connection.data_to_send())
    assert connection.unsent >= 0


def fuzz_client(data: bytes) -> None:
    step = 1 + data[0] if data else 1
    results = []
    for how in (len(data) + 1, step):
        connection = H2Connection(True, clock=Clock())
        streams = [connection.open_stream(REQUEST, end) for end in (True, False)]
        connection.send_data(streams[1], bytes(100_000))
        connection.data_to_send()
        results.append(feed(connection, [settings({}), *cut(data[1:], how)]))
    assert results[0] == results[1], "cutting changes what is told"


def fuzz_hpack(data: bytes) -> None:
    ours, oracle = Decoder(), hpack.Decoder()
    for block in cut(data, 1 + data[0] % 64 if data else 1):
        try:
            expected = oracle.decode(block, raw=True)
        except hpack.HPACKError:
            expected = None
        try:
            fields = ours.decode(block).fields
        except RemoteProtocolError as error:
            # The oracle bounds neither integers nor the padding of Huffman strings.
            assert expected is None or "too large" in str(error) or "Huffman" in str(error)
            return
        assert expected is not None and list(fields) == [(bytes(name), bytes(value)) for name, value in expected]


def fuzz_huffman(data: bytes) -> None:
    try:
        text = huffman.decode(data)
    except ValueError:
        return
    assert huffman.encode(text) == data


TARGETS: dict[str, Callable[[bytes], None]] = {
    "server": fuzz_server,
    "client": fuzz_client,
    "hpack": fuzz_hpack,
    "huffman": fuzz_huffman,
}


def write_seeds(corpus: Path) -> None:
    from tests.wire.http2.test_rules import CLIENT_RULES, SERVER_RULES

    corpus.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate([*SERVER_RULES, *CLIENT_RULES]):
        (corpus / f"rule-{number}").write_bytes(b"\xff" + headers(1) + row[2])


if __name__ == "__main__":
    if sys.argv[1:2] == ["seeds"] and len(sys.argv) == 3:
        write_seeds(Path(sys.argv[2]))
        raise SystemExit
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(__doc__)
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
