import os
import resource

import pytest

from portside.errors import InvalidArgument
from portside.linux import rlimits
from tests.support.children import in_child

INFINITY = (1 << 64) - 1


def entry(kind, soft, hard):
    return {"type": kind, "soft": soft, "hard": hard}


def test_parse():
    assert rlimits.parse(None) == []
    assert rlimits.parse([entry("RLIMIT_CORE", 0, INFINITY), entry("RLIMIT_NOFILE", 10, 20)]) == [
        (resource.RLIMIT_CORE, 0, INFINITY),
        (resource.RLIMIT_NOFILE, 10, 20),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        [entry("RLIMIT_WHATEVER", 1, 1)],
        [entry("NOFILE", 1, 1)],
        [entry("RLIMIT_NOFILE", 1, 1), entry("RLIMIT_NOFILE", 2, 2)],
        [entry("RLIMIT_NOFILE", 2, 1)],
        [entry("RLIMIT_NOFILE", -1, 1)],
        [entry("RLIMIT_NOFILE", 1, 1 << 64)],
        [entry("RLIMIT_NOFILE", True, 1)],
        [{"type": "RLIMIT_NOFILE"}],
        ["RLIMIT_NOFILE"],
    ],
)
def test_nonsense_is_named(bad):
    with pytest.raises(InvalidArgument, match=r"process\.rlimits"):
        rlimits.parse(bad)


def test_apply():
    def work():
        rlimits.apply(rlimits.parse([entry("RLIMIT_NOFILE", 100, 200), entry("RLIMIT_CORE", 0, 0)]))
        return [resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)]

    assert in_child(work) == [[100, 200], [0, 0]]


def test_a_refused_limit_is_named():
    def work():
        rlimits.apply([(resource.RLIMIT_NOFILE, 10, 20)])
        if os.geteuid() == 0:
            os.setuid(1000)
        try:
            rlimits.apply([(resource.RLIMIT_NOFILE, 10, 30)])
        except PermissionError as error:
            return str(error)
        return "raised it"

    assert "RLIMIT_NOFILE 10:30" in in_child(work)
