"""Go's regular expressions in terms of Python's: what they mean, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.expressions import _Machine, _Refused, _Translation, search_of


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("^a.c$", "abc", True),
        ("c$", "abc\n", False),
        ("(?m)c$", "abc\nd", True),
        ("(?m:c$).d|c$", "c\n", False),
        ("(?i)ABC", "xabc", True),
        ("a(?i)B|c", "C", True),
        ("(a(?i)b)c", "aBC", False),
        ("(?U)a+?$", "aaa", True),
        ("[[:alpha:]]+[^[:digit:]]", "ab", True),
        ("[]a&&b]", "&", True),
        ("[a-c\\]x]", "]", True),
        (r"\d\w\s\.", "1_ .", True),
        (r"\x41\x{42}\103\z", "ABC", True),
        (r"\Qa.c\E+", "a.cc", True),
        (r"\w", "é", False),
        ("a{2,3}b{,2}", "aab{,2}", True),
        ("(?P<name>a)(?:b)", "ab", True),
        ("()|x", "", True),
    ],
)
def test_expressions_mean_what_they_mean_in_go(expression, text, expected):
    assert search_of(expression)(text) is expected


@pytest.mark.parametrize(
    "expression",
    ["(", ")", "a)b(", "*", "a**", "a++", "a?+", "(?=a)", "(?<!a)", "(?#x)", "(?>a)", "(?x)a", r"(a)\1", r"\Z", r"\pL",
     "[a", "a{1001}", "[[:none:]]", "a\\"],
)  # fmt: skip
def test_expressions_that_go_refuses_are_refused(expression):
    assert search_of(expression) is None


@given(st.text(alphabet="ab()[]{}|*+?.^$\\dQEx1,:imU-<>P", max_size=20))
def test_any_expression_is_read_or_refused(expression):
    search = search_of(expression)
    if search is not None:
        search("ab")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("(a|a)*b", "a" * 60),
        ("(a+)+$", "a" * 4096 + "b"),
        (".*.*.*.*x", "a" * 4096),
        ("(x+x+)+y", "x" * 4096),
        ("^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 4096),
        ("(a?){60}b", "a" * 60),
    ],
)
def test_no_text_keeps_an_expression_busy_for_ever(expression, text):
    """Tried one after the other, the ways through these are more than anybody has time for."""
    assert search_of(expression)(text) is False


@pytest.mark.parametrize("expression", ["((a{100}){100}){100}", "(" * 3000 + "a+b+" + ")" * 3000])
def test_expressions_that_are_too_large_are_refused(expression):
    assert search_of(expression) is None


ALPHABET = ["a", "b", "(", ")", "|", "*", "+", "?", "{2}", "{1,3}", "{2,}", ".", "^", "$", "[ab]", "[^a]", r"\b", r"\B"]
ALPHABET += [r"\w", "(?:", "(?i)", "(?i:", "A", "\n", r"\Qa.\E", "(?s)", "(?m)", "(?P<n>"]


@given(
    st.lists(st.sampled_from(ALPHABET), max_size=9).map("".join),
    st.text(alphabet="abA\n .", max_size=8),
)
def test_both_ways_to_search_agree(expression, text):
    try:
        pieces = _Translation().of(expression)
        found = re.compile("".join(piece for _, piece in pieces), re.ASCII)
        machine = _Machine(pieces)
    except (_Refused, re.error):
        return
    assert machine.search(text) is (found.search(text) is not None)
