"""Signals, names, labels and flights."""

from __future__ import annotations

import asyncio
import signal

import pytest

from portside.client.flights import Flights
from portside.client.labels import inherited
from portside.client.names import check_name, new_id, new_name
from portside.client.signals import parse_signal
from portside.core.labels import check_identifier
from portside.errors import InvalidArgument


@pytest.mark.parametrize(
    "number", [number for number in signal.Signals if number.name.startswith("SIG") and number < 32]
)
def test_every_name(number: signal.Signals) -> None:
    assert parse_signal(number.name) == number
    assert parse_signal(number.name.removeprefix("SIG").lower()) == number
    assert parse_signal(str(int(number))) == number


def test_real_time_signals() -> None:
    assert parse_signal("SIGRTMIN") == signal.SIGRTMIN
    assert parse_signal("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert parse_signal("RTMAX-2") == signal.SIGRTMAX - 2


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "+9", "\uff19", "SIGNOPE", "RTMIN-1", "RTMIN+99", "SIGRTMAX+1", "9 "]
)
def test_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signal(text)


def test_ids_and_names() -> None:
    id = new_id()
    check_identifier(id, "container")
    assert check_name(new_name(id)).endswith(id[:6])
    for name in ("", "-x", "a/b", "a b", "\uff41", "a" * 129):
        with pytest.raises(InvalidArgument):
            check_name(name)


def test_labels_of_an_image_that_mean_something_stay_behind() -> None:
    labels = {
        "containerd.io/restart.loguri": "binary:///bin/sh",
        "Containerd.io/restart.status": "running",
        "io.cri-containerd.kind": "container",
        "portside.io/log": "/etc/passwd",
        "io.containerd.image.config.stop-signal": "KILL",
        "": "x",
        "long": "x" * 4096,
        "lone": "\ud800",
        "\udcff": "x",
        "maintainer": "me",
    }
    assert inherited(labels) == {"maintainer": "me"}


async def test_one_flight_per_key() -> None:
    flights = Flights()
    running: list[str] = []
    most = {"a": 0, "b": 0}

    async def fly(key: str) -> None:
        async with flights.one(key):
            running.append(key)
            most[key] = max(most[key], running.count(key))
            await asyncio.sleep(0)
            running.remove(key)

    await asyncio.gather(*(fly(key) for key in "ababab"))
    assert most == {"a": 1, "b": 1}
    assert not flights._locks


async def test_a_cancelled_flight_lets_the_next_one_go() -> None:
    flights = Flights()
    started = asyncio.Event()

    async def hang() -> None:
        async with flights.one("a"):
            started.set()
            await asyncio.Event().wait()

    async def follow() -> str:
        async with flights.one("a"):
            return "done"

    first = asyncio.create_task(hang())
    await started.wait()
    second, third = asyncio.create_task(follow()), asyncio.create_task(follow())
    await asyncio.sleep(0)
    third.cancel()
    first.cancel()
    assert await second == "done"
    await asyncio.gather(first, third, return_exceptions=True)
    assert not flights._locks
