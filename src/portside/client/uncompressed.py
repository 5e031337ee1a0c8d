"""A layer's bytes uncompressed, from whatever store it is in: by way of an unnamed file, whose size is the blob's."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator

from portside.core.content import ContentStore
from portside.core.work import in_thread
from portside.layers.compression import MAGIC_SIZE, detect, open_stream
from portside.layers.worker import Blob
from portside.oci.digest import Digest

CHUNK = 1 << 20


async def uncompressed(store: ContentStore, digest: Digest) -> AsyncIterator[bytes]:
    """Parts of about 1 MiB; DataLoss if the compressed bytes end early. NotFound."""
    reader = await store.open(digest)
    try:
        with tempfile.TemporaryFile() as file:
            while data := await reader.read(file.tell(), CHUNK):
                await in_thread(file.write, data)
            file.flush()
            blob = Blob(file.fileno())
            stream = open_stream(blob, detect(blob.peek(MAGIC_SIZE)))
            while data := await in_thread(stream.read):
                yield data
    finally:
        await reader.close()
