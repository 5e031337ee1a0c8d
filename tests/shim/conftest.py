from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from portside.shim.loop import Loop

DEADLINE = 20.0


class Turner:
    """Turns a loop until something is so; fails the test if it never is."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def until(self, condition: Callable[[], object], what: str = "the condition") -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"{what} did not come about"
            alarm = self.loop.later(0.05, lambda: None)
            self.loop.turn()
            alarm.cancel()


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def loop(errors: list[BaseException]) -> Iterator[Loop]:
    loop = Loop(errors.append)
    yield loop
    loop.close()
    assert not errors


@pytest.fixture
def turner(loop: Loop) -> Turner:
    return Turner(loop)
