"""Large blobs over one connection or several."""

import asyncio
import os
import threading

import pytest

from portside.errors import Unavailable
from portside.oci.descriptor import LAYER_GZIP, Descriptor
from portside.oci.digest import Digest
from portside.oci.reference import Reference
from portside.registry import Registry, RegistryConfig
from portside.registry.flow import MAX_SEGMENTS, SEGMENT

DATA = os.urandom(1 << 20) * 37 + b"the end"
BLOB = Descriptor(LAYER_GZIP, Digest.of(DATA), len(DATA))
PATH = f"/v2/name/blobs/{BLOB.digest}"
ALWAYS, NEVER = float("inf"), 0.0


def bounds(handler):
    first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1 if last else len(DATA)


def ranged(handler):
    if "Range" not in handler.headers:
        handler.reply(200, DATA)
        return
    first, end = bounds(handler)
    handler.reply(206, DATA[first:end], Content_Range=f"bytes {first}-{end - 1}/{len(DATA)}")


async def fetched(server, offset=0, **config):
    registry = Registry(RegistryConfig(retry_delays=(0, 0), **config))
    try:
        parts = [part async for part in registry.fetch(Reference.parse(f"{server.host}/name:tag"), BLOB, offset)]
    finally:
        await registry.close()
    assert max(map(len, parts)) <= 1 << 20
    return b"".join(parts)


def ranges(server):
    return [headers.get("Range") for _, _, headers in server.requests]


async def test_slow_connections_get_company(server):
    server.routes[PATH] = ranged
    assert await fetched(server, fast_enough=ALWAYS) == DATA
    starts = range(0, len(DATA), SEGMENT)
    ends = [min(start + SEGMENT, len(DATA)) - 1 for start in starts]
    wanted = [f"bytes={start}-{end if end + 1 < len(DATA) else ''}" for start, end in zip(starts, ends, strict=True)]
    assert sorted(ranges(server)) == sorted(wanted)


async def test_they_run_at_the_same_time(server):
    together = threading.Barrier(4, timeout=20)

    def route(handler):
        if bounds(handler)[0]:
            together.wait()
        ranged(handler)

    server.routes[PATH] = route
    assert 4 * SEGMENT < len(DATA) < 5 * SEGMENT
    assert await fetched(server, fast_enough=ALWAYS, connections=4) == DATA


async def test_fast_ones_stay_alone(server):
    server.routes[PATH] = ranged
    assert await fetched(server, fast_enough=NEVER) == DATA
    assert ranges(server) == [f"bytes=0-{SEGMENT - 1}", f"bytes={SEGMENT}-"]


async def test_without_ranges_the_whole_is_read(server):
    server.routes[PATH] = lambda handler: handler.reply(200, DATA)
    assert await fetched(server, fast_enough=ALWAYS) == DATA
    assert len(server.requests) == 1


async def test_switched_off_and_small_rests(server):
    server.routes[PATH] = ranged
    assert await fetched(server, connections=1) == DATA
    assert await fetched(server, offset=20 << 20, fast_enough=ALWAYS) == DATA[20 << 20 :]
    assert ranges(server) == [None, f"bytes={20 << 20}-"]


async def test_a_segment_that_breaks_is_taken_up(server):
    broken = set()

    def route(handler):
        first, end = bounds(handler)
        if first % SEGMENT == 0 and first not in broken:
            broken.add(first)
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(DATA)}")
            handler.send_header("Content-Length", str(end - first))
            handler.end_headers()
            handler.wfile.write(DATA[first : first + 1_500_000])
            handler.hang_up()
        else:
            ranged(handler)

    server.routes[PATH] = route
    assert await fetched(server, fast_enough=ALWAYS) == DATA


async def test_a_segment_that_fails_is_the_end_and_frees_the_others(server):
    def route(handler):
        if bounds(handler)[0] == 2 * SEGMENT:
            handler.reply(500)
        else:
            ranged(handler)

    server.routes[PATH] = route
    registry = Registry(RegistryConfig(retry_delays=(), fast_enough=ALWAYS))
    for _ in range(MAX_SEGMENTS + 1):
        with pytest.raises(Unavailable, match=f"^pull .*: fetch {BLOB.digest}: .*status 500"):
            async for _ in registry.fetch(Reference.parse(f"{server.host}/name:tag"), BLOB):
                pass
    await registry.close()


async def test_giving_up_in_the_middle_frees_everything(server):
    server.routes[PATH] = ranged
    registry = Registry(RegistryConfig(fast_enough=ALWAYS))
    reference = Reference.parse(f"{server.host}/name:tag")
    for _ in range(MAX_SEGMENTS + 1):
        size, parts = 0, registry.fetch(reference, BLOB)
        async for part in parts:
            size += len(part)
            if size > SEGMENT + (SEGMENT >> 1):
                break
        await parts.aclose()
    async with asyncio.timeout(20):
        assert b"".join([part async for part in registry.fetch(reference, BLOB)]) == DATA
    await registry.close()


async def test_many_at_once_share_the_slots(server):
    server.routes[PATH] = ranged
    registry = Registry(RegistryConfig(fast_enough=ALWAYS))
    reference = Reference.parse(f"{server.host}/name:tag")

    async def one():
        return sum([len(part) async for part in registry.fetch(reference, BLOB)])

    async with asyncio.timeout(30):
        assert await asyncio.gather(*(one() for _ in range(5))) == [len(DATA)] * 5
    await registry.close()
