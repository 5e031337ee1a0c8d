"""``portside exec``: a further command in a running container."""

from __future__ import annotations

import sys

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

FAILURE = 126

VERB = Verb(
    "exec",
    "CONTAINER COMMAND [ARG...]",
    "Run a command in a running container.",
    (
        Option("-d", "--detach", help="do not wait for it"),
        Option("-i", "--interactive", help="pass on our standard input"),
        Option("-t", "--tty", help="give it a terminal"),
        Option("-e", "--env", value="NAME=VALUE", many=True, help="set a variable; NAME alone takes ours"),
        Option("-w", "--workdir", value="DIR", help="where the command starts"),
        Option("-u", "--user", value="USER[:GROUP]", help="who the command runs as"),
        Option("--privileged", help="all capabilities"),
    ),
)


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """The command's exit status, or 0 once it is started with ``-d``."""
    from portside.cli.verbs.run import environment

    request: dict[str, Any] = {
        "container": arguments[0],
        "args": arguments[1:],
        "env": environment(values["env"], []),
        "detach": values["detach"],
        "workdir": values["workdir"],
        "user": values["user"],
        "privileged": values["privileged"],
    }
    if not values["detach"]:
        from portside.cli.process import attached

        return attached(context, "Exec", request, stdin=values["interactive"], terminal=values["tty"])
    from portside.cli.door import Door

    with Door(context) as door:
        for event in door.stream("Exec", request):
            if exited := event.get("exited"):
                print(f"portside exec: {exited['error']}", file=sys.stderr)
                return int(exited["status"])
    return 0
