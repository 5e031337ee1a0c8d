"""Streams: named two-way sequences of messages that other calls refer to (containerd.services.streaming.v1.Streaming).

Whoever wants to give a call a stream *creates* one under an id of its choice and names that id in the call; who serves
the call *takes* the other end. An end goes with its owner: closing one end, or losing the connection it came by, ends
the other, and so does the deletion of the lease that the stream was made under.
"""

from __future__ import annotations

from typing import Protocol

from portside.core.anymessage import AnyMessage

MAX_ID = 1024
"""Characters in a stream's id."""


class Stream(Protocol):
    """One end of a stream. One task may send while another receives."""

    async def send(self, message: AnyMessage) -> None:
        """Hand over a message; waits while the other end does not keep up.

        Cancelled if the stream is over; FailedPrecondition after ``end``.
        """
        ...

    async def recv(self) -> AnyMessage | None:
        """The next message; None when the other end has said that there is none any more.

        Cancelled if the other end was lost, or this one is closed.
        """
        ...

    async def end(self) -> None:
        """Nothing more will be sent from here; receiving goes on. A second time does nothing."""
        ...

    async def close(self) -> None:
        """Give this end up: the other one gets what was sent, then its end. A second time does nothing."""
        ...

    async def fail(self, reason: str) -> None:
        """Give it up because something went wrong: both ends are over at once, the other one with Cancelled."""
        ...


class StreamService(Protocol):
    """The streams of one namespace, those made through it held by its lease if it has one."""

    async def create(self, id: str) -> Stream:
        """A new stream that can be taken as ``id``; the caller closes the end it gets.

        AlreadyExists; InvalidArgument for an empty or too long id; NotFound if the lease is not there;
        ResourceExhausted if there are too many.
        """
        ...

    async def take(self, id: str) -> Stream:
        """The other end of a stream that somebody made; who takes it closes it. NotFound; FailedPrecondition if it is
        taken already; Unimplemented where it is another process that takes."""
        ...
