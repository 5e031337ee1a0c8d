import datetime
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.toml import dumps
from portside.errors import InvalidArgument

KEYS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
SCALARS = (
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.dates()
    | st.times()
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_reads_the_same(document):
    assert tomllib.loads(dumps(document)) == document


def test_layout():
    text = dumps({"version": 2, "plugins": {"io.a.v1.b": {"x": ["1"], "deep": {"y": True}}}, "empty": {}})
    assert text == (
        "version = 2\n\n[plugins]\n\n  [plugins.'io.a.v1.b']\n    x = ['1']\n"
        "    [plugins.'io.a.v1.b'.deep]\n      y = true\n\n[empty]\n"
    )


def test_numbers_that_are_none():
    assert math.isnan(tomllib.loads(dumps({"x": math.nan}))["x"])
    assert tomllib.loads(dumps({"x": [math.inf, -math.inf]})) == {"x": [math.inf, -math.inf]}


def test_what_cannot_be_said():
    with pytest.raises(InvalidArgument, match="None"):
        dumps({"x": [None]})
