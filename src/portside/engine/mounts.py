"""The mount manager, here: activations of all namespaces, made below one directory.

    <targets>/<number>/          one activation, 0700; the number is given once and never again
        <index>                  where a mount is made: a directory, or whatever its handler puts there
        <index>.type             its type, written before it is made: who is to unmake it

A directory is made first and recorded last (``metadata/mounts.py``): what a crash leaves is a directory without a
record, which is undone at the next start. A record whose mounts have gone meanwhile (a reboot) is forgotten then, the
others are taken over as they are. Collections remove records; their mounts are undone then, and tried again with every
further collection while they are in use.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from portside.core.locks import KeyedLocks
from portside.core.mount import Mount
from portside.core.mounts import Activation, ActiveMount, MountHandler
from portside.core.work import in_thread
from portside.engine.mount_types import TRANSFORMERS, ActivationPlan, plan
from portside.engine.mounting import LoopHandler, mount_at, mount_points, naming, unmount_at
from portside.errors import PortsideError, from_oserror
from portside.metadata.background import Background
from portside.metadata.common import new_labels
from portside.metadata.mounts import Mounts, all_mounts, last_number
from portside.metadata.schema import MOUNTS
from portside.metadata.store import Metadata

log = logging.getLogger(__name__)


class MountKeeper:
    """All activations of one engine. ``bind`` gives a namespace's; ``start`` once, ``close`` in the end."""

    def __init__(
        self, metadata: Metadata, targets: str, roots: Sequence[str], handlers: Mapping[str, MountHandler] | None = None
    ) -> None:
        """``targets`` is a directory of ours alone; files may be made below it and below ``roots``."""
        self._metadata = metadata
        self._targets = os.path.abspath(targets)
        self._roots = tuple(os.path.abspath(path) for path in (targets, *roots))
        self._handlers: dict[str, MountHandler] = {"loop": LoopHandler(), **(handlers or {})}
        self._background = Background()
        self._locks: KeyedLocks[tuple[str, str]] = KeyedLocks()
        self._releasing: KeyedLocks[int] = KeyedLocks()
        self._doomed: set[int] = set()
        os.makedirs(self._targets, 0o700, exist_ok=True)
        os.chmod(self._targets, 0o700)
        self._old = self._numbers()
        self._last = max([last_number(metadata.db), *self._old])
        metadata.release_mounts = self.release

    def bind(self, namespace: str, lease: str = "") -> LocalMounts:
        """The mount manager of ``namespace``; what is activated is held by ``lease``, if there is one."""
        return LocalMounts(self, self._metadata.mounts(namespace, lease), namespace)

    def knows(self, mounts: Sequence[Mount]) -> bool:
        """Whether any of them needs a transformer or a handler; cheap."""
        return any(mount.type in self._handlers or mount.type.partition("/")[0] in TRANSFORMERS for mount in mounts)

    def names(self, namespace: str, prefix: str) -> list[str]:
        """Of the activations that begin with ``prefix``; cheap where there are few."""
        return [name for name in self._metadata.db.state.rows(MOUNTS, (namespace,)) if name.startswith(prefix)]

    async def start(self) -> None:
        """Forget what is no longer mounted, take over the rest, and begin to undo what has no record."""
        known = set()
        for namespace, record in list(all_mounts(self._metadata.db)):
            known.add(record.number)
            if not await in_thread(self._is_whole, record.info):
                log.warning("mounts %s/%s: no longer mounted, forgotten", namespace, record.info.name)
                self._doomed.add(record.number)
                await self._metadata.mounts(namespace).delete(record.info.name, record.number)
        self._doomed.update(set(self._old) - known)
        if self._doomed:
            self._background.spawn(self._sweep(), "undo mounts without a record")

    async def close(self) -> None:
        """Wait for what is under way; what is activated stays."""
        await self._background.close()

    async def activate(
        self, records: Mounts, namespace: str, info: Activation, mounts: Sequence[Mount], temporary: bool
    ) -> Activation:
        """Make ``mounts`` and record them as ``info``; goes on to its end if the caller is cancelled."""
        how = plan(mounts, self._handlers, temporary)
        return await self._background.finish(self._activate(records, namespace, info, mounts, how, temporary))

    async def deactivate(self, records: Mounts, namespace: str, name: str) -> None:
        """Undo and forget; goes on to its end if the caller is cancelled."""
        await self._background.finish(self._deactivate(records, namespace, name))

    async def release(self, numbers: Iterable[int]) -> list[str]:
        """Undo what has no record any more, what could not be undone before included; the failures."""
        self._doomed.update(numbers)
        failures = []
        for number in list(self._doomed):
            try:
                await self._undo(number)
                self._doomed.discard(number)
            except PortsideError as error:
                failures.append(f"undo mounts {number}: {error}")
        return failures

    async def _activate(
        self, records: Mounts, namespace: str, info: Activation, mounts: Sequence[Mount], how: ActivationPlan,
        temporary: bool,
    ) -> Activation:  # fmt: skip
        async with self._locks.one((namespace, info.name)):
            records.check_free(info.name)
            self._last += 1
            number = self._last
            try:
                made, left = await in_thread(self._make, number, mounts, how)
                if temporary:
                    left = [Mount("bind", made[-1].mount_point, options=("rbind",))]
                return await records.put(replace(info, active=tuple(made), system=tuple(left)), number)
            except BaseException as error:
                for failure in await self.release([number]):
                    log.warning("mounts %s/%s: %s", namespace, info.name, failure)
                if isinstance(error, OSError):
                    raise from_oserror(error, f"activate mounts {info.name}") from error
                raise

    async def _deactivate(self, records: Mounts, namespace: str, name: str) -> None:
        async with self._locks.one((namespace, name)):
            number = records.get(name).number
            await self._undo(number)
            await records.delete(name, number)

    async def _sweep(self) -> None:
        for failure in await self.release(()):
            log.warning("mounts: %s", failure)

    async def _undo(self, number: int) -> None:
        async with self._releasing.one(number):
            try:
                await in_thread(self._unmake, number)
            except OSError as error:
                raise from_oserror(error, f"undo mounts {number}") from error

    # In threads

    def _make(self, number: int, mounts: Sequence[Mount], how: ActivationPlan) -> tuple[list[ActiveMount], list[Mount]]:
        """What was made, and the system part."""
        place = f"{self._targets}/{number}"
        os.mkdir(place, 0o700)
        made: list[ActiveMount] = []
        for index, mount in enumerate(mounts[: how.first_system]):
            mount = self._transform(mount, how, index, made)
            made.append(self._make_one(mount, f"{place}/{index:03}", how.handlers[index], made))
        left = list(mounts[how.first_system :])
        if left:
            left[0] = self._transform(left[0], how, how.first_system, made)
        return made, left

    def _transform(self, mount: Mount, how: ActivationPlan, index: int, made: Sequence[ActiveMount]) -> Mount:
        for type, transform in how.transformers[index]:
            mount = transform(replace(mount, type=type), made, self._roots)
        return mount

    def _make_one(
        self, mount: Mount, place: str, handler: MountHandler | None, made: Sequence[ActiveMount]
    ) -> ActiveMount:
        with open(f"{place}.type", "x", encoding="utf-8") as file:
            file.write(mount.type)
        try:
            if handler is not None:
                return handler.mount(mount, place, made)
            os.mkdir(place, 0o700)
            mount_at(mount, place)
        except OSError as error:
            raise naming(mount, error) from error
        return ActiveMount(mount, place, time.time_ns())

    def _unmake(self, number: int) -> None:
        """Undo what is in the directory, last first; what is undone already is fine."""
        place = f"{self._targets}/{number}"
        try:
            names = sorted(os.listdir(place), reverse=True)
        except FileNotFoundError:
            return
        for name in names:
            index, dot, what = name.partition(".")
            if not dot or what != "type":
                continue
            path = f"{place}/{index}"
            with open(f"{place}/{name}", encoding="utf-8") as file:
                handler = self._handlers.get(file.read())
            if handler is not None:
                handler.unmount(path)
            else:
                unmount_at(path)
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.rmdir(path)
            os.unlink(f"{place}/{name}")
        os.rmdir(place)

    def _is_whole(self, info: Activation) -> bool:
        for active in info.active:
            handler = self._handlers.get(active.mount.type)
            if handler is not None:
                if not handler.is_mounted(active.mount_point):
                    return False
            elif not mount_points(active.mount_point):
                return False
        return True

    def _numbers(self) -> list[int]:
        return [int(name) for name in os.listdir(self._targets) if name.isdecimal()]


class LocalMounts:
    """``core.mounts.MountManager`` of one namespace; costs nothing to make."""

    def __init__(self, keeper: MountKeeper, records: Mounts, namespace: str) -> None:
        self._keeper, self._records, self._namespace = keeper, records, namespace

    async def activate(
        self, name: str, mounts: Sequence[Mount], labels: Mapping[str, str] | None = None, temporary: bool = False
    ) -> Activation:
        """See ``MountManager``."""
        self._records.check_free(name)
        info = Activation(name, labels=new_labels(labels))
        return await self._keeper.activate(self._records, self._namespace, info, mounts, temporary)

    async def deactivate(self, name: str) -> None:
        """See ``MountManager``."""
        await self._keeper.deactivate(self._records, self._namespace, name)

    async def info(self, name: str) -> Activation:
        """See ``MountManager``."""
        return self._records.get(name).info

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        """See ``MountManager``."""
        return await self._records.update(activation, fieldpaths)

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """See ``MountManager``."""
        return self._records.list(filters)
