"""containerd's filter grammar: what is read, what is refused, what matches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.content import ContentInfo, IngestStatus
from portside.core.expressions import search_of
from portside.core.filters import (
    MAX_FILTER,
    MAX_FILTERS,
    compile_filters,
    content_fields,
    ingest_fields,
    snapshot_fields,
)
from portside.core.snapshots import Kind, SnapshotInfo
from portside.errors import InvalidArgument
from portside.oci.digest import Digest


def adaptor(**values):
    return lambda path: values.get(".".join(path))


def matches(filters, **values):
    accepts = compile_filters([filters] if isinstance(filters, str) else filters)
    return accepts is None or accepts(adaptor(**values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("name", True),
        ("missing", False),
        ("empty", True),
        ("name==foo", True),
        ("name==bar", False),
        ("name!=bar", True),
        ("missing!=bar", True),
        ("missing==bar", False),
        ("name~=^f.o$", True),
        ("name~=x", False),
        ("name~=(", False),
        ("missing~=^$", True),
        ('name=="foo"', True),
        (r'name=="\x66o\157"', True),
        (r'name=="\u0066oo"', True),
        (r'quoted=="a\"b\\c\n"', True),
        ("name~=/fo+/", True),
        ("name~=|^foo$|", True),
        (r"path~=/a\/b/", True),
        ('path=="/a/b"', True),
        ("digit==1/b", False),
        ("1name!=x,_", False),
        (r'accented=="\xc3\xa9"', True),
        ('name==f"oo', False),
        ("name==foo,ref==docker.io/library/x:latest", True),
        ("name==foo,ref==other", False),
        ('labels."a.b/c"==1', True),
        ("labels.a.b", True),
        ("under_score1==2", True),
        ("name==foo==bar", False),
        (' name ==\tfoo, labels. a.b ~= "x"', True),
    ],
)
def test_selectors(text, expected):
    values = {
        "name": "foo", "empty": "", "quoted": 'a"b\\c\n', "path": "/a/b", "ref": "docker.io/library/x:latest",
        "accented": "é", "labels.a.b/c": "1", "labels.a.b": "x", "under_score1": "2",
    }  # fmt: skip
    assert matches(text, **values) is expected


@pytest.mark.parametrize(
    "text",
    [
        "name=", "name==", "name=foo", "name<foo", "name===foo", "name!foo", "==foo", ".name", "name.", "name..x",
        "name==foo,", ",name==foo", "name==foo bar", "name==foo ", "name ", "labels .a", " ", '"name', 'name=="foo',
        r'name=="\q"', r'name=="\xzz"', r'name=="\ud800"', r'name=="\UFFFFFFFF"', "name~=/foo", "name~=|foo",
        "näme==x", 'name=="a"b', "name==/foo/", "name==|foo|", "/name/==x", "name~=.x", "name~=/a\nb/", "name==\0",
        r"name~=/\w/", 'name=="\0"', r'name=="\400"', "name==a\u200bb",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(text):
    with pytest.raises(InvalidArgument, match=re.escape("filter [")):
        compile_filters([text])


def test_any_of_several():
    assert matches(["name==a", "name==b"], name="b")
    assert not matches(["name==a", "name==b"], name="c")
    assert matches(["name==a", ""], name="c")
    assert compile_filters([]) is None


def test_limits():
    compile_filters(["name==" + "x" * (MAX_FILTER - 6)])
    with pytest.raises(InvalidArgument):
        compile_filters(["name==" + "x" * MAX_FILTER])
    with pytest.raises(InvalidArgument):
        compile_filters(["x"] * (MAX_FILTERS + 1))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        accepts = compile_filters([text])
    except InvalidArgument:
        return
    if accepts is not None:
        accepts(adaptor(name="x"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_value_but_nul_can_be_quoted(value):
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert matches(f'name=="{quoted}"', name=value)


def test_fields_of_our_records():
    digest = Digest.of(b"")
    info = content_fields(ContentInfo(digest, 3, {"k": "v"}))
    assert [info(path) for path in (("digest",), ("labels", "k"), ("size",), ())] == [digest, "v", None, None]
    assert ingest_fields(IngestStatus("r", 0, 0, "", 0, 0))(("ref",)) == "r"
    snapshot = snapshot_fields(SnapshotInfo("n", "", Kind.VIEW))
    assert [snapshot(path) for path in (("kind",), ("name",), ("parent",))] == ["view", "n", None]


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
