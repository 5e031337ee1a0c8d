"""Regular expressions as Go has them (RE2 syntax), in terms of Python's: what Go refuses is refused, ``$`` is the end.

Python tries one way after the other, which takes ages for ``(a|a)*b`` and a few dozen letters; the daemon would stand
still meanwhile. So only an expression without ways, a row of characters and places, is left to it. For others a machine
goes through the text once with all ways at the same time (Thompson, CACM 11/6), in which Python tells of single
characters and places whether they fit; where it went from some states with some character it remembers, and most
texts only look that up. What is left, states x text, ends with a ``Budget``: ``TooMuch``.

Not here: what Python cannot say (``\\pL``); that is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": "\\x00-\\x7f", "blank": "\\t ", "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ", "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_TOKEN = re.compile(
    r"""
    \\Q(?P<literal>.*?)(?:\\E|$)
    | (?P<escape>\\(?:x\{(?P<long>[0-9A-Fa-f]{1,6})\}|x(?P<byte>[0-9A-Fa-f]{2})|(?P<octal>0[0-7]{0,2}|[1-7][0-7]{1,2})
        |(?P<letter>[A-Za-z0-9])|(?P<sign>.)))
    | (?P<set>\[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*\])
    | (?P<group>\((?:\?(?:P?<(?P<name>[A-Za-z0-9_]+)>|(?P<flags>[imsU]*(?:-[imsU]+)?)(?P<flags_end>[:)])))?)
    | (?P<close>\))
    | (?P<repeat>(?:[*+?]|\{(?P<least>\d+)(?:(?P<range>,)(?P<most>\d*))?\})\??)
    | (?P<end>\$)
    | (?P<plain>.)
    """,
    re.DOTALL | re.VERBOSE,
)
_LETTERS = {"d": r"\d", "D": r"\D", "w": r"\w", "W": r"\W", "s": r"[\t\n\f\r ]", "S": r"[^\t\n\f\r ]", "b": r"\b"}
_LETTERS |= {"B": r"\B", "A": r"\A", "z": r"\Z", "C": r"(?s:.)"}
_LETTERS |= {letter: "\\" + letter for letter in "aftnrv"}
_MAX_REPEAT = 1000
STEPS = 40_000
"""Steps for one object: some 10 ms of a slow processor."""
STATES = 20_000
"""States of all machines for one call: they are made before the first object is looked at."""
_MEMORY = 200_000
"""States in what the machines of one call remember: some 10 MB."""
_COMPARED = 32
"""Characters that Python compares in the time of a step."""


class _Refused(Exception):
    """Go would not compile it, or Python cannot say it."""


class _Kind(Enum):
    """What a piece of an expression is."""

    CHARACTER = "one character"
    PLACE = "a place between two"
    OPEN = "the begin of a group"
    CLOSE = "its end"
    OR = "the other way begins"
    REPEAT = "the last again"


_Piece: TypeAlias = tuple[_Kind, str]
"""The kind, and how Python writes it."""


class TooMuch(Exception):
    """The budget does not suffice; the text says for what."""


class Budget:
    """What the expressions of one call may cost together. ``begin`` is called for each object."""

    __slots__ = ("memory", "states", "steps")

    def __init__(self) -> None:
        self.steps, self.states, self.memory = STEPS, STATES, _MEMORY

    def begin(self) -> None:
        """Another object: its steps are counted anew."""
        self.steps = STEPS

    def spend(self, steps: int) -> None:
        """``TooMuch`` if there are not so many left."""
        self.steps -= steps
        if self.steps < 0:
            raise TooMuch(f"more than {STEPS} steps for one object")


def search_of(expression: str, budget: Budget) -> Callable[[str], bool] | None:
    """Whether ``expression`` is found in a text; None if it cannot be compiled, ``TooMuch`` if it is too large.

    What is returned raises ``TooMuch``, too.
    """
    try:
        pieces = _Translation().of(expression)
        found = re.compile("".join(text for _, text in pieces), re.ASCII)
        if any(kind in (_Kind.REPEAT, _Kind.OR) for kind, _ in pieces):
            return _Machine(pieces, budget).search
    except (_Refused, re.error, RecursionError, OverflowError, ValueError):
        return None

    def search(text: str) -> bool:
        budget.spend(1 + len(text) * len(pieces) // _COMPARED)
        return found.search(text) is not None

    return search


class _Translation:
    """Of one expression. Flags that hold to the end of a group become a group of their own."""

    def __init__(self) -> None:
        self._multiline = [False]
        self._open: list[list[str]] = [[]]
        self._after_repeat = True

    def of(self, expression: str) -> list[_Piece]:
        """Its pieces; ``_Refused``."""
        pieces: list[_Piece] = []
        position = 0
        while position < len(expression):
            match = _TOKEN.match(expression, position)
            if match is None:
                raise _Refused
            pieces += self._pieces(match)
            self._after_repeat = match["repeat"] is not None
            position = match.end()
        if len(self._open) > 1:
            raise _Refused
        return pieces + [(_Kind.CLOSE, ")")] * len(self._open[0])

    def _pieces(self, match: re.Match[str]) -> list[_Piece]:
        if match["literal"] is not None:
            return [(_Kind.CHARACTER, re.escape(character)) for character in match["literal"]]
        if match["escape"]:
            return [(_Kind.PLACE if match["letter"] and match["letter"] in "bBAz" else _Kind.CHARACTER, _escape(match))]
        if match["set"]:
            return [(_Kind.CHARACTER, _set(match["set"]))]
        if match["group"]:
            return [(_Kind.OPEN, self._group(match))]
        if match["close"]:
            self._multiline.pop()
            if len(self._open) < 2:
                raise _Refused
            return [(_Kind.CLOSE, ")")] * (len(self._open.pop()) + 1)
        if match["repeat"]:
            return [(_Kind.REPEAT, self._repeat(match))]
        if match["end"]:
            return [(_Kind.PLACE, "(?m:$)" if self._multiline[-1] else r"\Z")]
        return self._plain(match["plain"])

    def _plain(self, character: str) -> list[_Piece]:
        if character == "|":  # flags go on, in groups of their own on both sides
            flags = self._open[-1]
            closed = [(_Kind.CLOSE, ")")] * len(flags)
            return [*closed, (_Kind.OR, "|"), *((_Kind.OPEN, text) for text in flags)]
        if character in "\\[":
            raise _Refused
        if character == "^":
            return [(_Kind.PLACE, "^")]
        return [(_Kind.CHARACTER, "." if character == "." else re.escape(character))]

    def _group(self, match: re.Match[str]) -> str:
        flags = match["flags"]
        if not flags and not match["flags_end"]:
            if match["group"] == "(" and match.string.startswith("?", match.end()):
                raise _Refused
            self._begin(self._multiline[-1])
            return f"(?P<{match['name']}>" if match["name"] else "("
        on, _, off = (flags or "").partition("-")
        multiline = "m" not in off and ("m" in on or self._multiline[-1])
        on, off = "".join(set(on) - {"U"}), "".join(set(off) - {"U"})
        text = f"(?{on}{'-' + off if off else ''}:"
        if match["flags_end"] == ":":
            self._begin(multiline)
        else:
            self._multiline[-1] = multiline
            self._open[-1].append(text)
        return text

    def _begin(self, multiline: bool) -> None:
        self._multiline.append(multiline)
        self._open.append([])

    def _repeat(self, match: re.Match[str]) -> str:
        if self._after_repeat:
            raise _Refused
        least, most = match["least"], match["most"]
        if least and (int(least) > _MAX_REPEAT or int(most or 0) > _MAX_REPEAT):
            raise _Refused
        return match["repeat"]


def _escape(match: re.Match[str]) -> str:
    if match["long"] or match["byte"]:
        return re.escape(chr(int(match["long"] or match["byte"], 16)))
    if match["octal"]:
        return re.escape(chr(int(match["octal"], 8)))
    if match["letter"]:
        if match["letter"] not in _LETTERS:
            raise _Refused
        return _LETTERS[match["letter"]]
    return re.escape(match["sign"])


_IN_SET = re.compile(r"\[:(\^?)([a-z]+):\]|\\(x\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)|(.)", re.DOTALL)


def _set(text: str) -> str:
    """A set in brackets; what has a meaning for Python alone is escaped."""
    negated = text.startswith("[^")
    inner = text[2 if negated else 1 : -1]
    return f"[{'^' if negated else ''}{_IN_SET.sub(_member, inner)}]"


def _member(match: re.Match[str]) -> str:
    negated, posix, escaped, plain = match.groups()
    if posix:
        if negated or posix not in _POSIX:
            raise _Refused
        return _POSIX[posix]
    if plain:
        return plain if plain.isalnum() or plain in "- _" else re.escape(plain)
    if escaped[0] == "x":
        return re.escape(chr(int(escaped[1:].strip("{}"), 16)))
    if escaped[0] in "01234567":
        return re.escape(chr(int(escaped, 8)))
    if escaped in "dDwWaftnrv":
        return "\\" + escaped
    if escaped in "sS":
        return r"\t\n\f\r " if escaped == "s" else r"\S"
    if escaped.isalnum():
        raise _Refused
    return re.escape(escaped)


_Node: TypeAlias = tuple[Any, ...]
"""``("fits", kind, pattern)``, ``("all", nodes)``, ``("any", nodes)`` or ``("repeat", node, least, most or None)``."""
_States: TypeAlias = frozenset[int]
_FOUND: Final[_States] = frozenset((-1,))
"""Instead of states: the end was reached."""


class _Machine:
    """All ways through an expression. ``_Refused`` for what Go refuses, ``TooMuch`` for too many."""

    def __init__(self, pieces: Sequence[_Piece], budget: Budget) -> None:
        self._pieces, self._at, self._budget = pieces, 0, budget
        self._steps: list[tuple[re.Pattern[str] | None, re.Pattern[str] | None, list[int]]] = []
        self._has_places = any(kind is _Kind.PLACE for kind, _ in pieces)
        self._known: dict[tuple[_States, str, str], _States] = {}
        self._held = 0
        self._end = self._add(None, None, [])
        self._start = self._build(self._either([""]), self._end, _MAX_REPEAT)

    def search(self, text: str) -> bool:
        """Whether a way leads through a part of ``text``; ``TooMuch``."""
        self._budget.spend(len(text) + 1)
        states: _States = frozenset()
        before = ""
        for here in (*text, ""):
            following = self._known.get((states, before, here))
            if following is None:
                following = self._move(states, before, here)
                self._remember((states, before, here), following)
            if following is _FOUND:
                return True
            states = following
            if self._has_places:
                before = here
        return False

    def _move(self, states: _States, before: str, here: str) -> _States:
        """Where ``states`` and a new begin lead with the character ``here``, each being empty outside of the text."""
        reached = self._reach(states, before, here)
        if self._end in reached:
            return _FOUND
        fitting: dict[re.Pattern[str], bool] = {}
        following: set[int] = set()
        for pattern, _, nexts in map(self._steps.__getitem__, reached):
            if pattern is not None:
                if pattern not in fitting:
                    fitting[pattern] = here != "" and pattern.fullmatch(here) is not None
                if fitting[pattern]:
                    following.update(nexts)
        return frozenset(following)

    def _reach(self, states: _States, before: str, here: str) -> set[int]:
        """``states``, a new begin, and where they lead without a character.

        Whether a place fits depends on what is next to it alone.
        """
        reached = {*states, self._start}
        waiting = list(reached)
        around, position = before + here, len(before)
        while waiting:
            pattern, place, nexts = self._steps[waiting.pop()]
            self._budget.spend(1 + len(nexts))
            if pattern is None and (place is None or place.match(around, position)):
                for following in nexts:
                    if following not in reached:
                        reached.add(following)
                        waiting.append(following)
        return reached

    def _remember(self, key: tuple[_States, str, str], following: _States) -> None:
        """Once there is no room, this machine begins anew."""
        size = 1 + len(following)
        if self._budget.memory < size:
            self._budget.memory += self._held
            self._known.clear()
            self._held = 0
        if self._budget.memory >= size:
            self._budget.memory -= size
            self._held += size
            self._known[key] = following

    def _either(self, flags: list[str]) -> _Node:
        """What stands between here and the end of the group, in ways that ``OR`` divides."""
        ways: list[list[_Node]] = [[]]
        while self._at < len(self._pieces):
            kind, text = self._pieces[self._at]
            self._at += 1
            if kind is _Kind.CLOSE:
                break
            if kind is _Kind.OR:
                ways.append([])
            elif kind is _Kind.OPEN:
                ways[-1].append(self._either([*flags, text if text.startswith("(?") and text[2] != "P" else ""]))
            elif kind is _Kind.REPEAT:
                ways[-1].append(("repeat", ways[-1].pop(), *_bounds(text)))
            else:
                pattern = re.compile("".join(flags) + text + ")" * sum(map(bool, flags)), re.ASCII)
                ways[-1].append(("fits", kind, pattern))
        return ("any", [("all", way) for way in ways])

    def _build(self, node: _Node, following: int, most: int) -> int:
        """States for ``node`` that lead to ``following``; the first of them. Go repeats nothing more than ``most``."""
        if node[0] == "fits":
            _, kind, pattern = node
            if kind is _Kind.PLACE:
                return self._add(None, pattern, [following])
            return self._add(pattern, None, [following])
        if node[0] == "all":
            for part in reversed(node[1]):
                following = self._build(part, following, most)
            return following
        if node[0] == "any":
            return self._add(None, None, [self._build(way, following, most) for way in node[1]])
        return self._build_repeat(node, following, most)

    def _build_repeat(self, repeat: _Node, following: int, allowed: int) -> int:
        _, node, least, most = repeat
        times = least if most is None else most
        if times > allowed:
            raise _Refused
        allowed //= max(times, 1)
        if most is None:
            again: list[int] = []
            loop = self._add(None, None, again)
            again += [self._build(node, loop, allowed), following]
            following = loop
        else:
            last = following
            for _ in range(most - least):
                following = self._add(None, None, [self._build(node, following, allowed), last])
        for _ in range(least):
            following = self._build(node, following, allowed)
        return following

    def _add(self, pattern: re.Pattern[str] | None, place: re.Pattern[str] | None, nexts: list[int]) -> int:
        self._budget.states -= 1
        if self._budget.states < 0:
            raise TooMuch(f"more than {STATES} states")
        self._steps.append((pattern, place, nexts))
        return len(self._steps) - 1


def _bounds(repeat: str) -> tuple[int, int | None]:
    """How often at least and at most (None: any number) the last is there."""
    if repeat[0] != "{":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[repeat[0]]
    least, comma, most = repeat.rstrip("?").strip("{}").partition(",")
    return int(least), (int(most) if most else None) if comma else int(least)
