"""What every store of images, containers, leases and namespaces must do. Fixture: ``backend``."""

from dataclasses import replace

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.leases import Resource
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from portside.oci.descriptor import MANIFEST, Descriptor
from portside.oci.digest import Digest

TARGET = Descriptor(MANIFEST, Digest.of(b"manifest"), 8, {"note": "x"})
IMAGE = Image("docker.io/library/busybox:latest", TARGET, {"a": "b"})
SPEC_BYTES = AnyMessage(SPEC, b'{"ociVersion":"1.0.2",  "x-unknown": [1,2]}')
CONTAINER = Container(
    id="box",
    runtime="io.containerd.runc.v2",
    spec=SPEC_BYTES,
    labels={"a": "b"},
    image=IMAGE.name,
    runtime_options=AnyMessage("containerd.runc.v1.Options", b"\x01\x02"),
    snapshotter="native",
    snapshot_key="box",
    extensions={"ext": AnyMessage("type", b"\xff\x00")},
)
LONG = {"k": "v" * 4096}


class ImageContract:
    @pytest.fixture
    def store(self, backend):
        return backend.bind("default").images

    async def test_create_get_list_delete(self, store):
        created = await store.create(IMAGE)
        assert replace(created, created_ns=0, updated_ns=0) == IMAGE
        assert created.created_ns == created.updated_ns > 0
        assert await store.get(IMAGE.name) == created
        assert list(await store.list()) == [created]
        await store.delete(IMAGE.name)
        assert list(await store.list()) == []

    async def test_missing_and_taken(self, store):
        for call in (store.get, store.delete):
            with pytest.raises(NotFound):
                await call("nothing")
        with pytest.raises(NotFound):
            await store.update(IMAGE)
        await store.create(IMAGE)
        with pytest.raises(AlreadyExists):
            await store.create(IMAGE)

    @pytest.mark.parametrize(
        "image",
        [
            replace(IMAGE, name=""),
            replace(IMAGE, labels=LONG),
            replace(IMAGE, target=replace(TARGET, size=0)),
            replace(IMAGE, target=replace(TARGET, media_type="")),
            replace(IMAGE, target=replace(TARGET, size=-1)),
            replace(IMAGE, name="x" * 10_000),
        ],
        ids=["name", "labels", "size", "media type", "negative size", "long name"],
    )
    async def test_odd_images(self, store, image):
        with pytest.raises(InvalidArgument):
            await store.create(image)

    async def test_update_by_field_mask(self, store):
        await store.create(IMAGE)
        other = Descriptor(MANIFEST, Digest.of(b"other"), 5, {"new": "y"})
        new = Image(IMAGE.name, other, {"c": "d"})
        assert (await store.update(new, ["labels.c"])).labels == {"a": "b", "c": "d"}
        assert (await store.get(IMAGE.name)).target == TARGET
        updated = await store.update(new, ["target"])
        assert (updated.target, updated.labels) == (other, {"a": "b", "c": "d"})
        assert updated.updated_ns > updated.created_ns
        assert (await store.update(replace(new, labels={"a": ""}), ["labels.a"])).labels == {"c": "d"}
        annotated = replace(new, target=replace(other, annotations={"z": "1"}))
        assert (await store.update(annotated, ["annotations"])).target.annotations == {"z": "1"}
        with pytest.raises(InvalidArgument):
            await store.update(new, ["name"])

    async def test_an_update_of_labels_need_not_tell_the_target(self, store):
        await store.create(IMAGE)
        labels_only = Image(IMAGE.name, Descriptor("", Digest(), 0), {"c": "d"})
        updated = await store.update(labels_only, ["labels.c"])
        assert (updated.target, updated.labels) == (TARGET, {"a": "b", "c": "d"})
        for paths in ((), ("target",)):
            with pytest.raises(InvalidArgument):
                await store.update(labels_only, paths)
        with pytest.raises(InvalidArgument):
            await store.update(replace(IMAGE, name=""))

    async def test_update_of_all(self, store):
        await store.create(IMAGE)
        new = Image(IMAGE.name, Descriptor(MANIFEST, Digest.of(b"other"), 5), {})
        updated = await store.update(new)
        assert (updated.target, updated.labels) == (new.target, {})

    async def test_filters(self, store):
        await store.create(IMAGE)
        other = await store.create(Image("docker.io/library/alpine:3", replace(TARGET, digest=Digest.of(b"a"))))

        async def names(*filters):
            return [image.name for image in await store.list(list(filters))]

        assert await names(f"name=={IMAGE.name}") == [IMAGE.name]
        assert await names("name~=alpine") == [other.name]
        assert await names('name~="busy|alp"', "labels.a==none") == [other.name, IMAGE.name]
        assert await names(f"target.digest=={TARGET.digest},labels.a==b") == [IMAGE.name]
        assert await names("labels.a") == [IMAGE.name]
        with pytest.raises(InvalidArgument):
            await names("name=")

    async def test_delete_of_another_target(self, store):
        await store.create(IMAGE)
        with pytest.raises(NotFound):
            await store.delete(IMAGE.name, target=replace(TARGET, digest=Digest.of(b"other")))
        await store.delete(IMAGE.name, sync=True, target=TARGET)

    async def test_namespaces_do_not_see_each_other(self, backend, store):
        await store.create(IMAGE)
        with pytest.raises(NotFound):
            await backend.bind("other").images.get(IMAGE.name)


