"""Ids and names of containers."""

from __future__ import annotations

import os
import re

from portside.errors import InvalidArgument

_ADJECTIVE_WORDS = (
    "able agile amber ample bold brave brisk calm clear clever cosy deft eager early fair fleet fond frank free fresh"
    " gentle glad grand green happy hardy jolly keen kind light lively lucky mellow merry mild neat nimble noble open"
    " patient plain polite proud quick quiet ready rosy sharp sleek smart snug solid spry steady still sunny swift tidy"
    " trim true vivid warm wise witty"
)
_NOUN_WORDS = (
    "anchor bay beacon berth bight bosun bow breeze brig buoy cabin canal capstan cargo clipper coast cove crane crew"
    " current cutter deck dinghy dock dory ferry fjord fleet galley gangway gull harbour haven hawser heron hull inlet"
    " island jetty keel ketch kelp lagoon lantern ledger lighthouse lock lugger marina mast mooring oar osprey packet"
    " pelican pier pilot port quay raft reef rigging rudder sail schooner seal sextant shoal shore skiff sloop spar"
    " starboard tern tide tiller tug wharf winch yawl"
)
_ADJECTIVES, _NOUNS = _ADJECTIVE_WORDS.split(), _NOUN_WORDS.split()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


def new_id() -> str:
    """64 hexadecimal digits, as docker's; people use the first twelve."""
    return os.urandom(32).hex()


def new_name(id: str) -> str:
    """``adjective_noun_4f09ac``: with part of the id, so that nobody need ask whether it is free."""
    first, second = os.urandom(2)
    return f"{_ADJECTIVES[first % len(_ADJECTIVES)]}_{_NOUNS[second % len(_NOUNS)]}_{id[:6]}"


def check_name(name: str) -> str:
    """``name``, if it may name a container; InvalidArgument."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"name {name[:140]!r}: want letters, digits, and _ . - after the first")
    return name
