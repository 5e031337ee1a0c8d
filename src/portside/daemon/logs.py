"""Log lines as containerd writes them, on standard error: ``time="…" level=info msg="…"``, or a JSON object each."""

from __future__ import annotations

import json
import logging
import sys
import time

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES = {logging.WARNING: "warning", logging.CRITICAL: "fatal"}


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
        "level": _NAMES.get(record.levelno, record.levelname.lower()),
        "msg": record.getMessage(),
    }
    if record.name.startswith("portside."):
        fields["part"] = record.name.removeprefix("portside.")
    if record.exc_info:
        fields["trace"] = formatter.formatException(record.exc_info)
    return fields


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # JSON's quoting keeps whatever a peer made us log on one line.
        quoted = {"time", "msg", "trace"}
        return " ".join(
            f"{name}={json.dumps(value, ensure_ascii=False) if name in quoted else value}"
            for name, value in _fields(self, record).items()
        )


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(self, record), ensure_ascii=False)


def configure(level: str, format: str = "text") -> None:
    """Log to standard error from ``level`` (containerd's names) on, as ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    for library in ("asyncio", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
