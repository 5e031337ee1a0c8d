"""What every event service must do (core/events.EventService). Fixture: ``backend``."""

import asyncio
import os

import pytest

from portside.core.anymessage import AnyMessage
from portside.core.content import ContentInfo
from portside.core.events import Envelope
from portside.core.snapshots import Kind, SnapshotInfo
from portside.errors import InvalidArgument
from tests.contracts.content import DIGEST, HELLO, put
from tests.contracts.records import CONTAINER, IMAGE

EVENT = AnyMessage("my.Event", b"\x0a\x01x")


async def take(subscription, count):
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]


class EventContract:
    """``subscribed`` makes a subscription and returns once it is in force."""

    @pytest.fixture
    def subscribed(self, backend):
        async def subscribe(*filters):
            events = backend.bind("sync").events
            subscription = events.subscribe([*filters, 'topic=="/sync"'] if filters else [])
            first = asyncio.ensure_future(anext(subscription))
            while not first.done():  # over a wire a subscription takes effect some time after the call
                await events.publish("/sync", EVENT)
                await asyncio.wait([first], timeout=0.05)
            return subscription

        return subscribe

    async def rest(self, subscription, count):
        """The next ``count`` events that are not the fixture's."""
        found = []
        while len(found) < count:
            found += [event for event in await take(subscription, 1) if event.topic != "/sync"]
        return found

    async def test_in_order_with_time_and_namespace(self, backend, subscribed):
        subscription = await subscribed()
        for number in range(50):
            await backend.bind("ns").events.publish(f"/topic/{number}", EVENT)
        events = await self.rest(subscription, 50)
        assert [event.topic for event in events] == [f"/topic/{number}" for number in range(50)]
        assert {event.namespace for event in events} == {"ns"}
        assert all(event.event == EVENT and event.timestamp_ns > 0 for event in events)
        await subscription.aclose()

    async def test_forward_keeps_all_as_it_is(self, backend, subscribed):
        subscription = await subscribed()
        envelope = Envelope(1_700_000_000_123_456_789, "elsewhere", "/a/b", EVENT)
        await backend.bind("ns").events.forward(envelope)
        assert await self.rest(subscription, 1) == [envelope]
        await subscription.aclose()

    async def test_filters(self, backend, subscribed):
        by_topic = await subscribed('topic~="^/yes"')
        by_namespace = await subscribed("namespace==mine")
        for namespace, topic in (("mine", "/no"), ("theirs", "/yes/1"), ("mine", "/yes/2")):
            await backend.bind(namespace).events.publish(topic, EVENT)
        assert [event.topic for event in await self.rest(by_topic, 2)] == ["/yes/1", "/yes/2"]
        assert [event.topic for event in await self.rest(by_namespace, 2)] == ["/no", "/yes/2"]
        await by_topic.aclose()
        await by_namespace.aclose()

    @pytest.mark.parametrize("topic", ["", "word", "/", "/a//b", "/a b", "/a/"])
    async def test_odd_topics(self, backend, topic):
        with pytest.raises(InvalidArgument):
            await backend.bind("ns").events.publish(topic, EVENT)

    async def test_odd_envelopes(self, backend):
        events = backend.bind("ns").events
        for envelope in (
            Envelope(1, "", "/a", EVENT),
            Envelope(1, "ns", "a", EVENT),
        ):
            with pytest.raises(InvalidArgument):
                await events.forward(envelope)

    async def test_an_envelope_without_a_time(self, backend):
        with pytest.raises(InvalidArgument):
            await backend.bind("ns").events.forward(Envelope(0, "ns", "/a", EVENT))

    async def test_a_filter_that_cannot_be_read(self, backend):
        with pytest.raises(InvalidArgument):
            await anext(backend.bind("ns").events.subscribe(["topic==="]))

    async def test_stores_tell_what_changed(self, backend, subscribed):
        subscription = await subscribed('topic~="^/(containers|images)/"')
        services = backend.bind("ns")
        await services.containers.create(CONTAINER)
        await services.containers.update(CONTAINER, ["labels"])
        await services.containers.delete(CONTAINER.id)
        await services.images.create(IMAGE)
        await services.images.update(IMAGE)
        await services.images.delete(IMAGE.name)
        told = [(event.topic, event.event.type_name) for event in await self.rest(subscription, 6)]
        assert told == [
            ("/containers/create", "containerd.events.ContainerCreate"),
            ("/containers/update", "containerd.events.ContainerUpdate"),
            ("/containers/delete", "containerd.events.ContainerDelete"),
            ("/images/create", "containerd.services.images.v1.ImageCreate"),
            ("/images/update", "containerd.services.images.v1.ImageUpdate"),
            ("/images/delete", "containerd.services.images.v1.ImageDelete"),
        ]
        await subscription.aclose()

    async def told(self, subscription, count):
        """Of the next events: namespace, topic and the bytes of the message."""
        return [(event.namespace, event.topic, event.event.value) for event in await self.rest(subscription, count)]

    async def test_namespaces_tell_what_changed(self, backend, subscribed):
        subscription = await subscribed('topic~="^/namespaces/"')
        await backend.namespaces.create("told", {"a": "b"})
        await backend.namespaces.set_label("told", "a", "c")
        await backend.namespaces.delete("told")
        assert await self.told(subscription, 3) == [
            ("told", "/namespaces/create", b"\n\x04told\x12\x06\n\x01a\x12\x01b"),
            ("told", "/namespaces/update", b"\n\x04told\x12\x06\n\x01a\x12\x01c"),
            ("told", "/namespaces/delete", b"\n\x04told"),
        ]
        await subscription.aclose()

    async def test_the_content_store_tells_what_comes_and_goes(self, backend, subscribed):
        subscription = await subscribed('topic~="^/content/"')
        content = backend.bind("ns").content
        await put(content)
        await content.update(ContentInfo(DIGEST, 0, {"a": "b"}))
        await content.delete(DIGEST)
        digest = b"\nG" + DIGEST.encode()
        size = b"\x10%c" % len(HELLO)
        assert await self.told(subscription, 2) == [
            ("ns", "/content/create", digest + size),
            ("ns", "/content/delete", digest),
        ]
        await subscription.aclose()

    @pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")
    async def test_snapshotters_tell_what_they_did(self, backend, subscribed):
        subscription = await subscribed('topic~="^/snapshot/"')
        snapshots = backend.bind("ns").snapshotter("native")
        await snapshots.prepare("k")
        await snapshots.commit("n", "k")
        await snapshots.prepare("t", "n")
        await snapshots.update(SnapshotInfo("t", "n", Kind.ACTIVE, {"a": "b"}))
        await snapshots.remove("t")
        native = b"*\x06native"
        assert await self.told(subscription, 4) == [
            ("ns", "/snapshot/prepare", b"\n\x01k" + native),
            ("ns", "/snapshot/commit", b"\n\x01k\x12\x01n" + native),
            ("ns", "/snapshot/prepare", b"\n\x01t\x12\x01n" + native),
            ("ns", "/snapshot/remove", b"\n\x01t" + native),
        ]
        await subscription.aclose()

    @pytest.mark.skipif(os.geteuid() != 0, reason="snapshots belong to root")
    async def test_views_are_not_told_of(self, backend, subscribed):
        subscription = await subscribed('topic~="^/snapshot/"')
        snapshots = backend.bind("ns").snapshotter("native")
        await snapshots.prepare("making")
        await snapshots.commit("layer", "making")
        await snapshots.view("look", "layer")
        await snapshots.remove("look")
        topics = [event.topic for event in await self.rest(subscription, 3)]
        assert topics == ["/snapshot/prepare", "/snapshot/commit", "/snapshot/remove"]
        await subscription.aclose()

    async def test_filters_see_into_events(self, backend, subscribed):
        subscription = await subscribed("event.id==second")
        services = backend.bind("ns")
        from dataclasses import replace

        for id in ("first", "second"):
            await services.containers.create(replace(CONTAINER, id=id))
        await services.containers.delete("second")
        told = await self.rest(subscription, 2)
        assert [event.topic for event in told] == ["/containers/create", "/containers/delete"]
        await subscription.aclose()
