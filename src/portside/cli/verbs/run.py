"""``portside run``: create a container from an image and start it."""

from __future__ import annotations

import os

from portside.cli.options import Option, UsageError, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.main import Context

FAILURE = 125
"""The status of a failure of ours, as docker has it: 126 and 127 are for commands that cannot run or are missing."""

VERB = Verb(
    "run",
    "IMAGE [COMMAND] [ARG...]",
    "Create a container from an image and start it; an image that is not here is pulled.",
    (
        Option("-d", "--detach", help="start it and print its id"),
        Option("-i", "--interactive", help="pass on our standard input"),
        Option("-t", "--tty", help="give it a terminal"),
        Option("--rm", help="remove it when it has ended"),
        Option("--name", value="NAME", help="a name for it"),
        Option("-e", "--env", value="NAME=VALUE", many=True, help="set a variable; NAME alone takes ours"),
        Option("--env-file", value="FILE", many=True, help="variables from a file, one a line"),
        Option("-v", "--volume", value="SRC:DST[:ro]", many=True, help="show a directory of ours in it"),
        Option("--tmpfs", value="DST[:OPTS]", many=True, help="an empty file system in memory"),
        Option("-w", "--workdir", value="DIR", help="where the command starts"),
        Option("-u", "--user", value="USER[:GROUP]", help="who the command runs as"),
        Option("-h", "--hostname", value="NAME", help="its host name"),
        Option("--network", "--net", value="MODE", help="none or host", default="none"),
        Option("--entrypoint", value="COMMAND", help="instead of the image's entrypoint"),
        Option("--privileged", help="all capabilities, devices and no filters"),
        Option("--read-only", help="a root file system that cannot be written"),
        Option("--cap-add", value="CAP", many=True, help="add a capability"),
        Option("--cap-drop", value="CAP", many=True, help="take a capability away"),
        Option("--security-opt", value="OPTION", many=True, help="seccomp=unconfined, no-new-privileges, …"),
        Option("-l", "--label", value="KEY=VALUE", many=True, help="a label"),
        Option("-m", "--memory", value="BYTES", help="memory limit (k, m, g)"),
        Option("--cpus", value="NUMBER", help="how many processors' time"),
        Option("--pids-limit", value="NUMBER", help="how many processes and threads"),
        Option("--restart", value="POLICY", help="no, always, on-failure[:COUNT] or unless-stopped"),
        Option("--stop-signal", value="SIGNAL", help="what stop sends"),
        Option("--pull", value="WHEN", help="always, missing or never", default="missing"),
        Option("--platform", value="OS/ARCH", help="which of the image's platforms"),
        Option("--snapshotter", value="NAME", help="where the root file system is kept"),
        Option("--runtime", value="BINARY", help="an OCI runtime instead of our own (runc, crun)"),
        Option("--plain-http", help="pull without TLS"),
    ),
)

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """Its exit status, or 0 once it is started with ``-d``."""
    request = _request(values, arguments)
    if values["detach"]:
        return _detached(context, request)
    from portside.cli.process import attached

    return attached(context, "Run", request, stdin=values["interactive"], terminal=values["tty"])


def _request(values: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    if values["network"] not in ("none", "host"):
        raise UsageError(f"--network {values['network']}: want none or host")
    if values["pull"] not in ("always", "missing", "never"):
        raise UsageError(f"--pull {values['pull']}: want always, missing or never")
    request: dict[str, Any] = {
        "image": arguments[0],
        "args": arguments[1:],
        "remove": values["rm"],
        "env": environment(values["env"], values["env_file"]),
        "volumes": [_absolute(volume) for volume in values["volume"]],
        "labels": values["label"],
        "security_options": values["security_opt"],
        "runtime_binary": values["runtime"],
    }
    same = (
        "name detach workdir user hostname network entrypoint privileged read_only cap_add cap_drop tmpfs "
        "stop_signal restart pull platform snapshotter plain_http"
    )
    request |= {key: values[key] for key in same.split()}
    if values["memory"]:
        request["memory"] = parse_bytes(values["memory"])
    if values["cpus"]:
        request["cpus"] = _number(values["cpus"], "--cpus")
    if values["pids_limit"]:
        request["pids_limit"] = int(_number(values["pids_limit"], "--pids-limit"))
    if values["tty"]:
        request["streams"] = {"terminal": True}
    return request


def _detached(context: Context, request: dict[str, Any]) -> int:
    import sys

    from portside.cli.door import Door
    from portside.errors import Unavailable

    with Door(context) as door:
        for event in door.stream("Run", request):
            if started := event.get("started"):
                print(started["container"])
                return 0
            if exited := event.get("exited"):
                print(f"portside run: {exited['error']}", file=sys.stderr)
                return int(exited["status"])
            if (progress := event.get("progress")) and progress["stage"] == "resolving":
                print(f"{progress['object']}: not here, pulling", file=sys.stderr)
    raise Unavailable(f"run {request['image']}: the daemon ended the call before the container was started")


def environment(variables: list[str], files: list[str]) -> list[str]:
    """``NAME=VALUE`` for each; a bare name takes our own value and is left out if we have none."""
    lines = []
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                lines += [line for line in file.read().splitlines() if line.strip() and not line.startswith("#")]
        except OSError as error:
            raise UsageError(f"--env-file {path}: {error.strerror}") from None
    result = []
    for variable in [*lines, *variables]:
        name, equals, _ = variable.partition("=")
        if not name:
            raise UsageError(f"--env {variable!r}: want NAME=VALUE")
        if equals:
            result.append(variable)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return result


def parse_bytes(text: str) -> int:
    """``512m`` and the like; UsageError."""
    number, unit = text.lower().removesuffix("ib").removesuffix("b"), 1
    if number and number[-1] in _UNITS:
        number, unit = number[:-1], _UNITS[number[-1]]
    return int(_number(number, "--memory") * unit)


def _number(text: str, option: str) -> float:
    digits = text.removeprefix("-").replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"{option} {text!r}: want a number")
    return float(text)


def _absolute(volume: str) -> str:
    source, colon, rest = volume.partition(":")
    if source.startswith("."):
        source = os.path.abspath(source)
    return source + colon + rest
