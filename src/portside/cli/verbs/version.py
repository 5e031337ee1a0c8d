"""``portside version``: of the command and of the daemon it talks to."""

from __future__ import annotations

from portside.cli.options import Verb
from portside.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

VERB = Verb("version", "", "Show the versions of command and daemon.")


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0; 1 if the daemon does not answer, after our own version is printed."""
    from portside.wire import codec
    from portside.wire.grpc.blocking import BlockingChannel
    from portside.wire.tables import containerd_services_version_v1 as tables

    # At once: it stands before the error, if there is one, also where both go to one place.
    print(f"Client:\n  Version:  {__version__}\n", flush=True)
    channel = BlockingChannel(context.address)
    try:
        data = channel.unary("/containerd.services.version.v1.Version/Version", b"", timeout=10)
    finally:
        channel.close()
    answer = codec.decode(tables.VersionResponse, data)
    print(f"Server:\n  Version:  {answer['version']}\n  Revision: {answer['revision']}")
    return 0
