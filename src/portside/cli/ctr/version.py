"""``ctr version``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.cli.ctr.command import Session, Values, command
from portside.version import __version__


@command("version", "", "print the client and server versions")
async def version(session: Session, values: Values, words: Sequence[str]) -> None:
    """Both, and the server's identity."""
    info = await session.backend.introspection.version()
    server = await session.backend.introspection.server()
    print(f"Client:\n  Version:  {__version__}\n")
    print(f"Server:\n  Version:  {info.version}\n  Revision: {info.revision}\n  UUID: {server.uuid}")


COMMANDS = (version,)
