"""The sandbox controller ``shim``: a sandbox is a shim that serves containerd.runtime.sandbox.v1.Sandbox.

    create     a bundle, a shim as for a task, CreateSandbox; then /sandboxes/create
    start      StartSandbox; then /sandboxes/start
    (end)      by stop, or with its shim: /sandboxes/exit, once
    shutdown   ShutdownSandbox, the shim ends, the bundle goes

Sandboxes outlive the daemon: they are found again by their bundles. What a record of a sandbox says is the store's
(``metadata/sandboxes.py``), and nothing here reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portside.core.anymessage import AnyMessage
from portside.core.containers import RUNTIMES
from portside.core.labels import check_identifier
from portside.core.mount import Mount
from portside.core.sandboxes import NOT_READY, Sandbox, SandboxExit, SandboxInstance, SandboxStatus
from portside.core.tasks import Metric
from portside.core.work import in_thread
from portside.engine.shim_fields import any_fields, mount_fields
from portside.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    PortsideError,
    Unavailable,
    Unimplemented,
)
from portside.metadata.background import Background
from portside.oci.platform import Platform
from portside.shim.outbox import timestamp
from portside.supervisor.bundles import Bundle, Bundles
from portside.supervisor.sandbox import CALL_TIMEOUT, END_TIMEOUT, ShimSandbox
from portside.supervisor.supervisor import Supervisor
from portside.supervisor.task import nanoseconds
from portside.wire.codec import Message

log = logging.getLogger(__name__)

PLUGIN = "io.containerd.sandbox.controller.v1.shim"
VERSION = 3
"""Of the task service that a sandbox's shim serves."""
ADOPT_TIMEOUT = 3.0
"""Seconds for the answer of a sandbox that is taken over."""

Emit = Callable[[str, str, str, Mapping[str, Any]], None]
_Key = tuple[str, str]


