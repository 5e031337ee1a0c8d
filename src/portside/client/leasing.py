"""A lease for the time a verb works, so that nothing it makes is collected before it is referred to.

The lease ends by itself after a day (containerd.io/gc.expire), should we not come to delete it.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portside.core.labels import GC_EXPIRE
from portside.core.leases import Resource
from portside.core.services import Services
from portside.errors import NotFound, PortsideError

LEASE_SECONDS = 24 * 3600


@asynccontextmanager
async def leased(services: Services) -> AsyncIterator[Services]:
    """``services`` under a lease: their own if they have one, else a new one that is deleted at the end."""
    if services.lease:
        yield services
        return
    expire = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LEASE_SECONDS))
    lease = await services.leases.create(f"{time.time_ns()}-{os.urandom(4).hex()}", {GC_EXPIRE: expire})
    try:
        yield services.with_lease(lease.id)
    finally:
        await _delete(services, lease.id)


async def _delete(services: Services, lease: str) -> None:
    try:
        await services.leases.delete(lease)
    except PortsideError:
        # The work is done or has failed for its own reason; the lease expires by itself.
        return


async def hold(services: Services, type: str, id: str) -> None:
    """Put something that was there before under the lease, if there is one; it may have gone meanwhile."""
    if services.lease:
        try:
            await services.leases.add_resource(services.lease, Resource(type, id))
        except NotFound:
            return
