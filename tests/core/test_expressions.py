"""Go's regular expressions in terms of Python's: what they mean, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.expressions import Budget, TooMuch, _Machine, _Refused, _Translation
from portside.core.expressions import search_of as compiled


def search_of(expression):
    return compiled(expression, Budget())


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
        ("(a|aa)" * 60 + "b", "a" * 4096),
        ("a*b", "a" * 4096),
    ],
)
def test_no_text_keeps_an_expression_busy_for_ever(expression, text):
    """Tried one after the other, the ways through these are more than anybody has time for."""
    assert search_of(expression)(text) is False


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("((a|b|c|d)?){1000}e", "abcddcbaadbc" * 170),
        ("[ab]{1000}c", "a" * 4096),
        ("(a|b)*a(a|b){300}c", "abaabbab" * 500),
        (r"(\b\w|\B.){500}x", "abcd" * 1000),
        ("[a-z]" * 1300 + "1", "a" * 4096),
        ("a*b", "a" * 1_000_000),
    ],
)
def test_what_takes_too_many_steps_is_given_up(expression, text):
    """Each time: what was remembered of the first object does not help, and the next object has its own steps."""
    budget = Budget()
    search = compiled(expression, budget)
    for _ in range(2):
        budget.begin()
        with pytest.raises(TooMuch, match="steps for one object"):
            search(text)
    budget.begin()
    assert search("ac") is False


def test_what_is_known_costs_a_step_for_each_character():
    budget = Budget()
    search = compiled("(x?){500}y", budget)
    search("x" * 400)
    budget.begin()
    before = budget.steps
    assert search("x" * 400) is False
    assert before - budget.steps == 401


def test_what_is_remembered_has_a_limit():
    budget = Budget()
    searches = [compiled(f"^(..)*[ab]{{{n}}}c", budget) for n in (200, 201)]
    for number in range(60):
        for search in searches:
            budget.begin()
            assert search("ab" * (number % 9) + "aab"[number % 3] * (150 + number) + "c") in (False, True)
            assert budget.memory >= 0


@pytest.mark.parametrize("expression", ["((a{100}){100}){100}", "(a{10,}){101}", "(" * 3000 + "a+b+" + ")" * 3000])
def test_expressions_that_go_finds_too_large_are_refused(expression):
    assert search_of(expression) is None


def test_all_expressions_of_a_call_share_the_room_for_states():
    budget = Budget()
    compiled("(abcdefgh?){900}", budget)
    compiled("(abcdefgh?){900}", budget)
    with pytest.raises(TooMuch, match="states"):
        compiled("(abcdefgh?){900}", budget)


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
        machine = _Machine(pieces, Budget())
    except (_Refused, re.error):
        return
    for _ in range(2):  # found out, and remembered
        assert machine.search(text) is (found.search(text) is not None)