class ContainerContract:
    @pytest.fixture
    def store(self, backend):
        return backend.bind("default").containers

    async def test_create_get_list_delete(self, store):
        created = await store.create(CONTAINER)
        assert replace(created, created_ns=0, updated_ns=0) == CONTAINER
        assert created.created_ns == created.updated_ns > 0
        assert await store.get("box") == created
        assert list(await store.list()) == [created]
        await store.delete("box")
        assert list(await store.list()) == []

    async def test_one_of_a_sandbox(self, store):
        await store.create(replace(CONTAINER, sandbox_id="pod"))
        assert (await store.get("box")).sandbox_id == "pod"

    async def test_missing_and_taken(self, store):
        for call in (store.get, store.delete):
            with pytest.raises(NotFound):
                await call("box")
        with pytest.raises(NotFound):
            await store.update(CONTAINER, ["labels"])
        with pytest.raises(InvalidArgument):
            await store.update(replace(CONTAINER, id=""), ["labels"])
        await store.create(CONTAINER)
        with pytest.raises(AlreadyExists):
            await store.create(CONTAINER)

    @pytest.mark.parametrize(
        "container",
        [
            *(replace(CONTAINER, id=id) for id in ("", "a b", "../x", "-x", "x-", "a..b", "é", "x" * 77)),
            replace(CONTAINER, labels=LONG),
            replace(CONTAINER, runtime=""),
            replace(CONTAINER, spec=None),
            replace(CONTAINER, snapshotter=""),
            replace(CONTAINER, extensions={"": SPEC_BYTES}),
        ],
        ids=[f"id-{number}" for number in range(8)] + ["labels", "runtime", "spec", "snapshotter", "extension"],
    )
    async def test_odd_containers(self, store, container):
        with pytest.raises(InvalidArgument):
            await store.create(container)
        assert list(await store.list()) == []

    async def test_update_by_field_mask(self, store):
        await store.create(CONTAINER)
        new = Container("box", "other", AnyMessage(SPEC, b"{}"), {"c": "d"}, "image2", snapshot_key="key2",
                        snapshotter="other", extensions={"two": AnyMessage("t", b"2")})  # fmt: skip
        assert (await store.update(new, ["labels.c"])).labels == {"a": "b", "c": "d"}
        assert (await store.update(replace(new, labels={}), ["labels.c"])).labels == {"a": "b"}
        assert (await store.update(new, ["spec"])).spec == new.spec
        assert set((await store.update(new, ["extensions.two"])).extensions) == {"ext", "two"}
        assert (await store.update(new, ["image", "snapshotkey"])).snapshot_key == "key2"
        final = await store.get("box")
        assert (final.runtime, final.snapshotter, final.image) == (CONTAINER.runtime, "native", "image2")
        assert final.updated_ns > final.created_ns

    async def test_an_extension_that_is_named_and_not_given_goes(self, store):
        await store.create(CONTAINER)
        new = replace(CONTAINER, extensions={"two": AnyMessage("t", b"2")})
        assert set((await store.update(new, ["extensions.none", "extensions.ext"])).extensions) == set()

    async def test_an_update_of_extensions_replaces_them(self, store):
        await store.create(CONTAINER)
        new = replace(CONTAINER, extensions={"two": AnyMessage("t", b"2")})
        await store.update(new, ["extensions"])
        assert set((await store.get("box")).extensions) == {"two"}

    async def test_a_path_with_an_underscore(self, store):
        await store.create(CONTAINER)
        assert (await store.update(replace(CONTAINER, snapshot_key="key2"), ["snapshot_key"])).snapshot_key == "key2"

    @pytest.mark.parametrize("path", ["runtime", "snapshotter", "id", "sandbox", "nonsense", "created_at"])
    async def test_fields_that_never_change(self, store, path):
        created = await store.create(CONTAINER)
        with pytest.raises(InvalidArgument):
            await store.update(replace(CONTAINER, runtime="other"), [path])
        assert await store.get("box") == created

    async def test_update_of_all_keeps_runtime_and_snapshotter(self, store):
        await store.create(CONTAINER)
        for new in (replace(CONTAINER, runtime="other"), replace(CONTAINER, snapshotter="other")):
            with pytest.raises(InvalidArgument):
                await store.update(new)
        updated = await store.update(replace(CONTAINER, labels={}, image="", extensions={}))
        assert (updated.labels, updated.image, updated.extensions) == ({}, "", {})

    @pytest.mark.parametrize("path", ["spec", "labels"])
    async def test_an_update_must_leave_a_good_record(self, store, path):
        await store.create(CONTAINER)
        with pytest.raises(InvalidArgument):
            await store.update(replace(CONTAINER, spec=None, labels=LONG), [path])

    async def test_filters(self, store):
        await store.create(CONTAINER)
        await store.create(replace(CONTAINER, id="other", labels={"io.x/y.z": "1"}, image=""))

        async def ids(*filters):
            return [container.id for container in await store.list(list(filters))]

        assert await ids("id==box") == ["box"]
        assert await ids("id~=^(box|other)$") == ["box", "other"]
        assert await ids("image") == ["box"]
        assert await ids('labels."io.x/y.z"==1') == ["other"]
        assert await ids("runtime.name==io.containerd.runc.v2,id!=box") == ["other"]
        assert await ids("id==box", "id==other") == ["box", "other"]
        assert await ids("") == ["box", "other"]


