"""What could not be freed: told once in the log when it begins and once when it is over, and tried again meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)


class Troubles:
    """Each is a text that names the object and the reason."""

    def __init__(self) -> None:
        self.texts: Sequence[str] = ()
        """As of the last attempt."""
        self.listeners: list[Callable[[], None]] = []
        """Called when there are some, to try again later."""

    def update(self, texts: Sequence[str]) -> None:
        """These, and no others, are left after an attempt."""
        before, self.texts = self.texts, tuple(texts)
        for text in self.texts:
            if text not in before:
                log.warning("collection: %s; it is tried again", text)
        for text in before:
            if text not in self.texts:
                log.info("collection: no longer so: %s", text)
        if self.texts:
            self.wake()

    def wake(self) -> None:
        """Something failed in the background: the next attempt will tell what."""
        for listener in self.listeners:
            listener()
