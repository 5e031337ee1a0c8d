"""Messages between a new process and its maker: no root needed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.runtime import dialogue
from portside.runtime.dialogue import PeerGone, channel_pair, decode_failure, encode_failure
from portside.runtime.failure import RuntimeFailure


def test_messages_and_descriptors() -> None:
    ours, theirs = channel_pair()
    reader, writer = os.pipe()
    theirs.send(dialogue.CONSOLE, fd=writer)
    theirs.send(dialogue.PID, b"17")
    kind, payload, fd = ours.receive()
    assert (kind, payload) == (dialogue.CONSOLE, b"")
    os.write(fd, b"x")
    assert os.read(reader, 1) == b"x"
    assert ours.receive() == (dialogue.PID, b"17", -1)
    for each in (reader, writer, fd):
        os.close(each)
    theirs.close()
    with pytest.raises(PeerGone):
        ours.receive()
    with pytest.raises(PeerGone):
        ours.send(dialogue.START)
    ours.close()


def test_joined_may_come_early_and_counts_for_ever() -> None:
    ours, theirs = channel_pair()
    ours.send(dialogue.JOINED)
    ours.send(dialogue.IDS_MAPPED)
    theirs.expect(dialogue.IDS_MAPPED)
    theirs.expect(dialogue.JOINED)
    theirs.expect(dialogue.JOINED)
    ours.send(dialogue.READY)
    with pytest.raises(RuntimeFailure, match="unexpected message"):
        theirs.expect(dialogue.START)
    ours.close()
    theirs.close()


def test_last_words_are_heard_although_not_all_was_read() -> None:
    ours, theirs = channel_pair()
    ours.send(dialogue.JOINED)
    theirs.send(dialogue.FAILED, encode_failure(RuntimeFailure("step", "path", 2)))
    theirs.close()
    kind, payload, _ = ours.receive()
    assert kind == dialogue.FAILED
    assert str(decode_failure(payload)) == "step: path: no such file or directory"
    ours.close()


def test_looking_without_waiting() -> None:
    ours, theirs = channel_pair()
    with pytest.raises(BlockingIOError):
        ours.receive(wait=False)
    ours.close()
    theirs.close()


@given(st.text(), st.text(), st.integers(0, 200), st.text())
def test_failures_survive_the_way(step: str, path: str, number: int, reason: str) -> None:
    original = RuntimeFailure(step, path, number, reason)
    payload = encode_failure(original)
    assert len(payload) < 4095
    arrived = decode_failure(payload)
    assert arrived.errno == number
    if max(map(len, (step, path, reason))) < 100 and "\0" not in step + path + reason:
        assert str(arrived) == str(original)