class LeaseContract:
    @pytest.fixture
    def store(self, backend):
        return backend.bind("default").leases

    async def test_create_list_delete(self, store):
        lease = await store.create("423-a_-B", {"a": "b", "empty": ""})
        assert (lease.id, dict(lease.labels)) == ("423-a_-B", {"a": "b"})
        assert lease.created_ns > 0
        assert list(await store.list()) == [lease]
        with pytest.raises(AlreadyExists):
            await store.create("423-a_-B")
        await store.delete("423-a_-B", sync=True)
        with pytest.raises(NotFound):
            await store.delete("423-a_-B")

    @pytest.mark.parametrize(("id", "labels"), [("x", LONG), ("x" * 10_000, {})], ids=["labels", "id"])
    async def test_odd_leases(self, store, id, labels):
        with pytest.raises(InvalidArgument):
            await store.create(id, labels)

    async def test_a_lease_without_an_id_is_given_one(self, store):
        first, second = await store.create(""), await store.create("")
        assert first.id and second.id and first.id != second.id
        assert {lease.id for lease in await store.list()} == {first.id, second.id}

    async def test_filters(self, store):
        await store.create("one", {"k": "1"})
        await store.create("two", {"k": "2"})
        assert [lease.id for lease in await store.list(["labels.k==2"])] == ["two"]
        assert [lease.id for lease in await store.list(["id==one"])] == ["one"]

    async def test_resources(self, store):
        await store.create("lease")
        resources = {
            Resource("content", Digest.of(b"x")),
            Resource("ingests", "ref"),
            Resource("snapshots/native", "key/with/slash"),
        }
        for resource in resources:
            await store.add_resource("lease", resource)
            await store.add_resource("lease", resource)
        assert set(await store.list_resources("lease")) == resources
        await store.delete_resource("lease", Resource("ingests", "ref"))
        await store.delete_resource("lease", Resource("ingests", "ref"))
        assert len(await store.list_resources("lease")) == 2
        await store.delete("lease")
        await store.create("lease")
        assert list(await store.list_resources("lease")) == []

    async def test_resources_of_a_missing_lease(self, store):
        resource = Resource("ingests", "ref")
        for call in (store.add_resource, store.delete_resource):
            with pytest.raises(NotFound):
                await call("none", resource)
        with pytest.raises(NotFound):
            await store.list_resources("none")

    async def test_odd_resources(self, store):
        await store.create("lease")
        for type in ("snapshots", "snapshots/a/b", f"content/{Digest.of(b'x')}", "ingests/x"):
            with pytest.raises(InvalidArgument):
                await store.add_resource("lease", Resource(type, Digest.of(b"x")))
        with pytest.raises(InvalidArgument):
            await store.add_resource("lease", Resource("content", "sha256:xyz"))
        with pytest.raises(Unimplemented):
            await store.add_resource("lease", Resource("bananas", "x"))

    async def test_a_resource_without_an_id(self, store):
        await store.create("lease")
        with pytest.raises(InvalidArgument):
            await store.add_resource("lease", Resource("ingests", ""))


