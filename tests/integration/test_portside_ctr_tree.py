"""The tree of ``portside ctr`` against the help texts of the real ones: every command, alias and option is there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from portside.cli.ctr.tree import TREE, Group, Leaf
from tests.support import peers
from tests.support.newer_shared import ROOT

_COMMAND = re.compile(r" {2,5}([a-z][\w, -]*?)(?:  .*)?")
_OPTION = re.compile(r" +(-.*)")
_GLOBAL = {"help", "h", "version", "v", "debug", "address", "a", "timeout", "connect-timeout", "namespace", "n"}
UNSERVED: set[tuple[str, str]] = set()
"""Path and option of what ctr has and we do not."""

Help = Callable[..., str]


@pytest.fixture(params=["1.6", "2.1"])
def help_of(request: pytest.FixtureRequest) -> Help:
    if request.param == "1.6":
        peers.need_program("ctr")
        command = ["ctr"]
    else:
        if not (ROOT / ".complete").exists():
            pytest.skip("needs the root that script/peers makes")
        command = ["chroot", str(ROOT), "ctr"]
    return lambda *words: subprocess.run([*command, *words, "--help"], capture_output=True, text=True).stdout


def _section(text: str, name: str) -> list[str]:
    found = re.search(rf"^(?:GLOBAL )?{name}:\n((?:   .*\n?|\n(?=   ))*)", text, re.MULTILINE)
    return found[1].splitlines() if found else []


def _commands(text: str) -> list[list[str]]:
    found = [_COMMAND.fullmatch(line) for line in _section(text, "COMMANDS")]
    names = [[name.strip() for name in match[1].split(",")] for match in found if match and match[1]]
    return [each for each in names if each[0] not in ("help", "h") and "By" not in each[0]]


def _options(text: str) -> set[str]:
    names: set[str] = set()
    for line in _section(text, "OPTIONS"):
        if match := _OPTION.fullmatch(line):
            head = re.split(r"  ", match[1])[0]
            names |= set(re.findall(r"(?:^|[ ,\[])--?([a-z][\w-]*)", head))
    return names - _GLOBAL if "GLOBAL OPTIONS" in text else names - {"help", "h"}


def test_every_command_and_option_is_there(help_of: Help) -> None:
    missing: list[str] = []
    seen = 0

    def walk(group: Group, path: tuple[str, ...]) -> None:
        nonlocal seen
        for name, *aliases in _commands(help_of(*path)):
            place = " ".join((*path, name))
            node = group.children.get(name)
            if node is None:
                missing.append(place)
                continue
            seen += 1
            missing.extend(f"{place}: alias {alias}" for alias in set(aliases) - set(node.aliases))
            known = _known(node, group)
            wanted = {option for option in _options(help_of(*path, name)) if (place, option) not in UNSERVED}
            missing.extend(f"{place} --{option}" for option in sorted(wanted - known))
            if isinstance(node, Group):
                walk(node, (*path, name))

    walk(TREE, ())
    assert missing == []
    assert seen > 70


def _known(node: Leaf | Group, group: Group) -> set[str]:
    options = [*group.options, *(node.options if isinstance(node, Group) else _command(node).options)]
    return {name.lstrip("-") for option in options for name in option.names}


def _command(leaf: Leaf):  # type: ignore[no-untyped-def]
    module, _, attribute = leaf.place.partition(":")
    return getattr(import_module(f"portside.cli.ctr.{module}"), attribute)


def test_every_place_of_the_tree_has_its_command() -> None:
    def walk(group: Group, path: tuple[str, ...]) -> None:
        taken: set[str] = set()
        for name, node in group.children.items():
            assert not taken & {name, *node.aliases}, path
            taken |= {name, *node.aliases}
            if isinstance(node, Group):
                walk(node, (*path, name))
            else:
                assert callable(_command(node).function), node.place

    walk(TREE, ())


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (["version"], ["asyncio", "google", "portside.remote", "dataclasses", "argparse", "json"]),
        (["info"], ["asyncio", "google", "portside.remote", "argparse"]),
        (["plugins", "ls"], ["asyncio", "google", "portside.remote", "argparse"]),
        (["tasks", "ls"], ["urllib3", "rich", "portside.registry", "argparse"]),
        (["--help"], ["asyncio", "google", "portside.remote", "dataclasses", "argparse", "json"]),
    ],
)
def test_nothing_is_imported_that_is_not_needed(words: list[str], forbidden: list[str]) -> None:
    script = (
        "import sys\nfrom portside.cli.main import run\n"
        f"try:\n    run(['-a', '/nowhere.sock', 'ctr', *{words!r}])\nfinally:\n"
        f"    print([name for name in {forbidden!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, env=_environment())
    assert result.stderr.splitlines()[-1] == "[]", result.stderr


def _environment() -> dict[str, str]:
    """-S leaves site out, which imports some of these itself; so the paths are told."""
    return {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
