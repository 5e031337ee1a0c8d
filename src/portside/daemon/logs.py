"""Log lines as containerd writes them: ``time="…" level=info msg="…"``, on standard error."""

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


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        level = _NAMES.get(record.levelno, record.levelname.lower())
        # JSON's quoting keeps whatever a peer made us log on one line.
        line = f'time="{moment}" level={level} msg={json.dumps(record.getMessage(), ensure_ascii=False)}'
        if record.name.startswith("portside."):
            line += f" part={record.name.removeprefix('portside.')}"
        if record.exc_info:
            line += f" trace={json.dumps(self.formatException(record.exc_info), ensure_ascii=False)}"
        return line


def configure(level: str) -> None:
    """Log to standard error from ``level`` (containerd's names) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    for library in ("asyncio", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
