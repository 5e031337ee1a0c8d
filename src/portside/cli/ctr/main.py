"""Finding the verb of a ``portside ctr`` command line and running it on an event loop."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Sequence

from portside.cli.ctr.command import Command, Session
from portside.cli.main import Context
from portside.cli.options import UsageError
from portside.remote.backend import RemoteBackend

GROUPS = {
    "version": (), "run": (), "events": ("event",), "plugins": ("plugin",), "namespaces": ("namespace", "ns"),
    "containers": ("container", "c"), "images": ("image", "i"), "content": (), "leases": (),
    "snapshots": ("snapshot",), "tasks": ("task", "t"),
}  # fmt: skip
_ALIASES = {alias: name for name, aliases in GROUPS.items() for alias in aliases} | {name: name for name in GROUPS}


def main(context: Context, argv: Sequence[str]) -> int:
    """Do one command line; UsageError if it does not fit."""
    words = _global_options(context, list(argv))
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    group = _ALIASES.get(words[0])
    if group is None:
        raise UsageError(f"unknown group {words[0]!r}, there are {', '.join(GROUPS)}")
    commands: Sequence[Command] = importlib.import_module(f"portside.cli.ctr.{group}").COMMANDS
    if len(commands) == 1 and commands[0].verb.name == group:
        chosen, rest = commands[0], words[1:]
    else:
        chosen, rest = _choose(group, commands, words[1:])
    values, arguments = chosen.verb.parse(rest)
    if values["help"]:
        print(chosen.verb.usage("portside ctr" if chosen.verb.name == group else f"portside ctr {group}"))
        return 0
    return asyncio.run(_run(context, chosen, values, arguments))


async def _run(context: Context, chosen: Command, values: dict[str, object], arguments: list[str]) -> int:
    async with await RemoteBackend.connect(context.address) as backend:
        return await chosen.function(Session(backend, context.namespace, context.address), values, arguments) or 0


def _choose(group: str, commands: Sequence[Command], words: list[str]) -> tuple[Command, list[str]]:
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"Usage: portside ctr {group} VERB ...\n\nVerbs:", file=sys.stdout if words else sys.stderr)
        for command in commands:
            print(f"  {', '.join((command.verb.name, *command.aliases)):<24} {command.verb.summary}")
        raise SystemExit(0 if words else 1)
    for command in commands:
        if words[0] in (command.verb.name, *command.aliases):
            return command, words[1:]
    raise UsageError(f"{group}: unknown verb {words[0]!r}")


def _global_options(context: Context, words: list[str]) -> list[str]:
    context.address = os.environ.get("CONTAINERD_ADDRESS") or context.address
    context.namespace = os.environ.get("CONTAINERD_NAMESPACE") or context.namespace
    while words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        name, equals, value = words.pop(0).partition("=")
        if name not in ("-a", "--address", "-n", "--namespace"):
            raise UsageError(f"unknown option {name}")
        if not equals:
            if not words:
                raise UsageError(f"{name} wants a value")
            value = words.pop(0)
        if name in ("-a", "--address"):
            context.address = value.removeprefix("unix://")
        else:
            context.namespace = value
    return words


def _help() -> str:
    lines = [f"  {', '.join((name, *aliases))}" for name, aliases in GROUPS.items()]
    return "\n".join(("Usage: portside ctr [-a ADDRESS] [-n NAMESPACE] GROUP VERB ...", "", "Groups:", *lines))
