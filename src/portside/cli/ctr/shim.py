"""``ctr shim``: the task service of a shim, over ttrpc, without the server in between (runtime v2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from portside.cli.ctr.command import Session, offline
from portside.cli.ctr.foreground import copy_out
from portside.cli.ctr.grammar import Flag, Values, integer
from portside.cli.ctr.shim_socket import candidates
from portside.cli.ctr.spec import json_object
from portside.cli.ctr.text import print_json
from portside.cli.options import Option, UsageError
from portside.core.anymessage import PROCESS
from portside.errors import PortsideError, Unavailable, Unimplemented
from portside.wire.pb.containerd.runtime.task.v2 import shim_pb2 as pb
from portside.wire.ttrpc.client import TtrpcClient

_TIMEOUT = 120.0
_VERSIONS = (3, 2)
_VERSION = integer("--api-version", "2 or 3; default: what the shim has", 0)


class _Shim:
    """A connected shim; both versions of its service have the same messages."""

    def __init__(self, client: TtrpcClient, namespace: str, version: int) -> None:
        self._client = client
        self._metadata = {"containerd-namespace-ttrpc": namespace}
        self._versions = (version,) if version else _VERSIONS

    async def call(self, method: str, request: Any, answer: type[Any] | None = None) -> Any:
        """One call; Unimplemented only if no version of the service that was asked for has it."""
        payload, failure = request.SerializeToString(), None
        for version in self._versions:
            service = f"containerd.task.v{version}.Task"
            try:
                data = await self._client.call(service, method, payload, timeout=_TIMEOUT, metadata=self._metadata)
            except Unimplemented as error:
                failure = error
                continue
            return answer.FromString(data) if answer is not None else None
        assert failure is not None
        raise failure


@asynccontextmanager
async def _connected(session: Session, values: Values) -> AsyncIterator[_Shim]:
    version = values.get("api_version", 0)
    if version not in (0, *_VERSIONS):
        raise UsageError("--api-version must be 2 or 3")
    client, tried = None, candidates(session, values)
    for path in tried:
        try:
            client = await TtrpcClient.connect(path)
            break
        except PortsideError:
            continue
    if client is None:
        raise Unavailable(f"shim: nobody answers at {', '.join(tried)}")
    try:
        yield _Shim(client, session.namespace, version)
    finally:
        await client.close()


@offline("[CONTAINER]")
async def start(session: Session, values: Values, words: Sequence[str]) -> None:
    """The task of the container, by default the one that the shim is called after."""
    async with _connected(session, values) as shim:
        await shim.call("Start", pb.StartRequest(id=_id(values, words)), pb.StartResponse)


def _id(values: Values, words: Sequence[str]) -> str:
    found: str = words[0] if words else values["id"]
    if not found:
        raise UsageError("want the container's id")
    return found


@offline("[CONTAINER]")
async def delete(session: Session, values: Values, words: Sequence[str]) -> None:
    """Prints how it had ended."""
    async with _connected(session, values) as shim:
        found = await shim.call("Delete", pb.DeleteRequest(id=_id(values, words)), pb.DeleteResponse)
    print(f"container deleted and returned exit status {found.exit_status}")


@offline(
    "", Flag("--task-id", "-t", value="ID", help="the task, by default the one that the shim is called after"), _VERSION
)
async def state(session: Session, values: Values, words: Sequence[str]) -> None:
    """As JSON, fields without a value left out."""
    async with _connected(session, values) as shim:
        task = values["task_id"] or values["id"]
        found = await shim.call("State", pb.StateRequest(id=task), pb.StateResponse)
    document: dict[str, Any] = {
        "id": found.id, "bundle": found.bundle, "pid": found.pid, "status": int(found.status), "stdin": found.stdin,
        "stdout": found.stdout, "stderr": found.stderr, "terminal": found.terminal, "exit_status": found.exit_status,
    }  # fmt: skip
    if found.HasField("exited_at"):
        moment = {"seconds": found.exited_at.seconds, "nanos": found.exited_at.nanos}
        document["exited_at"] = {key: value for key, value in moment.items() if value}
    document["exec_id"] = found.exec_id
    print_json({key: value for key, value in document.items() if value or value == {}})


@offline("", _VERSION)
async def shutdown(session: Session, values: Values, words: Sequence[str]) -> None:
    """It goes if it has no task."""
    async with _connected(session, values) as shim:
        await shim.call("Shutdown", pb.ShutdownRequest())


@offline(
    "EXEC",
    Flag("--stdin", value="FIFO", help="where its input comes from"),
    Flag("--stdout", value="FIFO", help="where its output goes"),
    Flag("--stderr", value="FIFO", help="where its errors go"),
    Option("-t", "--tty", help="with a terminal"),
    Option("-a", "--attach", help="print what it writes, until it has ended"),
    Flag("--env", "-e", value="NAME=VALUE", many=True, help="a variable more"),
    Flag("--cwd", value="DIR", help="working directory"),
    Flag("--spec", value="FILE", help="the process, as in runtime-spec"),
)
async def exec_(session: Session, values: Values, words: Sequence[str]) -> None:
    """In the task that the shim is called after. Prints its pid; fifos that are not there are made."""
    if not values["spec"] or not values["id"]:
        raise UsageError("want --spec, and the shim's --id")
    spec = _process(values)
    outputs = _open_fifos(values)
    try:
        async with _connected(session, values) as shim:
            request = pb.ExecProcessRequest(
                id=values["id"], exec_id=words[0], terminal=values["tty"],
                stdin=values["stdin"], stdout=values["stdout"], stderr=values["stderr"],
            )  # fmt: skip
            request.spec.type_url, request.spec.value = PROCESS, spec
            await shim.call("Exec", request)
            started = pb.StartRequest(id=values["id"], exec_id=words[0])
            print(f"exec running with pid {(await shim.call('Start', started, pb.StartResponse)).pid}", flush=True)
            if values["attach"]:
                copying = asyncio.ensure_future(copy_out(outputs))
                waiting = pb.WaitRequest(id=values["id"], exec_id=words[0])
                await shim.call("Wait", waiting, pb.WaitResponse)
                await copying
    finally:
        for fd in outputs:
            os.close(fd)


def _open_fifos(values: Values) -> dict[int, int]:
    """Makes what is not there; the reading ends of those for output, with our descriptor that each goes to."""
    for path in (values["stdin"], values["stdout"], values["stderr"]):
        if path and not os.path.exists(path):
            os.mkfifo(path, 0o700)
    return {
        os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC): target
        for path, target in ((values["stdout"], 1), ("" if values["tty"] else values["stderr"], 2))
        if path
    }


def _process(values: Values) -> bytes:
    import json

    process = json_object(values["spec"])
    if values["env"]:
        process["env"] = [*(process.get("env") or []), *values["env"]]
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    process["terminal"] = values["tty"]
    return json.dumps(process).encode()
