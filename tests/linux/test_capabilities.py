import os

import pytest

from portside.errors import InvalidArgument
from portside.linux import capabilities
from portside.linux.capabilities import Capabilities, mask_of, names_of
from tests.support.children import in_child

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
KILL, CHOWN = 1 << 5, 1


def status():
    with open("/proc/self/status") as file:
        return {line[:6]: int(line[7:], 16) for line in file if line.startswith("Cap")}


def test_names_and_bits_go_both_ways():
    mask, unknown = mask_of(capabilities.NAMES)
    assert unknown == []
    assert mask == (1 << 41) - 1
    assert names_of(mask) == list(capabilities.NAMES)
    assert names_of(1 << 50) == ["CAP_50"]


def test_spelling():
    assert mask_of(["CAP_KILL", "cap_kill", "KILL", "kill"]) == (KILL, [])
    assert mask_of(["CAP_FOO", "CAP_KILL", "", "CAP_"]) == (KILL, ["CAP_FOO", "", "CAP_"])


def test_parse_reports_unknown_names_once():
    document = {"bounding": ["CAP_KILL", "CAP_FOO"], "effective": ["CAP_FOO", "CAP_CHOWN"], "ambient": None}
    found, unknown = Capabilities.parse(document)
    assert (found.bounding, found.effective, found.permitted) == (KILL, CHOWN, 0)
    assert unknown == ["CAP_FOO"]
    assert Capabilities.parse(None)[0].bounding == 0


@pytest.mark.parametrize("bad", [{"bounding": "CAP_KILL"}, {"effective": [1]}, {"ambient": {}}])
def test_parse_refuses_nonsense(bad):
    with pytest.raises(InvalidArgument, match=r"process\.capabilities"):
        Capabilities.parse(bad)


def test_limit_tells_what_is_lost():
    sets = Capabilities(bounding=KILL | CHOWN, effective=KILL, permitted=KILL | CHOWN)
    assert sets.limit(CHOWN) == ["CAP_KILL"]
    assert (sets.bounding, sets.effective, sets.permitted) == (CHOWN, 0, CHOWN)


def test_supported_and_own_sets_are_the_kernels():
    found = status()
    assert capabilities.capget() == (found["CapEff"], found["CapPrm"], found["CapInh"])
    assert capabilities.bounding() == found["CapBnd"]
    assert capabilities.supported() & found["CapBnd"] == found["CapBnd"]


@root
def test_becoming_another_user_with_some():
    def work():
        sets, _ = Capabilities.parse({name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")})
        sets.drop_bounding()
        capabilities.keep_on_setuid(True)
        os.setgid(1000)
        os.setuid(1000)
        return [sets.apply(), status()]

    refused, found = in_child(work)
    assert refused == []
    assert found == {"CapInh": 0, "CapPrm": KILL, "CapEff": KILL, "CapBnd": KILL, "CapAmb": 0}


@root
def test_ambient_needs_inheritable_and_permitted():
    def work():
        both = Capabilities(
            bounding=KILL | CHOWN, effective=KILL, permitted=KILL, inheritable=KILL, ambient=KILL | CHOWN
        )
        both.drop_bounding()
        return [both.apply(), status()["CapAmb"]]

    assert in_child(work) == [["CAP_CHOWN"], KILL]


@root
def test_permitted_never_grows():
    def work():
        capabilities.capset(0, KILL, 0)
        try:
            capabilities.capset(0, KILL | CHOWN, 0)
        except PermissionError:
            return "refused"
        return "grown"

    assert in_child(work) == "refused"
