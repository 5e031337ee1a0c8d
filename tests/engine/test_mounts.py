"""What becomes of activated mounts: restarts, reboots, crashes in the middle, handlers of others."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.mounts import ActiveMount
from portside.core.tasks import TaskIO
from portside.engine.engine import EngineConfig, LocalBackend
from portside.engine.mounting import LoopHandler, mount_at, mount_points, unmount_at
from portside.engine.mounts import MountKeeper
from portside.engine.root_mounts import with_devices
from portside.errors import AlreadyExists, FailedPrecondition, NotFound, PortsideError, Unimplemented
from portside.linux import loop
from tests.contracts.local import LocalBackend as Stores
from tests.contracts.mounts import TMPFS, below, need_loop, read, write
from tests.support import bundles
from tests.support.images import BUSYBOX
from tests.support.peers import SLOWNESS, need_root


@pytest.fixture
async def stores(tmp_path):
    need_root()
    stores = Stores(tmp_path)
    yield stores
    mounts = stores.mounts.bind("default")
    for activation in await mounts.list():
        await mounts.deactivate(activation.name)
    await stores.close()
    assert below(stores.targets) == [] and os.listdir(stores.targets) == []


async def again(stores):
    """The engine ends, and another opens the root."""
    await stores.mounts.close()
    stores.mounts = MountKeeper(stores.metadata, str(stores.targets), [str(stores.files)])
    await stores.mounts.start()
    await stores.mounts.close()  # What it undoes in the background is done.
    return stores.mounts.bind("default")


async def test_a_restart_takes_over_what_is_there(stores):
    mounts = stores.mounts.bind("default")
    made = await mounts.activate("kept", [TMPFS, TMPFS], {"a": "b"}, temporary=True)
    mounts = await again(stores)
    assert await mounts.info("kept") == made
    assert [bool(mount_points(active.mount_point)) for active in made.active] == [True, True]
    other = await mounts.activate("other", [TMPFS], temporary=True)
    assert other.active[0].mount_point != made.active[0].mount_point
    await mounts.deactivate("kept")
    assert not mount_points(made.active[0].mount_point)


async def test_after_a_reboot_they_are_forgotten(stores):
    mounts = stores.mounts.bind("default")
    made = await mounts.activate("gone", [TMPFS, TMPFS], temporary=True)
    unmount_at(made.active[1].mount_point)
    mounts = await again(stores)
    with pytest.raises(NotFound):
        await mounts.info("gone")
    assert below(stores.targets) == [] and os.listdir(stores.targets) == []
    await mounts.activate("gone", [TMPFS], temporary=True)


async def test_what_a_crash_leaves_is_undone(stores):
    """It came between the mounts and their record; another one came before the first mount."""
    need_loop()
    (stores.files / "disk").write_bytes(bytes(1 << 20))
    mounts = stores.mounts.bind("default")
    whole = await mounts.activate("whole", [TMPFS], temporary=True)
    last = int(Path(whole.active[0].mount_point).parent.name)
    place = stores.targets / str(last + 1)
    place.mkdir()
    for index, type in enumerate(("tmpfs", "loop")):
        (place / f"{index:03}.type").write_text(type)
    (place / "000").mkdir()
    (place / "002.type").write_text("tmpfs")
    mount_at(TMPFS, str(place / "000"))
    LoopHandler().mount(Mount("loop", str(stores.files / "disk")), str(place / "001"), ())
    device = os.readlink(place / "001")
    (stores.targets / str(last + 2)).mkdir()
    mounts = await again(stores)
    assert os.listdir(stores.targets) == [str(last)]
    assert loop.backing(device) != (os.stat(stores.files).st_dev, os.stat(stores.files / "disk").st_ino)
    assert await mounts.info("whole") == whole
    fresh = await mounts.activate("fresh", [TMPFS], temporary=True)
    assert int(Path(fresh.active[0].mount_point).parent.name) == last + 3


async def test_a_device_that_is_another_files_by_now_is_left_alone(stores):
    need_loop()
    for name in ("ours", "theirs"):
        (stores.files / name).write_bytes(bytes(1 << 20))
    mounts = stores.mounts.bind("default")
    made = await mounts.activate("loop", [Mount("loop", str(stores.files / "ours"))])
    link = made.active[0].mount_point
    facts = json.loads(read(f"{link}.loop"))
    loop.detach(facts["device"], tuple(facts["owner"]))
    device, fd = loop.attach(str(stores.files / "theirs"), loop.LO_FLAGS_AUTOCLEAR)
    try:
        write(f"{link}.loop", json.dumps({**facts, "device": device}))
        owner = loop.backing(device)
        mounts = await again(stores)
        with pytest.raises(NotFound):
            await mounts.info("loop")
        assert loop.backing(device) == owner
    finally:
        os.close(fd)


class Recorder:
    """A handler whose mounts are files."""

    def __init__(self):
        self.refusing = False

    def mount(self, mount, place, active):
        if mount.source == "bad":
            raise OSError(5, "no luck")
        Path(place).write_text(mount.source)
        return ActiveMount(mount, place, 1, {"before": str(len(active))})

    def unmount(self, place):
        if self.refusing:
            raise FailedPrecondition("not yet")
        Path(place).unlink(missing_ok=True)

    def is_mounted(self, place):
        return Path(place).exists()


async def test_handlers_of_others(stores):
    handler = Recorder()
    keeper = MountKeeper(stores.metadata, str(stores.targets), [], {"theirs": handler})
    mounts = keeper.bind("default")
    chained = Mount("format/overlay", "overlay", options=("lowerdir={{ mount 1 }}",))
    made = await mounts.activate("x", [Mount("theirs", "one"), Mount("theirs", "two"), chained])
    assert [active.data for active in made.active] == [{"before": "0"}, {"before": "1"}]
    assert made.system[0].options == (f"lowerdir={made.active[1].mount_point}",)
    assert read(made.active[1].mount_point) == "two"
    with pytest.raises(PortsideError, match="no luck"):
        await mounts.activate("y", [Mount("theirs", "one"), Mount("theirs", "bad")])
    handler.refusing = True
    with pytest.raises(FailedPrecondition):
        await mounts.deactivate("x")
    assert await mounts.info("x") == made
    handler.refusing = False
    await mounts.deactivate("x")
    await keeper.close()


async def test_two_of_one_name_at_once(stores):
    mounts = stores.mounts.bind("default")
    outcomes = await asyncio.gather(
        *(mounts.activate("same", [TMPFS], temporary=True) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert len(below(stores.targets)) == 1


async def test_one_whose_caller_has_gone_is_whole(stores):
    mounts = stores.mounts.bind("default")
    asked = asyncio.ensure_future(mounts.activate("left", [TMPFS] * 3, temporary=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await stores.mounts.close()
    found = [activation.name for activation in await mounts.list()]
    assert (found, len(below(stores.targets))) in ((["left"], 3), ([], 0))


async def test_an_engine_keeps_them_and_may_do_without(tmp_path):
    need_root()
    config = EngineConfig(tmp_path / "root", tmp_path / "state")
    backend = await LocalBackend.open(config)
    lease = await backend.bind("default").leases.create("holder")
    made = await backend.bind("default", lease.id).mounts.activate("kept", [TMPFS], temporary=True)
    await backend.close()
    backend = await LocalBackend.open(config)
    assert await backend.bind("default").mounts.info("kept") == made
    await backend.bind("default").leases.delete(lease.id, sync=True)
    assert below(tmp_path) == []
    await backend.close()
    disabled = EngineConfig(
        tmp_path / "root", tmp_path / "state", disabled_plugins=["io.containerd.mount-manager.v1.sqlite"]
    )
    backend = await LocalBackend.open(disabled)
    with pytest.raises(Unimplemented):
        _ = backend.bind("default").mounts
    await backend.close()


@pytest.fixture
def box(tmp_path):
    """A root file system in a file, as ext4."""
    need_loop()
    if not BUSYBOX.exists() or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs busybox-static and mkfs.ext4")
    root = bundles.make_rootfs(tmp_path / "tree")
    image = tmp_path / "root.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(root), str(image)], check=True)
    return image


@pytest.mark.parametrize("by", ["handler", "option"])
async def test_a_task_on_a_root_that_must_be_activated(tmp_path, box, by):
    """The mounts are made for the task and gone with it; an attempt that fails leaves none."""
    config = EngineConfig(tmp_path / "root", tmp_path / "state")
    backend = await LocalBackend.open(config)
    services = backend.bind("default")
    try:
        cgroup = f"/portside-test-{secrets.token_hex(4)}"
        spec = AnyMessage(SPEC, bundles.dump(bundles.spec("sh", "-c", "echo $(ls / | head -1) > /seen", cgroup=cgroup)))
        await services.containers.create(Container("one", "io.containerd.runc.v2", spec))
        mounts = [Mount("loop", str(box)), Mount("format/ext4", "{{ mount 0 }}")]
        if by == "option":
            mounts = [Mount("ext4", str(box), options=("rw", "loop"))]
        async with asyncio.timeout(40 * SLOWNESS):
            for _ in range(2):
                await services.tasks.create("one", mounts, TaskIO())
                (made,) = await services.mounts.list()
                assert made.name.startswith("one/") and made.labels == {"containerd.io/gc.bref.container": "one"}
                with pytest.raises(AlreadyExists):
                    await services.tasks.create("one", mounts, TaskIO())
                assert list(await services.mounts.list()) == [made]
                await services.tasks.start("one")
                assert (await services.tasks.wait("one")).status == 0
                await services.tasks.delete("one")
                assert list(await services.mounts.list()) == []
            with pytest.raises(PortsideError):
                await services.tasks.create("one", [*mounts, Mount("nofs", "x")], TaskIO())
            assert list(await services.mounts.list()) == []
        await services.containers.delete("one")
    finally:
        await backend.close()
    assert written(box) == "bin\n"


def written(image):
    """What the task wrote to its root."""
    command = ["debugfs", "-R", "cat /seen", str(image)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_devices_for_the_option_loop():
    plain = [Mount("bind", "/a"), Mount("ext4", "/b", options=("ro",))]
    assert with_devices(plain) == plain
    assert with_devices([plain[0], Mount("ext4", "/b", "/t", ("ro", "loop"))]) == [
        plain[0],
        Mount("loop", "/b", options=("ro",)),
        Mount("format/ext4", "{{ mount 1 }}", "/t", ("ro",)),
    ]
    chained = [Mount("erofs", "/b", options=("ro", "loop")), Mount("format/overlay", "overlay")]
    assert with_devices(chained) == chained
