"""containerd's filter grammar: what is read, what is refused, what matches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.grammar import MAX_FILTER, MAX_FILTERS, compile_filters
from portside.errors import InvalidArgument, ResourceExhausted


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


def test_an_object_on_which_an_expression_takes_too_long():
    accepts = compile_filters(["name==x", "name~=/((a|b|c|d)?){1000}e/"])
    for _ in range(2):
        with pytest.raises(ResourceExhausted, match=r"filter 'name~=/.*steps for one object"):
            accepts(adaptor(name="abcddcbaadbc" * 170))
        assert accepts(adaptor(name="x"))


def test_the_filters_of_a_call_share_what_they_may_take():
    accepts = compile_filters([f"name~=/(a|b)*c{number}/" for number in range(100)])
    with pytest.raises(ResourceExhausted, match="filter 'name~="):
        accepts(adaptor(name="ab" * 2000))
    assert not accepts(adaptor(name="ab"))


def test_expressions_that_are_too_large():
    with pytest.raises(InvalidArgument, match=r"filter 'name~=.*more than .* states"):
        compile_filters(["name~=/(abcdefgh?){1000}/"] * 3)