class NamespaceContract:
    @pytest.fixture
    def store(self, backend):
        return backend.namespaces

    async def test_create_list_delete(self, store):
        await store.create("mine", {"a": "b"})
        assert await store.labels("mine") == {"a": "b"}
        assert "mine" in await store.list()
        with pytest.raises(AlreadyExists):
            await store.create("mine")
        await store.delete("mine")
        assert "mine" not in await store.list()

    async def test_missing(self, store):
        for call in (store.labels, store.delete):
            with pytest.raises(NotFound):
                await call("none")

    @pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 77, "version", "ü"])
    async def test_odd_names(self, store, name):
        with pytest.raises(InvalidArgument):
            await store.create(name)

    async def test_labels(self, store):
        await store.create("mine", {"a": "b"})
        await store.set_label("mine", "c", "d")
        await store.set_label("mine", "a", "")
        assert await store.labels("mine") == {"c": "d"}
        await store.set_label("new", "c", "d")
        assert await store.labels("new") == {"c": "d"}

    async def test_a_label_that_is_too_long(self, store):
        with pytest.raises(InvalidArgument):
            await store.create("mine", LONG)
        await store.create("mine")
        with pytest.raises(InvalidArgument):
            await store.set_label("mine", "k", "v" * 4096)

    async def test_it_comes_into_being_with_its_first_object(self, backend, store):
        await backend.bind("implicit").containers.create(CONTAINER)
        assert "implicit" in await store.list()
        assert await store.labels("implicit") == {}

    async def test_one_that_is_not_empty_stays_and_says_why(self, backend, store):
        services = backend.bind("full")
        await services.containers.create(CONTAINER)
        await services.images.create(IMAGE)
        with pytest.raises(FailedPrecondition, match=r"images.*containers"):
            await store.delete("full")
        await services.containers.delete("box")
        await services.images.delete(IMAGE.name)
        await services.leases.create("does not count")
        await store.delete("full")
        assert "full" not in await store.list()
