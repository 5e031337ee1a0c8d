"""What is to be done of a list of mounts, and the options of transformers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.core.mount import Mount
from portside.core.mounts import ActiveMount
from portside.engine.mount_types import format_mount, parse_size, plan
from portside.engine.mounting import LoopHandler
from portside.errors import InvalidArgument, Unimplemented

HANDLERS = {"loop": LoopHandler(), "theirs": LoopHandler()}
ACTIVE = [ActiveMount(Mount("loop", f"/source{number}", f"/target{number}"), f"/mount{number}") for number in range(3)]


def planned(*types, temporary=False):
    """The first mount for the caller; for each, what transforms it and whether somebody handles it."""
    found = plan([Mount(type, "x") for type in types], HANDLERS, temporary)
    chains = [[type for type, _ in chain] for chain in found.transformers]
    return found.first_system, chains, [handler is not None for handler in found.handlers]


@pytest.mark.parametrize("types", [(), ("ext4",), ("bind", "overlay"), ("unknown/overlay",)])
def test_nothing_to_be_done(types):
    with pytest.raises(Unimplemented):
        planned(*types)


def test_plans():
    assert planned("loop") == (1, [[]], [True])
    assert planned("loop", "ext4") == (1, [[], []], [True, False])
    assert planned("ext4", "loop", "ext4", "bind") == (2, [[]] * 4, [False, True, False, False])
    assert planned("loop", "format/ext4") == (1, [[], ["ext4"]], [True, False])
    assert planned("ext4", "ext4", "format/mkdir/overlay", "bind") == (
        2, [[], [], ["mkdir/overlay", "overlay"], []], [False] * 4,
    )  # fmt: skip
    assert planned("mkfs/loop") == (1, [["loop"]], [True])
    assert planned("format/unknown/overlay", "ext4") == (0, [["unknown/overlay"], []], [False, False])
    assert planned("ext4", "ext4", temporary=True) == (2, [[], []], [False, False])


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("{{ mount 0 }}", "/mount0"),
        ("{{mount 2}}/upper", "/mount2/upper"),
        ("{{- source 1 -}}", "/source1"),
        ("a={{ target 1 }},b={{ mount 0 }}", "a=/target1,b=/mount0"),
        ("lowerdir={{ overlay 0 2 }}", "lowerdir=/mount0:/mount1:/mount2"),
        ("lowerdir={{ overlay 2 0 }}", "lowerdir=/mount2:/mount1:/mount0"),
        ("{{ overlay 1 1 }}", "/mount1"),
    ],
)
def test_templates(text, result):
    made = format_mount(Mount("t", text, text, (text, "ro")), ACTIVE, ())
    assert (made.source, made.target, made.options) == (result, result, (result, "ro"))


@given(st.text(alphabet="{} -0123mountsourceoverlaytarget.\n", max_size=40))
def test_any_template_is_filled_or_refused(text):
    try:
        made = format_mount(Mount("t", text), ACTIVE, ())
    except InvalidArgument as error:
        assert "\n" not in str(error).replace("\\n", "") or "format" in str(error)
    else:
        assert "{{" not in made.source or "{{" not in text


def test_sizes():
    for text, size in (("4096", 4096), ("64k", 64 << 10), ("16MiB", 16 << 20), ("2g", 2 << 30), ("1 TB", 1 << 40)):
        assert parse_size(text) == size
    for text in ("", "0", "-1", "1x", "1.5g", "k", "99999999999999999999", "17t", "\u0661"):
        with pytest.raises(InvalidArgument):
            parse_size(text)
