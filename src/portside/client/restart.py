"""Restart policies: what is written on a container so that a restart monitor, ours or containerd's, brings it up again.

The labels are containerd's (core/runtime/restart). Policies read as docker's: ``no``, ``always``, ``on-failure``,
``on-failure:3``, ``unless-stopped``. The policy holds while the status is ``running``: from a start (``release``) until
somebody stops the container on purpose, who says so first (``hold``), or begins to start it anew. The monitor itself is
in ``engine/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from portside.core.containers import Container
from portside.core.labels import RESTART_COUNT, RESTART_LOG, RESTART_POLICY, RESTART_STATUS, RESTART_STOPPED
from portside.core.services import Services
from portside.errors import InvalidArgument

NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED = "no", "always", "on-failure", "unless-stopped"
POLICIES = (NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED)
RUNNING, STOPPED, CREATED = "running", "stopped", "created"
"""Values of the status; what is ``created`` no monitor touches, ours or containerd's."""
_MAX_RETRIES = 1 << 31


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a container that has ended is started again."""

    name: str = NO
    retries: int = 0
    """Under ``on-failure``: how often at most; 0: no limit."""

    @classmethod
    def parse(cls, text: str) -> RestartPolicy:
        """``on-failure:3`` and the like; empty is ``no``; InvalidArgument."""
        name, colon, number = text.partition(":")
        name = name or NO
        if name not in POLICIES:
            raise InvalidArgument(
                f"restart policy {text[:80]!r}: want no, always, on-failure[:COUNT] or unless-stopped"
            )
        if colon and name != ON_FAILURE:
            raise InvalidArgument(f"restart policy {text[:80]!r}: only on-failure takes a count")
        if colon and not (number.isascii() and number.isdigit() and int(number[:12]) < _MAX_RETRIES):
            raise InvalidArgument(f"restart policy {text[:80]!r}: the count must be a number from 0 on")
        return cls(name, int(number) if colon else 0)

    def __str__(self) -> str:
        return f"{self.name}:{self.retries}" if self.retries else self.name


def policy_of(labels: Mapping[str, str]) -> RestartPolicy:
    """A container's policy; ``no`` where it has none or one that cannot be read."""
    if not labels.get(RESTART_STATUS):
        return RestartPolicy()
    try:
        return RestartPolicy.parse(labels.get(RESTART_POLICY) or ALWAYS)
    except InvalidArgument:
        return RestartPolicy()


def count_of(labels: Mapping[str, str]) -> int:
    """How often it has been started again since somebody started it."""
    text = labels.get(RESTART_COUNT, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def restart_labels(policy: RestartPolicy, log_uri: str) -> dict[str, str]:
    """For a container that is made: none for ``no``. From its first start on the policy holds (``release``)."""
    if policy.name == NO:
        return {}
    return {RESTART_STATUS: CREATED, RESTART_POLICY: str(policy), RESTART_LOG: log_uri}


async def set_policy(services: Services, container: Container, policy: RestartPolicy, log_uri: str = "") -> Container:
    """Change the policy of a container that is there, as ``docker update --restart`` does; the record as it is then.

    ``log_uri`` is where the output goes after a restart; empty: what its label says.
    """
    if policy.name == NO:
        wanted = dict.fromkeys((RESTART_STATUS, RESTART_POLICY, RESTART_COUNT, RESTART_LOG, RESTART_STOPPED), "")
    else:
        status = container.labels.get(RESTART_STATUS) or RUNNING
        wanted = {RESTART_STATUS: status, RESTART_POLICY: str(policy), RESTART_COUNT: ""}
        if log_uri:
            wanted[RESTART_LOG] = log_uri
    return await relabel(services, container, wanted)


async def hold(services: Services, container: Container) -> None:
    """Say that it is stopped on purpose, before it is; nothing for a container without a policy. NotFound."""
    current = await services.containers.get(container.id)  # the caller's may be from before its start
    if current.labels.get(RESTART_STATUS):
        await relabel(services, current, {RESTART_STATUS: CREATED, RESTART_STOPPED: "true"})


async def suspend(services: Services, container: Container) -> Container:
    """Say that somebody is about to start it, so that no monitor does; the record as it is then."""
    if not container.labels.get(RESTART_STATUS):
        return container
    current = await services.containers.get(container.id)
    return await relabel(services, current, {RESTART_STATUS: CREATED})


async def release(services: Services, container: Container) -> None:
    """Say that somebody has started it: its policy holds, from a count of 0; nothing for one without a policy."""
    if container.labels.get(RESTART_STATUS):
        current = await services.containers.get(container.id)
        await relabel(services, current, {RESTART_STATUS: RUNNING, RESTART_STOPPED: "", RESTART_COUNT: ""})


async def relabel(services: Services, container: Container, wanted: Mapping[str, str]) -> Container:
    """Set labels where they differ; an empty value removes one."""
    changed = {key: value for key, value in wanted.items() if container.labels.get(key, "") != value}
    if not changed:
        return container
    return await services.containers.update(replace(container, labels=changed), [f"labels.{key}" for key in changed])
