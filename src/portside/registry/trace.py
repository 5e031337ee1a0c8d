"""Requests and answers as text, for people who look for what goes wrong; without what must stay secret.

What does not belong here: bodies, which are images or tokens, and who reads the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-registry-auth"})
_ADDRESSES = frozenset({"location", "link"})
_MAX_VALUE = 300


def request_text(method: str, url: str, headers: Mapping[str, str]) -> str:
    """``> GET https://host/v2/…`` and its headers, a line each."""
    return _text(f"> {method} {_address(url)}", headers, ">")


def answer_text(method: str, url: str, status: int, headers: Mapping[Any, Any]) -> str:
    """``< 200 GET https://host/v2/…`` and its headers, a line each."""
    return _text(f"< {status} {method} {_address(url)}", headers, "<")


def _text(first: str, headers: Mapping[Any, Any], mark: str) -> str:
    lines = [first]
    for name, value in headers.items():
        key = str(name).lower()
        shown = "(not shown)" if key in _SECRET else _address(str(value)) if key in _ADDRESSES else str(value)
        lines.append(f"{mark} {name}: {_printable(shown)}")
    return "\n".join(lines) + "\n"


def _address(url: str) -> str:
    """Without user, password and query, in which tokens and signatures travel."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://" if parts.scheme else ""
    return _printable(f"{shown}{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?(not shown)" if parts.query else ""))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_VALUE])
