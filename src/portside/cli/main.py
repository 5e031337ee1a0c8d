"""``portside``: find the verb, import its module, run it, and make one sentence of whatever went wrong.

Nothing is imported before the verb is known: a command's start is a good part of the time that a container takes.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "run": "Create and start a container",
    "exec": "Run a command in a running container",
    "ps": "List containers",
    "logs": "Show what a container wrote",
    "start": "Start stopped containers",
    "stop": "Stop containers: the stop signal, then SIGKILL",
    "kill": "Send a signal to containers",
    "pause": "Freeze containers",
    "unpause": "Thaw containers",
    "rm": "Remove containers",
    "wait": "Wait until containers end, and print how they ended",
    "inspect": "Show everything about containers or images, as JSON",
    "stats": "Show what containers use",
    "pull": "Fetch an image from a registry",
    "push": "Send an image to a registry",
    "images": "List images",
    "rmi": "Remove images",
    "events": "Show what happens, as it happens",
    "info": "Show the daemon and the machine",
    "version": "Show the versions of command and daemon",
    "daemon": "Run the daemon",
    "serve-plugin": "Serve a part of ours as a proxy plugin of containerd",
    "config": "Print the daemon's configuration",
    "doctor": "Explain, verify and repair what is on disk",
    "migrate": "Take over the root of a stopped containerd",
    "ctr": "the whole of containerd's ctr",
}
DEFAULT_ADDRESS = "/run/portside/portside.sock"


class Context:
    """What the global options say."""

    __slots__ = ("address", "debug", "namespace")

    def __init__(self) -> None:
        self.address = os.environ.get("PORTSIDE_ADDRESS") or DEFAULT_ADDRESS
        self.namespace = os.environ.get("PORTSIDE_NAMESPACE") or "default"
        self.debug = False


def main() -> None:
    """The console script: leaves with the verb's status."""
    # Flushing by hand and leaving by _exit saves a command the tear-down of the interpreter.
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = status or 1
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Do one command line; its exit status."""
    context = Context()
    try:
        words = _global_options(context, list(argv))
    except ValueError as error:
        return _fail(f"portside: {error}; see portside --help", 125)
    if not words:
        _print_help()
        return 0 if "--help" in argv or "-h" in argv else 125
    name, *rest = words
    if name == "help":
        return run([*rest, "--help"])
    if name not in VERBS:
        return _fail(f"portside: unknown verb {name!r}; see portside --help", 125)
    module = __import__(f"portside.cli.verbs.{name.replace('-', '_')}", fromlist=("run",))
    return _run_verb(module, context, rest)


def _run_verb(module: object, context: Context, rest: list[str]) -> int:
    from portside.cli.options import UsageError
    from portside.errors import PortsideError, from_oserror

    verb = module.VERB  # type: ignore[attr-defined]
    try:
        values, arguments = verb.parse(rest)
        if values["help"]:
            print(verb.usage("portside"))
            return 0
        return int(module.run(context, values, arguments))  # type: ignore[attr-defined]
    except UsageError as error:
        return _fail(f"portside {verb.name}: {error}; see portside {verb.name} --help", 125)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (PortsideError, OSError) as failure:
        if context.debug:
            raise
        if isinstance(failure, OSError):
            failure = from_oserror(failure, str(failure.filename or "a system call"))
        return _fail(f"portside {verb.name}: {failure}{_advice(context, failure)}", getattr(module, "FAILURE", 1))
    except KeyboardInterrupt:
        return 130


def _advice(context: Context, error: Exception) -> str:
    """What to do about ``error``, where nearly everybody who sees it has the same thing to do."""
    from portside.errors import PermissionDenied

    if isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError)):
        return "; is the daemon running? (portside daemon)"
    if isinstance(error, PermissionDenied) and os.geteuid() != 0 and not os.access(context.address, os.W_OK):
        return "; are you root?"
    return ""


def _global_options(context: Context, words: list[str]) -> list[str]:
    """Take the options before the verb off ``words``; ValueError for an unknown one."""
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("-a", "--address", "-n", "--namespace"):
            if not equals:
                if not words:
                    raise ValueError(f"{name} wants a value")
                value = words.pop(0)
            if name in ("-a", "--address"):
                context.address = value.removeprefix("unix://")
            else:
                context.namespace = value
        elif name == "--debug":
            context.debug = True
        elif name in ("-v", "--version"):
            return ["version", *words]
        elif name in ("-h", "--help"):
            return []
        else:
            raise ValueError(f"unknown option {name}")
    return words


def _print_help() -> None:
    print("Usage: portside [-a ADDRESS] [-n NAMESPACE] [--debug] VERB ...\n\nVerbs:")
    for name, summary in VERBS.items():
        print(f"  {name:<10} {summary}")
    print("\nportside VERB --help tells more about one of them.")


def _fail(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
