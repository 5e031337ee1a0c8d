"""What every content store must do (core/content.ContentStore). Fixture: ``backend``, a ``core.services.Backend``."""

import asyncio

import pytest

from portside.core.content import ContentInfo, read_blob
from portside.core.labels import GC_EXPIRE
from portside.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unavailable
from portside.oci.digest import Digest

HELLO = b"hello, content"
DIGEST = Digest.of(HELLO)


async def put(store, data=HELLO, ref="ref", labels=None, **options):
    writer = await store.writer(ref, len(data), Digest.of(data), **options)
    try:
        await writer.write(data)
        return await writer.commit(len(data), Digest.of(data), labels)
    finally:
        await writer.close()


class ContentContract:
    @pytest.fixture
    def store(self, backend):
        return backend.bind("default").content

    async def test_what_was_committed_is_read_back(self, store):
        assert await put(store, labels={"a": "b"}) == DIGEST
        info = await store.info(DIGEST)
        assert (info.digest, info.size, dict(info.labels)) == (DIGEST, len(HELLO), {"a": "b"})
        assert info.created_ns == info.updated_ns > 0
        assert await read_blob(store, DIGEST) == HELLO

    async def test_reading_in_parts(self, store):
        data = bytes(range(256)) * 5000
        await put(store, data)
        reader = await store.open(Digest.of(data))
        assert reader.size == len(data)
        assert await reader.read(3, 5) == data[3:8]
        assert await reader.read(len(data) - 2, 100) == data[-2:]
        assert await reader.read(len(data), 10) == b""
        assert b"".join([await reader.read(at, 400_000) for at in range(0, len(data), 400_000)]) == data
        await reader.close()
        await reader.close()

    async def test_an_open_reader_outlives_deletion(self, store):
        await put(store)
        reader = await store.open(DIGEST)
        await store.delete(DIGEST)
        assert await reader.read(0, 100) == HELLO
        await reader.close()

    async def test_missing_is_not_found(self, store):
        for call in (store.info, store.delete, store.open):
            with pytest.raises(NotFound):
                await call(DIGEST)
        with pytest.raises(NotFound):
            await store.update(ContentInfo(DIGEST, 0, {"a": "b"}))
        for call in (store.status, store.abort):
            with pytest.raises(NotFound):
                await call("nothing")

    async def test_an_empty_blob(self, store):
        assert await put(store, b"") == Digest.of(b"")
        assert await read_blob(store, Digest.of(b"")) == b""

    async def test_commit_without_expectations(self, store):
        writer = await store.writer("ref")
        await writer.write(HELLO[:4])
        await writer.write(memoryview(HELLO)[4:])
        assert await writer.digest() == DIGEST
        assert await writer.commit() == DIGEST

    @pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
    async def test_other_algorithms(self, store, algorithm):
        import hashlib

        digest = Digest.parse(f"{algorithm}:{hashlib.new(algorithm, HELLO).hexdigest()}")
        writer = await store.writer("ref", len(HELLO), digest)
        await writer.write(HELLO)
        assert await writer.commit(len(HELLO), digest) == digest
        assert await read_blob(store, digest) == HELLO

    @pytest.mark.parametrize(("size", "expected"), [(3, DIGEST), (len(HELLO), Digest.of(b"other"))])
    async def test_commit_of_something_else_leaves_no_blob_and_a_ref_that_can_be_used(self, store, size, expected):
        writer = await store.writer("ref")
        await writer.write(HELLO)
        with pytest.raises(FailedPrecondition):
            await writer.commit(size, expected)
        await writer.close()
        for digest in (DIGEST, Digest.of(b"other")):
            with pytest.raises(NotFound):
                await store.info(digest)
        assert (await store.status("ref")).offset == len(HELLO)
        await store.abort("ref")
        assert await put(store) == DIGEST

    async def test_what_is_here_is_not_written_again(self, store):
        await put(store)
        with pytest.raises(AlreadyExists):
            await store.writer("again", len(HELLO), DIGEST)

    async def test_of_two_writers_of_one_blob_the_second_is_told(self, store):
        first, second = await store.writer("first"), await store.writer("second")
        await first.write(HELLO)
        await second.write(HELLO)
        await first.commit(len(HELLO), DIGEST)
        with pytest.raises(AlreadyExists):
            await second.commit(len(HELLO), DIGEST)
        assert await store.list_statuses() == []
        assert await read_blob(store, DIGEST) == HELLO

    async def test_an_ingest_is_resumed_where_it_was(self, store):
        writer = await store.writer("ref", len(HELLO), DIGEST)
        await writer.write(HELLO[:5])
        await writer.close()
        status = await store.status("ref")
        assert (status.ref, status.offset, status.total) == ("ref", 5, len(HELLO))
        assert status.updated_ns >= status.started_ns > 0
        writer = await store.writer("ref", len(HELLO), DIGEST)
        assert (await writer.status()).offset == 5
        await writer.write(HELLO[5:])
        await writer.commit(len(HELLO), DIGEST)
        assert await read_blob(store, DIGEST) == HELLO

    async def test_a_status_tells_what_is_expected(self, store):
        await (await store.writer("ref", len(HELLO), DIGEST)).close()
        assert (await store.status("ref")).expected == DIGEST

    async def test_truncate_and_write_something_else(self, store):
        writer = await store.writer("ref")
        await writer.write(b"hello, world")
        with pytest.raises(OutOfRange):
            await writer.truncate(13)
        await writer.truncate(7)
        await writer.write(HELLO[7:])
        assert await writer.commit(len(HELLO), DIGEST) == DIGEST

    async def test_a_ref_has_one_writer(self, store):
        writer = await store.writer("ref")
        with pytest.raises(Unavailable):
            await store.writer("ref")
        await writer.close()
        await (await store.writer("ref")).close()

    async def test_abort(self, store):
        writer = await store.writer("ref")
        await writer.write(HELLO)
        await writer.close()
        assert [status.ref for status in await store.list_statuses()] == ["ref"]
        await store.abort("ref")
        assert await store.list_statuses() == []
        writer = await store.writer("ref")
        assert (await writer.status()).offset == 0
        await writer.close()

    async def test_what_is_being_written_is_not_aborted(self, store):
        writer = await store.writer("ref")
        with pytest.raises(Unavailable):
            await store.abort("ref")
        await writer.close()

    async def test_an_ingest_keeps_its_total(self, store):
        writer = await store.writer("ref", len(HELLO))
        await writer.write(HELLO[:5])
        await writer.close()
        writer = await store.writer("ref")
        assert (await writer.status()).offset == 5
        await writer.close()
        assert (await store.status("ref")).total == len(HELLO)
        with pytest.raises(FailedPrecondition):
            await store.writer("ref", len(HELLO) + 1)

    async def test_statuses_are_filtered_by_ref(self, store):
        for ref in ("layer-1", "layer-2", "config"):
            await (await store.writer(ref)).close()
        assert sorted(status.ref for status in await store.list_statuses(["ref~=^layer"])) == ["layer-1", "layer-2"]

    async def test_a_closed_writer_writes_nothing(self, store):
        writer = await store.writer("ref")
        await writer.close()
        with pytest.raises(FailedPrecondition):
            await writer.write(HELLO)
        with pytest.raises(FailedPrecondition):
            await writer.commit()

    async def test_labels(self, store):
        await put(store, labels={"keep": "1", "drop": "2"})
        info = await store.update(ContentInfo(DIGEST, 0, {"new": "3"}), ["labels.new"])
        assert info.labels == {"keep": "1", "drop": "2", "new": "3"}
        info = await store.update(ContentInfo(DIGEST, 0, {"drop": ""}), ["labels.drop"])
        assert info.labels == {"keep": "1", "new": "3"}
        info = await store.update(ContentInfo(DIGEST, 0, {"only": "4"}))
        assert info.labels == {"only": "4"}
        assert await store.info(DIGEST) == info
        assert info.updated_ns > info.created_ns

    async def test_labels_that_are_not_allowed(self, store):
        await put(store)
        with pytest.raises(InvalidArgument):
            await store.update(ContentInfo(DIGEST, 0, {"k": "v" * 4096}))
        with pytest.raises(InvalidArgument):
            await store.update(ContentInfo(DIGEST, 0), ["size"])
        assert (await store.info(DIGEST)).labels == {}

    async def test_a_label_without_a_name(self, store):
        await put(store)
        with pytest.raises(InvalidArgument):
            await store.update(ContentInfo(DIGEST, 0, {"": "x"}))
        assert (await store.info(DIGEST)).labels == {}

    async def test_list_and_filters(self, store):
        first = await put(store, b"one", labels={"kind": "layer"})
        second = await put(store, b"two", labels={"kind": "config"})
        assert {info.digest async for info in store.list()} == {first, second}
        assert [info.digest async for info in store.list(["labels.kind==layer"])] == [first]
        assert [info.digest async for info in store.list([f"digest=={second}"])] == [second]
        assert [info async for info in store.list(["labels.none"])] == []
        with pytest.raises(InvalidArgument):
            [info async for info in store.list(["digest=="])]

    async def test_namespaces_do_not_see_each_other(self, backend, store):
        await put(store)
        other = backend.bind("other").content
        with pytest.raises(NotFound):
            await other.info(DIGEST)
        assert [info async for info in other.list()] == []

    async def test_what_another_namespace_has_need_not_be_written(self, backend, store):
        await put(store, labels={"a": "b"})
        other = backend.bind("other").content
        writer = await other.writer("ref", len(HELLO), DIGEST)
        assert (await writer.status()).offset == len(HELLO)
        await writer.commit(len(HELLO), DIGEST, {"c": "d"})
        assert (await other.info(DIGEST)).labels == {"c": "d"}
        await store.delete(DIGEST)
        assert await read_blob(other, DIGEST) == HELLO

    async def test_what_another_namespace_has_may_be_written_all_the_same(self, backend, store):
        await put(store)
        other = backend.bind("other").content
        writer = await other.writer("ref", len(HELLO), DIGEST)
        await writer.truncate(5)
        await writer.write(b"!")
        changed = HELLO[:5] + b"!"
        assert await writer.commit(6) == Digest.of(changed)
        assert await read_blob(other, Digest.of(changed)) == changed

    async def test_equal_refs_in_two_namespaces_do_not_meet(self, backend, store):
        mine, theirs = await store.writer("ref"), await backend.bind("other").content.writer("ref")
        await mine.write(b"one")
        await theirs.write(b"two")
        assert {await mine.commit(), await theirs.commit()} == {Digest.of(b"one"), Digest.of(b"two")}

    async def test_a_cancelled_write_leaves_a_ref_that_works(self, store):
        writer = await store.writer("ref")
        task = asyncio.ensure_future(writer.write(b"x" * (4 << 20)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.close()
        await store.abort("ref")
        await put(store)

    async def test_an_update_removes_what_is_named_and_not_given(self, store):
        await put(store, labels={"a": "1", "b": "2"})
        assert (await store.update(ContentInfo(DIGEST, 0), ["labels.a", "labels.none"])).labels == {"b": "2"}
        assert (await store.update(ContentInfo(DIGEST, 0, {"c": "3", "d": ""}), ["labels"])).labels == {"c": "3"}
        with pytest.raises(InvalidArgument):
            await store.update(ContentInfo(DIGEST, 0), [""])

    @pytest.mark.parametrize("ref", ["", "r" * 10_000], ids=["empty", "long"])
    async def test_odd_refs(self, store, ref):
        with pytest.raises(InvalidArgument):
            await store.writer(ref)

    async def test_refs_are_not_paths(self, store):
        for ref in ("../../escape", "/etc/passwd", "a/b/../c", "."):
            assert await put(store, ref.encode(), ref) == Digest.of(ref.encode())

    async def test_a_lease_holds_what_is_written_under_it(self, backend):
        services = backend.bind("default")
        await services.leases.create("lease")
        store = backend.bind("default", "lease").content
        writer = await store.writer("ref")
        resources = await services.leases.list_resources("lease")
        assert [(resource.type, resource.id) for resource in resources] == [("ingests", "ref")]
        await writer.write(HELLO)
        await writer.commit()
        resources = await services.leases.list_resources("lease")
        assert [(resource.type, resource.id) for resource in resources] == [("content", DIGEST)]
        assert (await store.info(DIGEST)).labels.get(GC_EXPIRE) is None

    async def test_a_lease_that_is_not_there(self, backend):
        with pytest.raises(NotFound):
            await backend.bind("default", "none").content.writer("ref")
        await backend.bind("default").leases.create("none")
        await put(backend.bind("default", "none").content)