class ShimSandboxes:
    """The sandboxes of all namespaces. ``start`` once the supervisor has started, ``close`` in the end."""

    def __init__(self, state: str, root: str, supervisor: Supervisor, emit: Emit) -> None:
        """``emit(namespace, topic, type_name, fields)`` is called on the loop for each event."""
        self._bundles = Bundles(state, root, PLUGIN)
        self._supervisor, self._emit = supervisor, emit
        self._sandboxes: dict[_Key, ShimSandbox] = {}
        self._making: set[_Key] = set()
        self._watches: dict[_Key, asyncio.Task[None]] = {}
        self._adopting: asyncio.Task[None] | None = None
        self._background = Background()

    async def start(self) -> None:
        """Take over what is there, in the background: calls for a sandbox wait for it."""
        await in_thread(self._bundles.prepare)
        found = await in_thread(self._bundles.list)
        if found:
            self._adopting = self._background.start(self._adopt(found))

    async def close(self) -> None:
        """Let go of all; they go on."""
        await self._background.close()
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes.values()), return_exceptions=True)
        self._sandboxes.clear()

    def bind(self, namespace: str) -> ShimController:
        """The controller as ``namespace`` sees it."""
        return ShimController(self, namespace)

    async def find(self, namespace: str, id: str) -> ShimSandbox | None:
        """The sandbox, if there is one."""
        if self._adopting is not None:
            await asyncio.wait([self._adopting])
        return self._sandboxes.get((namespace, id))

    async def create(self, namespace: str, sandbox: Sandbox, fields: Mapping[str, Any]) -> None:
        """A shim, and in it the sandbox. AlreadyExists; goes on to its end if the caller is cancelled."""
        check_identifier(sandbox.id, "sandbox")
        if sandbox.runtime and sandbox.runtime not in RUNTIMES:
            raise Unimplemented(f"create sandbox {sandbox.id}: runtime {sandbox.runtime} is not served yet")
        key = (namespace, sandbox.id)
        if await self.find(*key) is not None or key in self._making:
            raise AlreadyExists(f"sandbox {sandbox.id}: already exists")
        self._making.add(key)
        await self._background.finish(self._create(key, sandbox.spec, fields))

    async def started(self, sandbox: ShimSandbox) -> None:
        """It runs now: say so."""
        self._tell(sandbox, "start", "SandboxStart", {})

    async def remove(self, sandbox: ShimSandbox, timeout: float = END_TIMEOUT) -> None:
        """End the shim of a sandbox that was shut down or given up, and forget it."""
        await self._background.finish(self._remove(sandbox, timeout))

    async def _create(self, key: _Key, spec: AnyMessage | None, fields: Mapping[str, Any]) -> None:
        try:
            value = spec.value if spec is not None else b"{}"
            bundle, listener, address = await in_thread(self._bundles.create, *key, value)
            try:
                pidfd = await self._supervisor.spawn_shim(bundle, listener, address)
            except BaseException:
                await in_thread(self._bundles.remove, bundle)
                raise
            finally:
                listener.close()
            sandbox = self._sandboxes[key] = ShimSandbox(bundle, address, pidfd)
            try:
                await sandbox.call("CreateSandbox", bundle_path=bundle.path, **fields)
            except BaseException:
                await self._remove(sandbox, 0.0)  # The shim is no sandbox, and nobody else's.
                raise
            self._watch(sandbox)
            self._tell(sandbox, "create", "SandboxCreate", {})
        finally:
            self._making.discard(key)

    async def _remove(self, sandbox: ShimSandbox, timeout: float = END_TIMEOUT) -> None:
        key = (sandbox.bundle.namespace, sandbox.bundle.id)
        await sandbox.end(timeout)
        watch = self._watches.pop(key, None)
        if watch is not None:  # It ends with the sandbox, or soon after the shim.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT):
                    await asyncio.wait([watch])
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await sandbox.close()
        if self._sandboxes.get(key) is sandbox:
            del self._sandboxes[key]
        await in_thread(self._bundles.remove, sandbox.bundle)

    async def _adopt(self, bundles: Sequence[Bundle]) -> None:
        await asyncio.gather(*(self._adopt_one(bundle) for bundle in bundles))
        self._adopting = None

    async def _adopt_one(self, bundle: Bundle) -> None:
        sandbox = ShimSandbox(bundle, await in_thread(lambda: bundle.address), -1)
        try:
            await sandbox.find_shim(ADOPT_TIMEOUT)
        except (Unavailable, NotFound) as error:
            log.warning("sandbox %s/%s: its shim is gone: %s", bundle.namespace, bundle.id, error)
            await sandbox.close()
            await in_thread(self._bundles.remove, bundle)
            return
        except PortsideError as error:
            log.warning("sandbox %s/%s: its shim does not answer: %s", bundle.namespace, bundle.id, error)
        self._sandboxes[bundle.namespace, bundle.id] = sandbox
        self._watch(sandbox)

    def _watch(self, sandbox: ShimSandbox) -> None:
        key = (sandbox.bundle.namespace, sandbox.bundle.id)
        name = f"watch sandbox {sandbox.bundle.id}"
        self._watches[key] = asyncio.create_task(self._tell_exit(sandbox), name=name)

    async def _tell_exit(self, sandbox: ShimSandbox) -> None:
        with contextlib.suppress(Unavailable):
            ended = await sandbox.wait()
            fields = {"exit_status": ended.status, "exited_at": timestamp(ended.exited_ns)}
            self._tell(sandbox, "exit", "SandboxExit", fields)

    def _tell(self, sandbox: ShimSandbox, topic: str, name: str, fields: Mapping[str, Any]) -> None:
        bundle = sandbox.bundle
        self._emit(
            bundle.namespace, f"/sandboxes/{topic}", f"containerd.events.{name}", {"sandbox_id": bundle.id, **fields}
        )


