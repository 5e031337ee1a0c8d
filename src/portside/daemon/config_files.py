"""The files of a configuration: read within limits, imports followed, merged into one document of version 4.

Imports are followed as containerd does it: breadth first, a file's own imports after it; relative paths start at the
importing file; a path with ``*`` is a pattern that may match nothing; a file that several others name is read once. A
file that imports one of those that led to it is refused (containerd passes over it in silence), unless a pattern
matched it by the way, or it is the file itself: containerd 1.6 writes that into what it dumps.

Merging, as containerd's: later files win; ``""``, ``0`` and ``false`` outside of ``plugins`` mean "not set";
``disabled_plugins``, ``required_plugins`` and ``imports`` are joined without repeats; tables of plugins are merged
key by key, all the way down, lists in them replaced; an entry of ``timeouts``, ``proxy_plugins`` or
``stream_processors`` is replaced as a whole.
"""

from __future__ import annotations

import glob
import os
import stat
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portside.daemon.config_versions import migrated, version_of
from portside.errors import InvalidArgument, NotFound, PermissionDenied, from_oserror

MAX_BYTES = 1 << 20
"""Of one file."""
MAX_FILES = 256
MAX_DEPTH = 16
"""How many imports may lead from the main file to another."""

_JOINED = ("disabled_plugins", "required_plugins", "imports")
_REPLACED = ("timeouts", "proxy_plugins", "stream_processors")


@dataclass(frozen=True, slots=True)
class Source:
    """One file: what it says, and the same as version 4."""

    path: Path
    version: int
    original: Mapping[str, Any]
    document: Mapping[str, Any]


def read(path: Path) -> Source:
    """One file, without its imports. NotFound, PermissionDenied and InvalidArgument name it."""
    try:
        original = tomllib.loads(_text(path))
        return Source(path, version_of(original), original, migrated(original))
    except InvalidArgument as error:
        raise InvalidArgument(f"configuration {path}: {error}") from error
    except RecursionError:
        raise InvalidArgument(f"configuration {path}: tables or lists are nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"configuration {path}: {error}") from error


def read_all(path: Path) -> list[Source]:
    """``path`` and whatever it imports, in the order in which they count."""
    sources: list[Source] = []
    seen: set[str] = set()
    waiting: deque[tuple[Path, tuple[str, ...]]] = deque([(path.absolute(), ())])
    while waiting:
        current, chain = waiting.popleft()
        identity = os.path.realpath(current)
        if identity in seen:
            continue
        seen.add(identity)
        if len(sources) == MAX_FILES:
            raise InvalidArgument(f"configuration {path}: imports more than {MAX_FILES} files")
        source = _imported(current, chain)
        sources.append(source)
        for found in _imports(source, (*chain, identity)):
            waiting.append((found, (*chain, identity)))
    return sources


def _imported(path: Path, chain: tuple[str, ...]) -> Source:
    try:
        return read(path)
    except NotFound as error:
        raise NotFound(f"{error}, imported by {chain[-1]}" if chain else str(error)) from error


def _imports(source: Source, chain: tuple[str, ...]) -> list[Path]:
    names = source.document.get("imports", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and "\0" not in name for name in names):
        raise InvalidArgument(f"configuration {source.path}: imports: want a list of paths")
    found: list[Path] = []
    for name in names:
        path = os.path.normpath(source.path.parent / name)
        if "*" in path:
            matches = sorted(glob.glob(path, include_hidden=True))
            found += [Path(match) for match in matches if os.path.realpath(match) not in chain]
        elif os.path.realpath(path) == chain[-1]:
            continue
        elif os.path.realpath(path) in chain:
            circle = [*chain[chain.index(os.path.realpath(path)) :], os.path.realpath(path)]
            raise InvalidArgument(f"configuration {source.path}: imports go in a circle: {' → '.join(circle)}")
        else:
            found.append(Path(path))
    if found and len(chain) > MAX_DEPTH:
        raise InvalidArgument(f"configuration {source.path}: imports lead more than {MAX_DEPTH} files deep")
    return found


def _text(path: Path) -> str:
    try:
        # Not blocking: a fifo must not hold up the start; it is refused below like everything that is no file.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidArgument("is not a file")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise NotFound(f"configuration {path}: no such file") from None
    except PermissionError as error:
        raise PermissionDenied(f"configuration {path}: {error.strerror}") from error
    except OSError as error:
        raise from_oserror(error, f"configuration {path}") from error
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"is longer than {MAX_BYTES} bytes")
    return data.decode()


def merged(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Documents of version 4 as one; the rules are above. ``imports`` keeps what was imported."""
    result: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            old = result.get(key)
            if key in _JOINED and isinstance(value, list):
                result[key] = [*(old or []), *(item for item in value if item not in (old or []))]
            elif key in _REPLACED and isinstance(value, Mapping):
                result[key] = {**(old or {}), **value}
            elif key == "plugins":
                result[key] = overlaid(old or {}, value)
            elif isinstance(value, Mapping):
                fresh = {name: item for name, item in value.items() if item or name not in (old or {})}
                result[key] = {**(old or {}), **fresh}
            elif value or key not in result:
                result[key] = value
    return result


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one: what ``above`` has counts, tables that both have are overlaid in turn."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = overlaid(old, value) if both else value  # type: ignore[arg-type]
    return result
