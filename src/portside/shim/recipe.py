"""How containers and execs are made, from a bundle.

Our own runtime's are begun here, in the shim, and finished by a conversation (``conversation.py``); those of an
external runtime are made by its commands, in a child (``maker.py``). What belongs here: reading the spec, mounting the
root, choosing the runtime, and the facts about what was made that the shim keeps. What does not: the state of a task
(``task.py``).
"""

from __future__ import annotations

import json
import os

from portside.errors import InvalidArgument
from portside.runtime.process import Stdio
from portside.shim.external import ExternalContainer
from portside.shim.held import HeldContainer
from portside.shim.record import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from portside.runtime.making import Creation, Execution
    from portside.shim.maker import Made
    from portside.shim.rootfs import Rootfs
    from portside.shim.shared import Shim
    from portside.shim.stdio import Streams

MAX_SPEC: Final = 64 << 20
"""Bytes of a ``config.json``, or of an exec's process."""


class Recipe:
    """What it takes to make one container, or something in it."""

    __slots__ = ("_cache_dir", "_container", "_mounts", "_namespace", "_options", "bundle", "id")

    def __init__(
        self, id: str, bundle: str, mounts: Sequence[Mapping[str, Any]], options: Mapping[str, Any], shim: Shim
    ) -> None:
        """``mounts`` make the root; ``options`` are the runtime's (containerd.runc.v1.Options)."""
        self.id = id
        self.bundle = bundle
        self._mounts = mounts
        self._options = options
        self._namespace = shim.namespace
        self._cache_dir = shim.cache_dir
        self._container: ExternalContainer | None = None

    @property
    def is_external(self) -> bool:
        """Whether the options name another runtime than ours."""
        return bool(self._options.get("binary_name"))

    # Our own runtime's

    def begin_create(self, streams: Streams, rootfs: Rootfs) -> tuple[HeldContainer, Creation, dict[str, Any]]:
        """Mount the root and clone the first process; the container is whole when the creation is.

        The facts: whether streams are ``direct`` and ``shared_pids``. After a failure nothing is left, nor ``rootfs``.
        """
        spec = self._spec()
        facts = _facts(spec, self._options)
        container = HeldContainer.prepare(
            self.id,
            self.bundle,
            spec,
            no_new_keyring=self._options.get("no_new_keyring", False),
            systemd_cgroup=self._options.get("systemd_cgroup", False),
            cache_dir=self._cache_dir,
        )
        stdio = _stdio(streams, facts["direct"], spec.get("process") or {})
        rootfs.mount(self._mounts, self.bundle, visible=False)
        try:
            creation = container.begin_create(
                stdio,
                rootfs_fd=rootfs.fd,
                rootfs=rootfs.path,
                no_pivot=self._options.get("no_pivot_root", False),
            )
        except BaseException:
            rootfs.unmount()
            raise
        return container, creation, facts

    def begin_exec(self, container: HeldContainer, process: bytes, streams: Streams) -> Execution:
        """Clone one more process."""
        spec = parse_json(process, f"exec in task {self.id}: process")
        self.complete(container)
        return container.begin_exec(spec, _stdio(streams, False, spec))

    def complete(self, container: HeldContainer) -> None:
        """Let the container know everything that its spec says."""
        if not container.is_complete:
            container.complete(self._spec(), self._cache_dir)

    def late_hooks(self, container: HeldContainer, kind: str) -> Made:
        """Run the hooks ``poststart`` or ``poststop``; init may have ended. In a child."""
        self.complete(container)
        container.run_late_hooks(kind)
        return {}, []

    # An external runtime's, in a child

    def create_externally(self, streams: Streams, rootfs: Rootfs) -> Made:
        """Make the container up to the point before its process. After a failure nothing is left.

        The facts: those above, what ``hand_over`` of container and root gives, whether there is a ``console``.
        The descriptors: pidfd, console.
        """
        spec = self._spec()
        facts = _facts(spec, self._options)
        stdio = _stdio(streams, facts["direct"], spec.get("process") or {})
        rootfs.mount(self._mounts, self.bundle, visible=True)
        try:
            container = ExternalContainer.create(
                self.id,
                self.bundle,
                stdio,
                binary=self._options["binary_name"],
                root=f"{self._options.get('root') or '/run/portside/runtime'}/{self._namespace}",
                no_pivot=self._options.get("no_pivot_root", False),
                no_new_keyring=self._options.get("no_new_keyring", False),
                systemd_cgroup=self._options.get("systemd_cgroup", False),
            )
        except BaseException:
            rootfs.unmount()
            raise
        self._container = container
        made, fds = container.hand_over()
        console = [container.init.console] if container.init.console >= 0 else []
        return {**facts, **made, "console": bool(console), "rootfs": rootfs.hand_over()[0]}, [*fds, *console]

    def undo(self, rootfs: Rootfs) -> None:
        """Take back what ``create_externally`` made."""
        if self._container is not None:
            self._container.delete(force=True)
        rootfs.unmount()

    def exec_externally(self, facts: Mapping[str, Any], process: bytes, streams: Streams) -> Made:
        """Run one more process. The facts: ``pid``, ``console``; the descriptors: pidfd, console if there is one."""
        spec = parse_json(process, f"exec in task {self.id}: process")
        made = ExternalContainer.take_over(self.id, self.bundle, facts).exec(spec, _stdio(streams, False, spec))
        pidfd = made.pidfd if made.pidfd >= 0 else os.pidfd_open(made.pid)
        console = [made.console] if made.console >= 0 else []
        return {"pid": made.pid, "console": bool(console)}, [pidfd, *console]

    def _spec(self) -> dict[str, Any]:
        data = read_file(f"{self.bundle}/config.json", MAX_SPEC + 1)
        return parse_json(data, f"create task {self.id}: config.json")


def _facts(spec: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec decides about streams and the end: ``direct``, ``shared_pids``."""
    shared, has_users = _namespaces(spec)
    direct = not (shared or has_users or _uid(spec.get("process") or {}) or options.get("io_uid", 0))
    return {"direct": direct, "shared_pids": shared}


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """The object in ``data``; InvalidArgument, which says that it is ``what``."""
    try:
        if len(data) > MAX_SPEC:
            raise ValueError(f"{len(data)} bytes")
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not JSON that makes sense: {error}") from None
    return value


def _stdio(streams: Streams, direct: bool, process: Mapping[str, Any]) -> Stdio:
    stdin, stdout, stderr = streams.child_fds(direct)
    size = process.get("consoleSize") or {}
    return Stdio(
        stdin, stdout, stderr, terminal=streams.terminal, width=size.get("width", 0), height=size.get("height", 0)
    )


def _namespaces(spec: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the pid namespace is shared with others, and whether there is a user namespace.

    What is malformed counts as shared, and is the runtime's to refuse.
    """
    found: dict[Any, Any] = {}
    try:
        for entry in (spec.get("linux") or {}).get("namespaces") or ():
            found[entry["type"]] = entry.get("path", "")
    except (AttributeError, KeyError, TypeError):
        return True, True
    return bool(found.get("pid", "shared")), "user" in found


def _uid(process: Any) -> Any:
    try:
        return (process.get("user") or {}).get("uid") or 0
    except AttributeError:
        return 1