class ShimController:
    """``core.sandboxes.SandboxController`` of one namespace; costs nothing to make."""

    def __init__(self, sandboxes: ShimSandboxes, namespace: str) -> None:
        self._sandboxes, self._namespace = sandboxes, namespace

    async def create(
        self, sandbox: Sandbox, *, rootfs: Sequence[Mount] = (), options: AnyMessage | None = None,
        netns_path: str = "", annotations: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """See ``SandboxController``."""
        fields: dict[str, Any] = {
            "rootfs": mount_fields(rootfs),
            "netns_path": netns_path,
            "annotations": dict(annotations or {}),
        }
        chosen = options or sandbox.runtime_options
        if chosen is not None:
            fields["options"] = any_fields(chosen)
        await self._sandboxes.create(self._namespace, sandbox, fields)

    async def start(self, id: str) -> SandboxInstance:
        """See ``SandboxController``; one that was started already stays as it is (FailedPrecondition)."""
        sandbox = await self._find(id)
        try:
            answer = await sandbox.call("StartSandbox")
        except FailedPrecondition:
            raise
        except PortsideError:
            await self._give_up(sandbox)
            raise
        await self._sandboxes.started(sandbox)
        return SandboxInstance(
            id, answer["pid"], nanoseconds(answer["created_at"]), address=f"ttrpc+unix://{sandbox.address}",
            version=VERSION, spec=_any(answer["spec"]),
        )  # fmt: skip

    async def platform(self, id: str) -> Platform:
        """See ``SandboxController``."""
        platform = (await (await self._find(id)).call("Platform"))["platform"] or {}
        return Platform(platform.get("os", ""), platform.get("architecture", ""), platform.get("variant", ""))

    async def stop(self, id: str, timeout: float = 0.0) -> None:
        """See ``SandboxController``."""
        sandbox = await self._sandboxes.find(self._namespace, id)
        if sandbox is not None:
            with contextlib.suppress(NotFound, Unavailable):
                await sandbox.call("StopSandbox", timeout + CALL_TIMEOUT, timeout_secs=round(timeout))

    async def wait(self, id: str) -> SandboxExit:
        """See ``SandboxController``."""
        return await (await self._find(id)).wait()

    async def status(self, id: str, verbose: bool = False) -> SandboxStatus:
        """See ``SandboxController``; of a sandbox whose shim is dead it is told that it has ended."""
        sandbox = await self._sandboxes.find(self._namespace, id)
        if sandbox is None:
            return SandboxStatus(id, exited_ns=time.time_ns())
        try:
            answer = await sandbox.call("SandboxStatus", verbose=verbose)
        except Unavailable:
            if not await sandbox.is_dead():
                raise
            return SandboxStatus(id, state=NOT_READY, exited_ns=(await sandbox.wait()).exited_ns)
        return SandboxStatus(
            id, answer["pid"], answer["state"], dict(answer["info"]), nanoseconds(answer["created_at"]),
            nanoseconds(answer["exited_at"]), _any(answer["extra"]), f"ttrpc+unix://{sandbox.address}", VERSION,
        )  # fmt: skip

    async def shutdown(self, id: str) -> None:
        """See ``SandboxController``; FailedPrecondition while it has tasks."""
        sandbox = await self._find(id)
        try:
            await sandbox.call("ShutdownSandbox")
        except (Unavailable, DeadlineExceeded) as error:  # Dead or mute: what is left of it goes.
            log.warning("sandbox %s/%s: its shim does not answer, ending it: %s", self._namespace, id, error)
            await self._sandboxes.remove(sandbox, 0.0)
        else:
            await self._sandboxes.remove(sandbox)

    async def metrics(self, id: str) -> Metric:
        """See ``SandboxController``."""
        metric = (await (await self._find(id)).call("SandboxMetrics"))["metrics"] or {}
        return Metric(id, nanoseconds(metric.get("timestamp")), _any(metric.get("data")) or AnyMessage("", b""))

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Nothing that can be updated concerns the shim, so this is fine for any sandbox, as containerd has it."""

    async def _find(self, id: str) -> ShimSandbox:
        sandbox = await self._sandboxes.find(self._namespace, id)
        if sandbox is None:
            raise NotFound(f"sandbox {id!r} in namespace {self._namespace!r}: no shim runs it")
        return sandbox

    async def _give_up(self, sandbox: ShimSandbox) -> None:
        with contextlib.suppress(PortsideError):
            await sandbox.call("ShutdownSandbox")
        await self._sandboxes.remove(sandbox)


def _any(message: Message | None) -> AnyMessage | None:
    return AnyMessage(message["type_url"], message["value"]) if message else None
