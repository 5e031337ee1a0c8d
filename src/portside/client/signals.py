"""Names of signals, as people and images write them."""

from __future__ import annotations

from portside.errors import InvalidArgument

_WORDS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG"
    " XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_NUMBERS = {name: number for number, name in enumerate(_WORDS.split(), 1)} | {"IOT": 6, "CLD": 17, "POLL": 29}
_RTMIN, _RTMAX = 34, 64

SIGKILL, SIGTERM = 9, 15


def parse_signal(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15``, ``SIGRTMIN+3``; InvalidArgument for anything else."""
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else 0
    else:
        name = text.upper().removeprefix("SIG")
        number = _NUMBERS.get(name, 0) or _real_time(name)
    if not 1 <= number <= _RTMAX:
        raise InvalidArgument(f"signal {text[:40]!r}: unknown")
    return number


def _real_time(name: str) -> int:
    for base, start, sign in (("RTMIN", _RTMIN, 1), ("RTMAX", _RTMAX, -1)):
        rest = name.removeprefix(base)
        if rest == name:
            continue
        if not rest:
            return start
        offset = rest[1:]
        if rest[0] == ("+" if sign > 0 else "-") and offset.isascii() and offset.isdigit() and len(offset) < 3:
            number = start + sign * int(offset)
            return number if _RTMIN <= number <= _RTMAX else 0
    return 0
