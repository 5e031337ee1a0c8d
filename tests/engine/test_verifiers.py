"""Image verifiers: real little programs that allow, deny, talk, hang and misbehave."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from portside.core.settings import ImageVerifiers
from portside.engine.programs import KEPT
from portside.engine.verifiers import verify
from portside.errors import DeadlineExceeded, PermissionDenied, PortsideError, Unavailable
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest
from tests.support.peers import wait_for

TARGET = Descriptor(MANIFEST, Digest.of(b"manifest"), 8, {"note": "a\nb"})
NAME = "registry.test/some/image:v1"


@pytest.fixture
def settings(tmp_path):
    return ImageVerifiers(tmp_path / "bin", 10, 10.0)


@pytest.fixture
def program(settings):
    settings.bin_dir.mkdir()

    def make(name, text, mode=0o755):
        path = settings.bin_dir / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(mode)
        return path

    return make


async def test_nobody_to_ask(settings):
    await verify(settings, NAME, TARGET)
    settings.bin_dir.mkdir()
    await verify(settings, NAME, TARGET)


async def test_what_they_are_given(settings, program, tmp_path):
    program(
        "a", f'for word; do echo "$word"; done > {tmp_path}/words; cat > {tmp_path}/stdin; ls /proc/self/fd | wc -l'
    )
    await verify(settings, NAME, TARGET)
    words = (tmp_path / "words").read_text().splitlines()
    media_type = "application/vnd.oci.descriptor.v1+json"
    assert words == ["-name", NAME, "-digest", str(TARGET.digest), "-stdin-media-type", media_type]
    assert Descriptor.from_json(json.loads((tmp_path / "stdin").read_text())) == TARGET


async def test_all_must_allow_it_in_order(settings, program, tmp_path):
    program("c", f"echo c >> {tmp_path}/asked")
    program("a", f"echo a >> {tmp_path}/asked")
    program("b", f"echo b >> {tmp_path}/asked; echo 'not signed'; exit 3")
    with pytest.raises(PermissionDenied, match=rf"pull {NAME}: image verifier b .*{TARGET.digest}.*3.*: not signed"):
        await verify(settings, NAME, TARGET)
    assert (tmp_path / "asked").read_text() == "a\nb\n"


@pytest.mark.parametrize(("limit", "allowed"), [(1, True), (2, False), (0, True), (-1, False)])
async def test_no_more_than_wanted_are_asked(settings, program, limit, allowed):
    program("a", "exit 0")
    program("b", "exit 1")
    settings = replace(settings, max_verifiers=limit)
    if allowed:
        await verify(settings, NAME, TARGET)
    else:
        with pytest.raises(PermissionDenied):
            await verify(settings, NAME, TARGET)


async def test_reasons_are_cut_and_harmless(settings, program):
    program("a", "head -c 1000000 /dev/zero | tr '\\0' x; printf '\\033[2J'; exit 1")
    with pytest.raises(PermissionDenied) as caught:
        await verify(settings, NAME, TARGET)
    assert str(caught.value).endswith("x (cut)") and len(str(caught.value)) < KEPT + 500
    program("a", "printf '\\033[2Jbad\\nimage'; exit 1")
    with pytest.raises(PermissionDenied, match=r": +\[2Jbad image$"):
        await verify(settings, NAME, TARGET)


async def test_output_without_end(settings, program, tmp_path):
    program("a", f"echo $$ > {tmp_path}/pid; yes; ")
    with pytest.raises(DeadlineExceeded, match=r"verifier a has not answered within 0.3 s"):
        await verify(replace(settings, per_verifier_timeout=0.3), NAME, TARGET)
    gone(tmp_path / "pid")


async def test_one_that_hangs_with_children(settings, program, tmp_path):
    program("a", f"trap '' TERM; sh -c 'echo $$ > {tmp_path}/child; exec sleep 600' & echo $$ > {tmp_path}/pid; wait")
    with pytest.raises(DeadlineExceeded):
        await verify(replace(settings, per_verifier_timeout=0.5), NAME, TARGET)
    gone(tmp_path / "pid")
    gone(tmp_path / "child")


async def test_a_child_that_keeps_the_output_open_holds_up_nobody(settings, program, tmp_path):
    program("a", f"sh -c 'echo $$ > {tmp_path}/child; exec sleep 600' & while ! [ -s {tmp_path}/child ]; do :; done")
    await verify(settings, NAME, TARGET)
    gone(tmp_path / "child")


async def test_nothing_is_read(settings, program):
    big = replace(TARGET, annotations={"big": "x" * 1_000_000})
    program("a", "exit 0")
    await verify(settings, NAME, big)


@pytest.mark.parametrize(
    ("text", "mode", "kind"),
    [
        ("kill -9 $$", 0o755, Unavailable),
        ("exit 0", 0o644, PermissionDenied),
        ("exit 127", 0o755, PermissionDenied),
    ],
)
async def test_whatever_is_no_yes_is_no(settings, program, text, mode, kind):
    program("a", text, mode)
    with pytest.raises(kind, match="image verifier a"):
        await verify(settings, NAME, TARGET)


async def test_things_that_are_no_programs(settings, program):
    (settings.bin_dir if settings.bin_dir.exists() else program("x", "").parent).joinpath("a").mkdir()
    with pytest.raises(PortsideError, match="image verifier a"):
        await verify(settings, NAME, TARGET)


async def test_no_descriptor_is_left(settings, program):
    program("a", "exit 0")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await verify(settings, NAME, TARGET)
        with pytest.raises(DeadlineExceeded):
            program("b", "sleep 60")
            await verify(replace(settings, per_verifier_timeout=0.1), NAME, TARGET)
        (settings.bin_dir / "b").unlink()
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1  # the loop's own


def gone(path: Path) -> None:
    """The process has ended, or will at once; its new parent may not have reaped it yet."""
    stat = Path(f"/proc/{int(path.read_text())}/stat")
    wait_for(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z", "it to end")
