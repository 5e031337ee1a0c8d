"""``run`` and ``exec`` share this: ask for a process with our streams, follow it, leave with its status."""

from __future__ import annotations

import os
import sys

from portside.cli.attach import Outputs, Session, Terminal, window_size
from portside.cli.door import Door
from portside.client.fifos import Fifos, fifo_directory
from portside.errors import PortsideError
from portside.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.cli.main import Context


PATIENCE = 2
"""How often Ctrl-C is handed on before it ends us."""


def attached(context: Context, method: str, request: dict[str, Any], *, stdin: bool, terminal: bool) -> int:
    """Start the process that ``request`` describes and stay with it; its exit status."""
    if terminal and stdin and not os.isatty(0):
        raise PortsideError("the input is not a terminal; leave -t away")
    fifos = Fifos(fifo_directory(), stdin=stdin, terminal=terminal)
    outputs, raw = None, None
    try:
        outputs = Outputs(fifos)
        request["streams"] = {
            "stdin": fifos.stdin, "stdout": fifos.stdout, "stderr": fifos.stderr, "terminal": terminal,
            **dict(zip(("width", "height"), window_size(), strict=True)),
        }  # fmt: skip
        with Door(context) as door:
            follower = _Follower(context, remove=bool(request.get("remove")))
            stream = door.stream(method, request)
            raw = Terminal(0) if terminal and os.isatty(0) else None
            session = Session(
                fifos.stdin,
                outputs,
                stream,
                on_event=follower.event,
                on_signal=follower.signal,
                on_resize=follower.resize if terminal else None,
                on_stdin_end=follower.stdin_end,
                on_unheard=follower.unheard,
            )
            status = session.run()
        if status is None:
            raise PortsideError(f"container {follower.container}: the daemon went away; the container goes on")
        return status
    finally:
        if raw is not None:
            raw.close()
        if outputs is not None:
            outputs.close()
        fifos.remove()


class _Follower:
    """What happens to an attached process, and what we ask the daemon meanwhile, on a connection of its own."""

    def __init__(self, context: Context, *, remove: bool) -> None:
        self._context, self._remove = context, remove
        self._interrupts = 0
        self.container = self.exec = ""
        self._pulling = False
        self._waiting: list[int] = []

    def event(self, event: Mapping[str, Any]) -> None:
        """Remember who it is; show progress of a pull, and why nothing was started."""
        if (exited := event.get("exited")) and exited["error"]:
            print(f"portside: {exited['error']}", file=sys.stderr)
        if started := event.get("started"):
            self.container, self.exec = started["container"], started["exec"]
            for number in self._waiting:
                self.signal(number)
        elif (progress := event.get("progress")) and progress["stage"] == "resolving":
            print(f"{progress['object']}: not here, pulling", file=sys.stderr)
        self._pulling = bool(event.get("progress"))

    def signal(self, number: int) -> None:
        """Hand a signal on; before the start is known it waits for that. A second one, or one in a pull, ends us.

        So does the third Ctrl-C at a terminal: a container's first process does not hear it unless it has a handler.
        """
        self._interrupts += number == signals.SIGINT and os.isatty(0)
        if self.container and self._interrupts > PATIENCE:
            short = self.container[:12]
            how = f"the command goes on in container {short}" if self.exec else f"to end it: portside rm -f {short}"
            print(f"\nportside: Ctrl-C is not heard; {how}", file=sys.stderr)
            raise KeyboardInterrupt
        if self.container:
            self._ask("Kill", signal=str(number))
        elif self._pulling or self._waiting:
            raise KeyboardInterrupt
        else:
            self._waiting.append(number)

    def resize(self) -> None:
        """Tell the new size."""
        width, height = window_size()
        self._ask("Resize", width=width, height=height)

    def stdin_end(self) -> None:
        """Our input has ended, so must the container's."""
        self._ask("CloseStdin")

    def unheard(self) -> bool:
        """Whoever read our output has gone (``| head -1``); whether the process ends of it.

        In a pipe of a shell a program dies of SIGPIPE at its next write, and so that nothing runs for ever by accident
        ours does, too: an exec gets that signal. A container's first process is deaf to it, and is killed if it was to
        go when it ends (``--rm``); one that was to stay goes on as with docker, and its log has the output.
        """
        try:
            with Door(self._context) as door:
                if self.exec or self._remove:
                    number = signals.SIGPIPE if self.exec else signals.SIGKILL
                    fields = {"container": self.container, "exec": self.exec, "signal": str(int(number))}
                    door.call("Kill", fields, timeout=10)
                    return not self.exec
        except PortsideError:
            return False  # it has ended
        short = self.container[:12]
        try:
            print(
                f"portside: nobody reads the output; to end container {short}: portside rm -f {short}", file=sys.stderr
            )
        except BrokenPipeError:
            pass  # nor what we say
        return False

    def _ask(self, method: str, **fields: Any) -> None:
        if not self.container:
            return
        try:
            with Door(self._context) as door:
                door.call(method, {"container": self.container, "exec": self.exec, **fields}, timeout=10)
        except PortsideError as error:
            print(f"portside: {error}", file=sys.stderr)
