"""One at a time for each key: two pulls in one process never fetch a blob or unpack a layer twice.

Only an economy. That two processes get along is the stores' doing: a ref has one writer, a name one owner.
"""

from __future__ import annotations

from portside.core.locks import KeyedLocks


class Flights(KeyedLocks[str]):
    """Who waited looks again for what it wanted once it has the lock: the one before it has usually made it, and if
    that one failed or was cancelled, the waiter does the work itself.
    """


def first_error(group: BaseExceptionGroup) -> BaseException:
    """The first failure of a task group, which is what the caller asked about; the rest followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
