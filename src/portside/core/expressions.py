"""Regular expressions as Go has them (RE2 syntax), in terms of Python's: what Go refuses is refused, ``$`` is the end.

Not here: what Python cannot say (``\\pL``); such an expression is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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


class _Refused(Exception):
    """Go would not compile it, or Python cannot say it."""


def search_of(expression: str) -> Callable[[str], bool] | None:
    """Whether ``expression`` is found in a text; None if it cannot be compiled."""
    try:
        found = re.compile(_Translation().of(expression), re.ASCII)
    except (_Refused, re.error, RecursionError, OverflowError, ValueError):
        return None
    return lambda text: found.search(text) is not None


class _Translation:
    """Of one expression. Flags that hold to the end of a group become a group of their own."""

    def __init__(self) -> None:
        self._multiline = [False]
        self._open: list[list[str]] = [[]]
        self._after_repeat = True

    def of(self, expression: str) -> str:
        """Python's form; ``_Refused``."""
        pieces, position = [], 0
        while position < len(expression):
            match = _TOKEN.match(expression, position)
            if match is None:
                raise _Refused
            pieces.append(self._piece(match))
            self._after_repeat = match.lastgroup is not None and match["repeat"] is not None
            position = match.end()
        if len(self._open) > 1:
            raise _Refused
        return "".join(pieces) + ")" * len(self._open[0])

    def _piece(self, match: re.Match[str]) -> str:
        if match["literal"] is not None:
            return re.escape(match["literal"])
        if match["escape"]:
            return _escape(match)
        if match["set"]:
            return _set(match["set"])
        if match["group"]:
            return self._group(match)
        if match["close"]:
            self._multiline.pop()
            if len(self._open) < 2:
                raise _Refused
            return ")" * (len(self._open.pop()) + 1)
        if match["repeat"]:
            return self._repeat(match)
        if match["end"]:
            return "(?m:$)" if self._multiline[-1] else r"\Z"
        if match["plain"] == "|":  # flags go on, in groups of their own on both sides
            return ")" * len(self._open[-1]) + "|" + "".join(self._open[-1])
        if match["plain"] in "\\[":
            raise _Refused
        return match["plain"] if match["plain"] in ".^" else re.escape(match["plain"])

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
