"""What every ``SandboxStore`` does, ours here and over gRPC, and containerd's; see ``records.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portside.core.anymessage import SPEC, AnyMessage
from portside.core.sandboxes import Sandbox
from portside.errors import AlreadyExists, InvalidArgument, NotFound

SANDBOX = Sandbox(
    "pod",
    "io.containerd.runc.v2",
    AnyMessage("containerd.runc.v1.Options", b"\x01\x02"),
    AnyMessage(SPEC, b'{"ociVersion":"1.0.2",  "x": [1]}'),
    {"a": "b"},
    {"ext": AnyMessage("type", b"\xff\x00")},
    "shim",
)

SANDBOX_TWO = Sandbox("pod", extensions={"two": AnyMessage("t", b"2")})


class SandboxStoreContract:
    namespace = "sandboxes"

    @pytest.fixture
    async def store(self, backend):
        store = backend.bind(self.namespace).sandboxes
        yield store
        for sandbox in await store.list():
            await store.delete(sandbox.id)

    async def test_create_get_list_delete(self, store):
        created = await store.create(SANDBOX)
        assert replace(created, created_ns=0, updated_ns=0) == SANDBOX
        assert created.created_ns == created.updated_ns > 0
        assert await store.get("pod") == created
        assert list(await store.list()) == [created]
        await store.delete("pod")
        assert list(await store.list()) == []

    async def test_the_least(self, store):
        assert replace(await store.create(Sandbox("pod")), created_ns=0, updated_ns=0) == Sandbox("pod")

    async def test_missing_and_taken(self, store):
        await store.create(replace(SANDBOX, id="other"))
        for call in (store.get, store.delete):
            for id in ("pod", ""):
                with pytest.raises(NotFound):
                    await call(id)
        with pytest.raises(NotFound):
            await store.update(SANDBOX, ["labels"])
        await store.create(SANDBOX)
        with pytest.raises(AlreadyExists):
            await store.create(SANDBOX)

    @pytest.mark.parametrize("id", ["", "a b", "../x", "-x", "x-", "a..b", "é", "x" * 77])
    async def test_odd_ids(self, store, id):
        with pytest.raises(InvalidArgument):
            await store.create(replace(SANDBOX, id=id))
        assert list(await store.list()) == []

    async def test_update_by_field_mask(self, store):
        await store.create(SANDBOX)
        new = Sandbox("pod", "other", None, AnyMessage(SPEC, b"{}"), {"c": "d"}, {"two": AnyMessage("t", b"2")})
        assert (await store.update(new, ["labels.c"])).labels == {"a": "b", "c": "d"}
        assert (await store.update(new, ["spec"])).spec == new.spec
        assert set((await store.update(new, ["extensions.two"])).extensions) == {"ext", "two"}
        assert (await store.update(new, ["labels", "extensions"])).labels == {"c": "d"}
        assert (await store.get("pod")).runtime == SANDBOX.runtime
        assert (await store.update(new, ["runtime"])).runtime == "other"
        final = await store.get("pod")
        assert (final.extensions["two"], final.sandboxer) == (new.extensions["two"], "shim")
        assert final.updated_ns > final.created_ns

    async def test_update_of_all_keeps_the_runtime(self, store):
        await store.create(SANDBOX)
        with pytest.raises(InvalidArgument):
            await store.update(replace(SANDBOX, runtime="other"))
        updated = await store.update(replace(SANDBOX, labels={}, extensions={}))
        assert (updated.labels, updated.extensions) == ({}, {})

    @pytest.mark.parametrize("path", ["id", "sandboxer", "created_at", "nonsense"])
    async def test_fields_that_never_change(self, store, path):
        created = await store.create(SANDBOX)
        with pytest.raises(InvalidArgument):
            await store.update(replace(SANDBOX, sandboxer="other"), [path])
        assert await store.get("pod") == created

    async def test_filters(self, store):
        await store.create(SANDBOX)
        await store.create(replace(SANDBOX, id="other", labels={"io.x/y.z": "1"}))

        async def ids(*filters):
            return sorted(sandbox.id for sandbox in await store.list(list(filters)))

        assert await ids("id==pod") == ["pod"]
        assert await ids('id~="^(pod|other)$"') == ["other", "pod"]
        assert await ids('labels."io.x/y.z"==1') == ["other"]
        assert await ids("labels.a==b", "id==other") == ["other", "pod"]
        with pytest.raises(InvalidArgument):
            await ids("id=")

    async def test_namespaces_do_not_see_each_other(self, backend, store):
        await store.create(SANDBOX)
        with pytest.raises(NotFound):
            await backend.bind("elsewhere").sandboxes.get("pod")


class OurSandboxStoreContract(SandboxStoreContract):
    """What only ours does: limits of labels, extensions that can be removed, more fields to filter by."""

    async def test_odd_labels_and_extensions(self, store):
        for sandbox in (replace(SANDBOX, labels={"k": "v" * 4096}), replace(SANDBOX, extensions={"": SANDBOX.spec})):
            with pytest.raises(InvalidArgument):
                await store.create(sandbox)

    async def test_what_is_named_and_not_given_goes(self, store):
        await store.create(SANDBOX)
        empty = Sandbox("pod")
        assert (await store.update(empty, ["labels.a"])).labels == {}
        assert (await store.update(empty, ["extensions.ext"])).extensions == {}
        await store.update(SANDBOX, ["extensions"])
        assert set((await store.update(SANDBOX_TWO, ["extensions"])).extensions) == {"two"}

    async def test_more_filters(self, store):
        await store.create(SANDBOX)
        assert len(await store.list(["runtime.name==io.containerd.runc.v2,sandboxer==shim"])) == 1
        assert list(await store.list(["sandboxer==podsandbox"])) == []

    async def test_a_namespace_with_sandboxes_stays(self, backend, store):
        await store.create(SANDBOX)
        with pytest.raises(Exception, match="sandboxes"):
            await backend.namespaces.delete(self.namespace)
