from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from portside.core.durations import Seconds
from portside.core.tables import check, decode, encode, unknown
from portside.errors import InvalidArgument


@dataclass(frozen=True)
class Inner:
    name: str
    on: bool = False


@dataclass(frozen=True)
class Outer:
    text: str = "x"
    number: int = 1
    share: float = 0.5
    place: Path = Path("/a")
    pause: Seconds = 1.5
    words: Sequence[str] = ()
    pairs: tuple[int, ...] = (1,)
    inner: Inner = Inner("default")
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    anything: Any = None


def test_defaults_and_back():
    assert decode(Outer, {}) == Outer()
    table = encode(Outer(by_name={"a b": Inner("n", True)}, words=("w",)))
    assert table == {
        "text": "x", "number": 1, "share": 0.5, "place": "/a", "pause": "1.5s", "words": ["w"], "pairs": [1],
        "inner": {"name": "default", "on": False}, "by_name": {"a b": {"name": "n", "on": True}}, "anything": None,
    }  # fmt: skip
    assert decode(Outer, table) == Outer(by_name={"a b": Inner("n", True)}, words=("w",))


def test_an_integer_is_a_number():
    assert decode(Outer, {"share": 1, "pause": 2}) == Outer(share=1.0, pause=2.0)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"text": 1}, "at.text: want text, not 1"),
        ({"number": True}, "at.number: want a whole number"),
        ({"number": 1.0}, "at.number: want a whole number"),
        ({"share": "1"}, "at.share: want a number"),
        ({"place": 1}, "at.place: want a path"),
        ({"pause": "soon"}, "at.pause: duration 'soon'"),
        ({"words": "w"}, "at.words: want a list"),
        ({"words": ["w", 1]}, r"at.words\[1\]: want text"),
        ({"inner": 1}, "at.inner: want a table"),
        ({"inner": {}}, "at.inner.name: is missing"),
        ({"by_name": {"a b": {"name": "n", "on": 1}}}, r"at.by_name.'a b'.on: want true or false"),
    ],
)
def test_what_does_not_fit_is_named(table, text):
    with pytest.raises(InvalidArgument, match=text):
        decode(Outer, table, "at")


@dataclass(frozen=True)
class Plain:
    words: list[str] = field(default_factory=list)
    table: dict[str, list[int]] = field(default_factory=dict)


def test_lists_and_dictionaries():
    check(Plain)
    check(Outer)
    table = {"words": ["a"], "table": {"x": [1]}}
    assert decode(Plain, table) == Plain(["a"], {"x": [1]}) and encode(decode(Plain, table)) == table
    with pytest.raises(InvalidArgument, match=r"table\.x\[0\]: want a whole number"):
        decode(Plain, {"table": {"x": ["a"]}})


@pytest.mark.parametrize("hint", [set, tuple[int, str], list[bytes], dict[int, str], Inner | None, Mapping[str, set]])
def test_what_is_no_setting(hint):
    kind = make_dataclass("Kind", [("key", hint, field(default=None))])
    with pytest.raises(TypeError, match=r"Kind\.key: .* is no type for a setting"):
        check(kind)


def test_unknown_keys_are_named_to_the_leaf():
    table = {
        "tex": 1, "text": "y", "deep": {"a": {"b": 1}, "empty": {}}, "inner": {"nam": 1},
        "by_name": {"a b": {"of": 1}}, "anything": {"goes": 1},
    }  # fmt: skip
    assert list(unknown(Outer, table)) == ["tex", "deep.a.b", "deep.empty", "inner.nam", "by_name.'a b'.of"]
