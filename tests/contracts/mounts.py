"""What every ``MountManager`` does, here and over gRPC."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from portside.core.containers import Container
from portside.core.labels import GC_EXPIRE
from portside.core.mount import Mount
from portside.core.mounts import Activation
from portside.core.sandboxes import Sandbox
from portside.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PortsideError,
    Unimplemented,
)
from portside.linux import loop
from tests.contracts.records import CONTAINER
from tests.support.peers import need_root

TMPFS = Mount("tmpfs", "tmpfs", options=("size=1m",))


def mounted(path) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return any(line.split()[4] == str(path) for line in lines)


def below(path) -> list[str]:
    """What is mounted below a directory."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return [line.split()[4] for line in lines if line.split()[4].startswith(f"{path}/")]


def exists(path: str) -> bool:
    return os.path.lexists(path)


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def image(path, size="16m") -> Mount:
    """A file that becomes an ext4 file system."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    return Mount("mkfs/loop", str(path), options=(f"X-containerd.mkfs.size={size}", "X-containerd.mkfs.fs=ext4"))


def need_loop() -> None:
    need_root()
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")


class MountsContract:
    @pytest.fixture
    async def mounts(self, backend):
        need_root()
        mounts = backend.bind("mounts").mounts
        yield mounts
        for activation in await mounts.list():
            await mounts.deactivate(activation.name)
        assert below(self.targets(backend)) == []
        assert os.listdir(self.targets(backend)) == []

    def targets(self, backend) -> str:
        raise NotImplementedError

    def root(self, backend) -> str:
        """A directory in which files may be made."""
        raise NotImplementedError

    async def test_what_needs_nothing_is_left_to_the_caller(self, mounts):
        for given in ([TMPFS], [], [Mount("bind", "/etc", options=("rbind",))], [Mount("other/overlay", "overlay")]):
            with pytest.raises(Unimplemented):
                await mounts.activate("x", given)
        assert list(await mounts.list()) == []

    async def test_a_temporary_activation(self, mounts):
        made = await mounts.activate("/tmp/some/dir", [TMPFS], {"a": "b"}, temporary=True)
        (active,) = made.active
        assert (active.mount, active.mounted_ns > 0, mounted(active.mount_point)) == (TMPFS, True, True)
        assert made.system == (Mount("bind", active.mount_point, options=("rbind",)),)
        assert (made.name, dict(made.labels)) == ("/tmp/some/dir", {"a": "b"})
        assert await mounts.info("/tmp/some/dir") == made
        assert list(await mounts.list()) == [made]
        with pytest.raises(AlreadyExists):
            await mounts.activate("/tmp/some/dir", [TMPFS], temporary=True)
        await mounts.deactivate("/tmp/some/dir")
        assert not mounted(active.mount_point) and not exists(active.mount_point)
        for call in (mounts.info, mounts.deactivate):
            with pytest.raises(NotFound):
                await call("/tmp/some/dir")

    async def test_options_refer_to_earlier_mounts(self, mounts):
        overlay = Mount("format/overlay", "overlay", options=("lowerdir={{ overlay 0 1 }}", "x={{source 0}}"))
        with pytest.raises(InvalidArgument, match="only 0 mounts"):
            await mounts.activate("chain", [overlay])
        made = await mounts.activate("chain", [TMPFS, TMPFS, overlay])
        places = [active.mount_point for active in made.active]
        assert all(mounted(place) for place in places)
        assert made.system == (Mount("overlay", "overlay", options=(f"lowerdir={':'.join(places)}", "x=tmpfs")),)
        await mounts.deactivate("chain")

    async def test_a_chain_that_is_made_to_its_end(self, mounts):
        overlay = Mount("format/overlay", "overlay", options=("lowerdir={{ overlay 1 0 }}", "ro"))
        made = await mounts.activate("chain", [TMPFS, TMPFS, overlay], temporary=True)
        assert [mounted(active.mount_point) for active in made.active] == [True] * 3
        lower, upper, top = (active.mount_point for active in made.active)
        assert made.active[2].mount.options[0] == f"lowerdir={upper}:{lower}"
        write(f"{lower}/file", "seen")
        await mounts.deactivate("chain")
        assert not exists(top)

    @pytest.mark.parametrize(
        "text",
        ["{{ mount 1 }}", "{{ mount -1 }}", "{{ mount }}", "{{ .x }}", "{{ mount 0", "{{ overlay 0 3 }}", "{{}}"],
    )
    async def test_odd_templates(self, mounts, text):
        with pytest.raises(InvalidArgument):
            await mounts.activate("odd", [TMPFS, Mount("format/overlay", "overlay", options=(text,))])
        assert list(await mounts.list()) == []

    async def test_directories_are_made(self, backend, mounts):
        root = self.root(backend)
        options = tuple(f"X-containerd.mkdir.path={root}/{name}" for name in ("up:755", "work", "own:700:5:6"))
        made = await mounts.activate(
            "dirs", [Mount("mkdir/overlay", "overlay", options=(*options, f"upperdir={root}/up"))]
        )
        assert made.system == (Mount("overlay", "overlay", options=(f"upperdir={root}/up",)),)
        assert made.active == ()
        found = [os.stat(f"{root}/{name}") for name in ("up", "work", "own")]
        assert [oct(status.st_mode & 0o7777) for status in found] == ["0o755", "0o700", "0o700"]
        assert (found[2].st_uid, found[2].st_gid) == (5, 6)
        await mounts.deactivate("dirs")

    @pytest.mark.parametrize(
        ("option", "error"),
        [
            ("path=/etc/portside-test", PermissionDenied),
            ("path=relative", InvalidArgument),
            ("path={root}/x:999", InvalidArgument),
            ("path={root}/x:700:1", InvalidArgument),
            ("path={root}/x:700:a:b", InvalidArgument),
            ("path={root}/..", InvalidArgument),
            ("path={root}/link/x", PortsideError),
            ("path={root}/../../x", PortsideError),
            ("path={root}/file", FailedPrecondition),
            ("other=1", InvalidArgument),
        ],
    )
    async def test_odd_directories(self, backend, mounts, option, error):
        root = self.root(backend)
        os.symlink("/etc", f"{root}/link")
        write(f"{root}/file", "")
        before = sorted(os.listdir(root)), sorted(os.listdir("/etc"))
        given = Mount("mkdir/overlay", "overlay", options=(f"X-containerd.mkdir.{option.format(root=root)}",))
        with pytest.raises(error):
            await mounts.activate("odd", [given])
        assert (sorted(os.listdir(root)), sorted(os.listdir("/etc"))) == before

    async def test_a_file_system_in_a_file(self, backend, mounts):
        """mkfs makes the file, loop the device, format tells the mount where it is."""
        need_loop()
        path = f"{self.root(backend)}/disk"
        ext4 = Mount("format/ext4", "{{ mount 0 }}", options=())
        made = await mounts.activate("disk", [image(path), ext4], temporary=True)
        device = os.readlink(made.active[0].mount_point)
        assert made.active[1].mount == Mount("ext4", made.active[0].mount_point)
        status = os.stat(path)
        assert loop.backing(device)[1] == status.st_ino and status.st_size == 16 << 20
        place = made.active[1].mount_point
        write(f"{place}/hello", "still there")
        await mounts.deactivate("disk")
        assert loop.backing(device) is None or loop.backing(device)[1] != status.st_ino
        made = await mounts.activate("disk", [image(path), ext4], temporary=True)
        assert read(f"{made.active[1].mount_point}/hello") == "still there"
        await mounts.deactivate("disk")

    async def test_one_file_made_by_several_at_once(self, backend, mounts):
        need_loop()
        path = f"{self.root(backend)}/disk"
        ext4 = Mount("format/ext4", "{{ mount 0 }}", options=("ro",))
        given = [replace(image(path, "4m"), options=(*image(path, "4m").options, "ro")), ext4]
        await asyncio.gather(*(mounts.activate(f"disk{number}", given, temporary=True) for number in range(4)))
        assert os.listdir(self.root(backend)) == ["disk"]

    async def test_a_device_for_the_caller(self, backend, mounts):
        need_loop()
        path = f"{self.root(backend)}/plain"
        write(path, "\0" * (1 << 20))
        made = await mounts.activate("loop", [Mount("loop", path, options=("ro",)), Mount("ext4", "/dev/x")])
        assert made.system == (Mount("ext4", "/dev/x"),)
        assert loop.backing(os.readlink(made.active[0].mount_point))[1] == os.stat(path).st_ino
        await mounts.deactivate("loop")
        with pytest.raises(NotFound):
            await mounts.activate("loop", [Mount("loop", f"{path}-missing")])

    async def test_odd_file_systems(self, backend, mounts):
        path = f"{self.root(backend)}/disk"
        for options, error in (
            ((), InvalidArgument),
            (("size=0",), InvalidArgument),
            (("size=9999999t",), InvalidArgument),
            (("size=1m", "fs=ntfs"), InvalidArgument),
            (("size=1m", "uuid=-x"), InvalidArgument),
            (("size=1m", "colour=red"), InvalidArgument),
            (("size=1k", "fs=ext4"), FailedPrecondition),
        ):
            given = Mount("mkfs/loop", path, options=tuple(f"X-containerd.mkfs.{option}" for option in options))
            with pytest.raises(error):
                await mounts.activate("odd", [given])
        with pytest.raises(PermissionDenied):
            await mounts.activate("odd", [Mount("mkfs/loop", "/etc/x", options=("X-containerd.mkfs.size=1m",))])
        assert os.listdir(self.root(backend)) == []

    async def test_a_mount_that_fails_leaves_nothing(self, backend, mounts):
        for bad in (
            Mount("nofs", "x"),
            Mount("bind", "/nowhere/at/all", options=("rbind",)),
            Mount("tmpfs", "x", "../y"),
        ):
            with pytest.raises(PortsideError):
                await mounts.activate("bad", [TMPFS, bad], temporary=True)
            assert below(self.targets(backend)) == []
        assert list(await mounts.list()) == []

    async def test_what_is_in_use_stays_and_can_be_tried_again(self, mounts):
        made = await mounts.activate("busy", [TMPFS], temporary=True)
        fd = os.open(made.active[0].mount_point, os.O_RDONLY)
        try:
            with pytest.raises(FailedPrecondition, match="in use"):
                await mounts.deactivate("busy")
            assert await mounts.info("busy") == made
        finally:
            os.close(fd)
        await mounts.deactivate("busy")

    async def test_labels(self, mounts):
        made = await mounts.activate("labels", [TMPFS], {"a": "b"}, temporary=True)
        changed = await mounts.update(Activation("labels", labels={"c": "d"}), ["labels.c"])
        assert (dict(changed.labels), changed.active) == ({"a": "b", "c": "d"}, made.active)
        assert dict((await mounts.update(Activation("labels", labels={"e": "f"}))).labels) == {"e": "f"}
        assert [found.name for found in await mounts.list(["labels.e==f"])] == ["labels"]
        assert [found.name for found in await mounts.list(["name==other", "labels.a==b"])] == []
        with pytest.raises(InvalidArgument):
            await mounts.update(Activation("labels"), ["active"])
        with pytest.raises(NotFound):
            await mounts.update(Activation("other"), ["labels"])
        with pytest.raises(InvalidArgument):
            await mounts.activate("other", [TMPFS], {"k": "v" * 4096}, temporary=True)

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000])
    async def test_odd_names(self, mounts, name):
        with pytest.raises(InvalidArgument):
            await mounts.activate(name, [TMPFS], temporary=True)

    async def test_too_many(self, mounts):
        with pytest.raises(InvalidArgument):
            await mounts.activate("many", [TMPFS] * 300, temporary=True)

    async def test_a_lease_holds_them(self, backend, mounts):
        services = backend.bind("mounts")
        await services.leases.create("holder")
        made = await backend.bind("mounts", "holder").mounts.activate("held", [TMPFS], temporary=True)
        await services.leases.create("other")
        await services.leases.delete("other", sync=True)
        assert mounted(made.active[0].mount_point)
        await services.leases.delete("holder", sync=True)
        with pytest.raises(NotFound):
            await mounts.info("held")
        assert not mounted(made.active[0].mount_point)
        with pytest.raises(NotFound):
            await backend.bind("mounts", "no such lease").mounts.activate("held", [TMPFS], temporary=True)
        assert below(self.targets(backend)) == []

    async def test_a_lease_that_expires(self, backend, mounts):
        services = backend.bind("mounts")
        await services.leases.create("short", {GC_EXPIRE: "2001-01-01T00:00:00Z"})
        made = await backend.bind("mounts", "short").mounts.activate("held", [TMPFS], temporary=True)
        await collect(services)
        assert not mounted(made.active[0].mount_point)

    async def test_references_hold_them(self, backend, mounts):
        """A container by a label of its own, a container by a label of theirs, a sandbox."""
        services = backend.bind("mounts")
        await services.sandboxes.create(Sandbox("pod", labels={"containerd.io/gc.ref.mount": "m4"}))
        await services.containers.create(
            Container("one", "r", CONTAINER.spec, {"containerd.io/gc.ref.mount.root": "m1"})
        )
        await services.containers.create(Container("two", "r", CONTAINER.spec))
        bref = {"containerd.io/gc.bref.container": "two"}
        for name, labels in (("m1", {}), ("m2", bref), ("m3", {}), ("m4", {})):
            await mounts.activate(name, [TMPFS], labels, temporary=True)
        await collect(services)
        assert [made.name for made in await mounts.list()] == ["m1", "m2", "m4"]
        await services.sandboxes.delete("pod")
        for id, left in (("one", ["m2"]), ("two", [])):
            await services.containers.delete(id)
            await collect(services)
            assert [made.name for made in await mounts.list()] == left
        assert below(self.targets(backend)) == []

    async def test_what_is_in_use_when_it_is_collected_goes_later(self, backend, mounts):
        services = backend.bind("mounts")
        made = await mounts.activate("garbage", [TMPFS], temporary=True)
        place = made.active[0].mount_point
        fd = os.open(place, os.O_RDONLY)
        try:
            await collect(services)
            assert list(await mounts.list()) == [] and mounted(place)
        finally:
            os.close(fd)
        await collect(services)
        assert not mounted(place)


async def collect(services) -> None:
    """A whole collection."""
    await services.leases.create("collect")
    await services.leases.delete("collect", sync=True)
