"""Finding the command of a ``portside ctr`` line in the tree, and running it."""

from __future__ import annotations

import sys

from portside.cli.ctr.command import Command, Session
from portside.cli.ctr.grammar import Flag, Grammar, parse_options, seconds
from portside.cli.ctr.tree import TREE, Group, Leaf
from portside.cli.main import Context
from portside.cli.options import HELP, Option, UsageError
from portside.errors import DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.cli.ctr.grammar import Values

NO_SUCH_COMMAND = 3
"""The exit status for an unknown name, as ctr's."""

_HELP = Option(*HELP, help="show this help")
_GLOBAL = (
    Option("--debug", help="show where errors come from"),
    Flag("--address", "-a", value="ADDRESS", env="CONTAINERD_ADDRESS", help="the server's socket"),
    Flag("--timeout", value="DURATION", default=0.0, convert=seconds, help="for the whole command; 0 is none"),
    Flag("--connect-timeout", value="DURATION", default=0.0, convert=seconds, help="for connecting; 0 is the default"),
    Flag("--namespace", "-n", value="NAME", env="CONTAINERD_NAMESPACE", help="the namespace"),
    _HELP,
    Option("--version", "-v", help="print the version"),
)


def main(context: Context, argv: Sequence[str]) -> int:
    """Do one command line; its exit status. Errors other than those of the line itself are raised."""
    try:
        return _main(context, argv)
    except UsageError as error:
        print(f"portside ctr: {error}; see portside ctr --help", file=sys.stderr)
        return 1


def _main(context: Context, argv: Sequence[str]) -> int:
    given, words = parse_options(_GLOBAL, argv)
    if given["version"]:
        from portside.version import __version__

        print(f"portside ctr {__version__}")
        return 0
    context.debug = context.debug or given["debug"]
    if given["address"] and ("address" in given.given or context.address == Context().address):
        context.address = given["address"]
    if given["namespace"] and ("namespace" in given.given or context.namespace == Context().namespace):
        context.namespace = given["namespace"]
    if given["help"]:
        words = ["help"]
    session = Session(context.address.removeprefix("unix://"), context.namespace, given["timeout"])
    return _descend(session, TREE, ["portside", "ctr"], words, _GLOBAL, (), given["connect_timeout"])


def _descend(
    session: Session, group: Group, path: list[str], words: list[str], shown: tuple[Option, ...],
    inherited: tuple[tuple[str, object], ...], connect_timeout: float,
) -> int:  # fmt: skip
    """The command below ``group`` that ``words`` name; options of the groups on the way are ``inherited`` values."""
    help_wanted = not words
    if words and words[0] in ("help", "h"):
        help_wanted, words = len(words) == 1, [*words[1:2], "--help"]
    if help_wanted:
        print(_group_help(group, path, shown))
        return 0
    found = _find(group, words[0])
    if found is None:
        print(f"portside ctr: no command {' '.join((*path[2:], words[0]))!r}", file=sys.stderr)
        return NO_SUCH_COMMAND
    name, node = found
    if isinstance(node, Leaf):
        values, rest, command = _leaf(node, [*path, name], words[1:], group.options)
        if command is None:
            return 0
        values.update(pair for pair in inherited if pair[0] not in values.given)
        return _do(session, command, values, rest, connect_timeout)
    options = (*node.options, _HELP)
    values, rest = parse_options(options, words[1:])
    passed = (*inherited, *((option.key, values[option.key]) for option in node.options))
    return _descend(
        session, node, [*path, name], ["help"] if values["help"] else rest, options, passed, connect_timeout
    )


def _find(group: Group, word: str) -> tuple[str, Leaf | Group] | None:
    for name, node in group.children.items():
        if word == name or word in node.aliases:
            return name, node
    return None


def _leaf(
    leaf: Leaf, path: list[str], words: list[str], more: tuple[Option, ...]
) -> tuple[Values, list[str], Command | None]:
    module, _, attribute = leaf.place.partition(":")
    command: Command = getattr(__import__(f"portside.cli.ctr.{module}", fromlist=(attribute,)), attribute)
    own = {option.key for option in command.options}
    options = (*command.options, *(option for option in more if option.key not in own))
    grammar = Grammar(path[-1], command.arguments, f"{leaf.summary[0].upper()}{leaf.summary[1:]}.", options)
    values, rest = grammar.parse(words)
    if values["help"]:
        print(grammar.usage(" ".join(path[:-1])))
        return values, rest, None
    return values, rest, command


def _do(session: Session, command: Command, values: Values, words: list[str], connect_timeout: float) -> int:
    if command.plain:
        try:
            return command.function(session, values, words) or 0
        finally:
            session.close()
    import asyncio

    async def limited() -> int:
        async with asyncio.timeout(session.timeout or None):
            return await _connected(session, command, values, words, connect_timeout)

    try:
        return asyncio.run(limited())
    except TimeoutError:
        if not session.timeout:
            raise
        raise DeadlineExceeded(f"not done within the {session.timeout:g} s of --timeout") from None


async def _connected(
    session: Session, command: Command, values: Values, words: list[str], connect_timeout: float
) -> int:
    if command.offline:
        return await command.function(session, values, words) or 0
    import asyncio

    from portside.remote.backend import RemoteBackend

    try:
        async with asyncio.timeout(connect_timeout or None):
            if command.asks_snapshotters or connect_timeout:
                backend = await RemoteBackend.connect(session.address)
            else:
                backend = RemoteBackend(session.address)
    except TimeoutError:
        raise DeadlineExceeded(f"{session.address}: no answer within {connect_timeout:g} s") from None
    async with backend:
        session.use(backend)
        return await command.function(session, values, words) or 0


def _group_help(group: Group, path: list[str], options: tuple[Option, ...]) -> str:
    lines = [f"Usage: {' '.join(path)} [OPTION...] COMMAND ...", "", f"{group.summary[0].upper()}{group.summary[1:]}."]
    lines += ["", "Commands:"]
    for name, node in group.children.items():
        lines.append(f"  {', '.join((name, *node.aliases)):<26} {node.summary}")
    lines += ["", "Options:"]
    for option in options:
        left = ", ".join(option.names) + (f" {option.value}" if option.value else "")
        lines.append(f"  {left:<28} {option.help}")
    return "\n".join(lines)
