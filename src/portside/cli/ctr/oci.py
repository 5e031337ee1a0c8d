"""``ctr oci``."""

from __future__ import annotations

from portside.cli.ctr.command import Session, plain
from portside.cli.ctr.grammar import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.cli.ctr.grammar import Values


@plain("", Flag("--platform", value="OS/ARCH", help="for that platform"))
def spec(session: Session, values: Values, words: Sequence[str]) -> None:
    """Asks no server."""
    from portside.cli.ctr.spec import default_spec
    from portside.cli.ctr.text import print_json
    from portside.oci.platform import Platform, host_platform

    platform = Platform.parse(values["platform"]) if values["platform"] else host_platform()
    print_json(default_spec("", session.namespace, platform))
