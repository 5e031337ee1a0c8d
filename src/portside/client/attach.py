"""Attach: what a running container writes from now on, for as many as want to see it.

Read from its log, so nobody who attaches or goes away can hold it up. Its input is with whoever started it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.client.log_lines import LogEntry
from portside.client.logs import logs
from portside.core.containers import Container
from portside.core.services import Services


def attach(services: Services, container: Container) -> AsyncIterator[LogEntry]:
    """Entries until the container has ended; FailedPrecondition for one that has no log of ours."""
    return logs(services, container, follow=True, tail=0)
