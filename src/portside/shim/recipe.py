"""How containers and execs are made, from a bundle: what runs in a child of the shim (``maker.py``).

What belongs here: reading the spec, mounting the root, choosing the runtime, and the facts about what was made that the
shim keeps. What does not: the state of a task (``task.py``).
"""

from __future__ import annotations

import json
import os

from portside.errors import InvalidArgument
from portside.runtime.container import Stdio
from portside.shim.external import ExternalContainer
from portside.shim.held import HeldContainer
from portside.shim.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from portside.shim.maker import Made
    from portside.shim.shared import Shim
    from portside.shim.stdio import Streams

MAX_SPEC: Final = 64 << 20
"""Bytes of a ``config.json``, or of an exec's process."""


class Recipe:
    """What it takes to make one container, or something in it."""

    __slots__ = ("_bundle", "_cache_dir", "_container", "_id", "_mounts", "_namespace", "_options", "_rootfs")

    def __init__(
        self, id: str, bundle: str, mounts: Sequence[Mapping[str, Any]], options: Mapping[str, Any], shim: Shim
    ) -> None:
        """``mounts`` make the root; ``options`` are the runtime's (containerd.runc.v1.Options)."""
        self._id = id
        self._bundle = bundle
        self._mounts = mounts
        self._options = options
        self._namespace = shim.namespace
        self._cache_dir = shim.cache_dir
        self._rootfs = Rootfs()
        self._container: HeldContainer | ExternalContainer | None = None

    def container(self, streams: Streams) -> Made:
        """Make the container up to the point before execve. After a failure nothing is left.

        The facts: what ``hand_over`` of container and root gives; whether streams are ``direct`` and ``shared_pids``.
        The descriptors: pidfd, console and channel if the facts say so, the root's mount if it is one.
        """
        spec = self._spec()
        process = spec.get("process") or {}
        shared, has_users = _namespaces(spec)
        direct = not (shared or has_users or _uid(process) or self._options.get("io_uid", 0))
        stdio = _stdio(streams, direct, process)
        self._rootfs.mount(self._mounts, self._bundle, visible=bool(self._options.get("binary_name")))
        try:
            self._container = container = self._create(spec, stdio)
        except BaseException:
            self._rootfs.unmount()
            raise
        facts, (pidfd, *channel) = container.hand_over()
        rootfs, root_fd = self._rootfs.hand_over()
        console = [container.init.console] if container.init.console >= 0 else []
        facts |= {"direct": direct, "shared_pids": shared, "console": bool(console), "channel": bool(channel)}
        return {**facts, "rootfs": rootfs}, [pidfd, *console, *channel, *root_fd]

    def undo(self) -> None:
        """Take back what ``container`` made."""
        if self._container is not None:
            self._container.delete(force=True)
        self._rootfs.unmount()

    def exec(self, facts: Mapping[str, Any], process: bytes, streams: Streams) -> Made:
        """Run one more process. The facts: ``pid``, ``console``; the descriptors: pidfd, console if there is one."""
        spec = parse_json(process, f"exec in task {self._id}: process")
        stdio = _stdio(streams, False, spec)
        if self._options.get("binary_name"):
            made = ExternalContainer.take_over(self._id, self._bundle, facts).exec(spec, stdio)
        else:
            made = self.whole(facts).exec(spec, stdio)
        pidfd = made.pidfd if made.pidfd >= 0 else os.pidfd_open(made.pid)
        console = [made.console] if made.console >= 0 else []
        return {"pid": made.pid, "console": bool(console)}, [pidfd, *console]

    def whole(self, facts: Mapping[str, Any]) -> HeldContainer:
        """Our runtime's container with everything that its spec says."""
        pidfd = os.pidfd_open(facts["pid"])
        return HeldContainer.take_over(
            self._id, self._bundle, facts, pidfd, spec=self._spec(), cache_dir=self._cache_dir
        )

    def late_hooks(self, facts: Mapping[str, Any], kind: str) -> Made:
        """Run the hooks ``poststart`` or ``poststop`` of our runtime's container, whose init may have ended."""
        HeldContainer.take_over(self._id, self._bundle, facts, -1, spec=self._spec()).run_late_hooks(kind)
        return {}, []

    def _spec(self) -> dict[str, Any]:
        fd = os.open(f"{self._bundle}/config.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        return parse_json(data, f"create task {self._id}: config.json")

    def _create(self, spec: dict[str, Any], stdio: Stdio) -> HeldContainer | ExternalContainer:
        flags = {
            "no_pivot": self._options.get("no_pivot_root", False),
            "no_new_keyring": self._options.get("no_new_keyring", False),
            "systemd_cgroup": self._options.get("systemd_cgroup", False),
        }
        binary = self._options.get("binary_name", "")
        if binary:
            root = f"{self._options.get('root') or '/run/portside/runtime'}/{self._namespace}"
            return ExternalContainer.create(self._id, self._bundle, stdio, binary=binary, root=root, **flags)
        made = HeldContainer.create(
            self._id, self._bundle, spec, stdio, rootfs_fd=self._rootfs.fd, rootfs=self._rootfs.path,
            cache_dir=self._cache_dir, **flags,
        )  # fmt: skip
        assert isinstance(made, HeldContainer)
        return made


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
