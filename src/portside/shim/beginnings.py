"""How a container, its first process and those of exec begin: ours heard by the loop, an external runtime's in a child.

The one place that knows the two ways apart; the task (``task.py``) gets the same answer from both, once: what is there
now, or why it is not. Nothing is left of what could not begin. What a beginning means for the task, and its hooks after
the start, do not belong here.
"""

from __future__ import annotations

from portside.errors import PortsideError
from portside.shim.conversation import Conversation
from portside.shim.external import ExternalContainer
from portside.shim.held import HeldContainer
from portside.shim.maker import no_undo, nothing_made
from portside.shim.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from portside.shim.recipe import Recipe
    from portside.shim.shared import Outcome, Shim
    from portside.shim.stdio import Streams

    Container = HeldContainer | ExternalContainer


class Begun:
    """A process that is there, and of a container's first one what else the task keeps. Descriptors are the taker's."""

    __slots__ = ("console", "container", "facts", "pid", "pidfd")

    def __init__(
        self,
        pid: int,
        pidfd: int,
        console: int,
        container: Container | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console
        """A terminal's master, or -1."""
        self.container = container
        self.facts = facts if facts is not None else {}
        """What ``take_over`` and the task need, without descriptors; see ``Recipe``."""


def create(
    shim: Shim, recipe: Recipe, streams: Streams, rootfs: Rootfs, done: Callable[[Begun | PortsideError], None]
) -> None:
    """Make a container up to the point before execve, its root in ``rootfs``. PortsideError, OSError: at once."""
    if recipe.is_external:
        _create_externally(shim, recipe, streams, rootfs, done)
        return
    container, creation, facts = recipe.begin_create(streams, rootfs)

    def made(error: PortsideError | None) -> None:
        if error is not None:
            rootfs.unmount()
            done(error)
            return
        init = container.init
        done(Begun(init.pid, init.pidfd, init.console, container, {**facts, **container.facts()}))

    Conversation(shim, creation, _no_listener, made)


def _create_externally(
    shim: Shim, recipe: Recipe, streams: Streams, rootfs: Rootfs, done: Callable[[Begun | PortsideError], None]
) -> None:
    its_rootfs = Rootfs()

    def made(outcome: Outcome) -> None:
        if isinstance(outcome, PortsideError):
            done(outcome)
            return
        facts, (pidfd, *console) = outcome
        rootfs.take_over(facts["rootfs"], [])
        container = ExternalContainer.take_over(recipe.id, recipe.bundle, facts)
        done(Begun(facts["pid"], pidfd, console[0] if console else -1, container, facts))

    shim.make(lambda: recipe.create_externally(streams, its_rootfs), lambda: recipe.undo(its_rootfs), made)


def start(shim: Shim, recipe: Recipe, container: Container, done: Callable[[PortsideError | None], None]) -> None:
    """Let a container's first process go; ``done`` when it has become its program or ended, or with why it could not.

    OSError: at once; one of ours may have been let go all the same.
    """
    if not isinstance(container, HeldContainer):
        shim.make(lambda: nothing_made(container.start), no_undo, lambda outcome: done(_error_of(outcome)))
        return

    def hand_over(listener: int) -> None:
        recipe.complete(container)
        container.hand_listener_over(listener, container.init.pid)

    Conversation(shim, container.begin_start(), hand_over, done)


def execute(
    shim: Shim, recipe: Recipe, container: Container, facts: Mapping[str, Any], process: bytes, streams: Streams,
    done: Callable[[Begun | PortsideError], None],
) -> None:  # fmt: skip
    """Run one more ``process`` (runtime-spec, JSON) in a container. PortsideError, OSError: at once."""
    if not isinstance(container, HeldContainer):

        def made(outcome: Outcome) -> None:
            if isinstance(outcome, PortsideError):
                done(outcome)
            else:
                found, (pidfd, *console) = outcome
                done(Begun(found["pid"], pidfd, console[0] if console else -1))

        shim.make(lambda: recipe.exec_externally(facts, process, streams), no_undo, made)
        return
    execution = recipe.begin_exec(container, process, streams)

    def executed(error: PortsideError | None) -> None:
        if error is not None:
            done(error)
        else:
            done(Begun(execution.process.pid, execution.process.pidfd, execution.process.console))

    Conversation(shim, execution, execution.hand_over, executed)


def _error_of(outcome: Outcome) -> PortsideError | None:
    return outcome if isinstance(outcome, PortsideError) else None


def _no_listener(_fd: int) -> None:
    """A container's first process installs its filter after START."""
