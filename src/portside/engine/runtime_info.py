"""What a runtime tells of itself: Introspection.PluginInfo of the plugin that has tasks run.

Of our own runtime we tell it; an OCI runtime behind our shim (the option ``BinaryName``) is asked by its command
``features``, a shim of somebody else by ``-info`` with the options on its standard input, as containerd does it. A
program's answer is kept until the program changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import OrderedDict

from portside.core.anymessage import RUNC_OPTIONS, AnyMessage
from portside.core.containers import RUNTIMES
from portside.core.work import in_thread
from portside.engine.programs import read_all, start, words, write_all
from portside.engine.shim_fields import any_fields
from portside.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, PortsideError, from_oserror
from portside.supervisor.binaries import resolve
from portside.version import __version__
from portside.wire.codec import decode, encode
from portside.wire.tables import containerd_runc_v1, containerd_types, google_protobuf

REQUEST = "containerd.types.RuntimeRequest"
INFO = "containerd.types.RuntimeInfo"
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
TIMEOUT = 5.0
"""Seconds for a program to tell what it is."""
MAX_ANSWER = 1 << 20
"""Bytes of what it tells."""
MAX_KEPT = 64
"""Answers that are kept."""

_Key = tuple[str, int, int, int, bytes]


class RuntimeInformer:
    """Asks, and remembers."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, bytes] = OrderedDict()

    async def __call__(self, options: AnyMessage) -> AnyMessage:
        """The RuntimeInfo for a RuntimeRequest. InvalidArgument for anything else; NotFound for a missing program."""
        if options.type_name != REQUEST:
            raise InvalidArgument(f"information on runtimes: options of type {options.type_name[:200]}, want {REQUEST}")
        request = decode(containerd_types.RuntimeRequest, options.value)
        runtime, given = request["runtime_path"], request["options"]
        chosen = AnyMessage(given["type_url"], given["value"]) if given is not None and given["type_url"] else None
        if not runtime:
            raise InvalidArgument("information on runtimes: the request names none")
        if runtime in RUNTIMES:
            return AnyMessage(INFO, await self._ours(runtime, chosen))
        path = await in_thread(resolve, runtime)
        return AnyMessage(INFO, await self._shim(path, chosen))

    async def _ours(self, runtime: str, options: AnyMessage | None) -> bytes:
        from portside.engine.runtime_features import features  # Seldom asked for, and it takes the runtime's modules.

        binary = ""
        if options is not None:
            if options.type_name != RUNC_OPTIONS:
                raise InvalidArgument(f"runtime {runtime}: options of type {options.type_name[:200]}")
            binary = decode(containerd_runc_v1.Options, options.value)["binary_name"]
        document = await self._features(binary) if binary else json.dumps(features()).encode()
        info = {
            "name": runtime,
            "version": {"version": __version__},
            "features": {"type_url": FEATURES, "value": document},
        }
        if options is not None:
            info["options"] = any_fields(options)
        return encode(containerd_types.RuntimeInfo, info)

    async def _features(self, binary: str) -> bytes:
        path = binary if binary.startswith("/") else await in_thread(shutil.which, binary)
        if path is None:
            raise NotFound(f"runtime {binary[:200]}: it is not installed")
        document = await self._ask(path, ["features"], b"")
        try:
            json.loads(document)
        except ValueError as error:
            raise FailedPrecondition(f"runtime {path}: its features are not JSON") from error
        return document

    async def _shim(self, path: str, options: AnyMessage | None) -> bytes:
        given = b""
        if options is not None:
            given = encode(google_protobuf.Any, any_fields(options))
        answer = await self._ask(path, ["-info"], given)
        try:
            decode(containerd_types.RuntimeInfo, answer)
        except PortsideError as error:
            raise FailedPrecondition(f"runtime {path}: what it tells with -info cannot be read: {error}") from error
        return answer

    async def _ask(self, path: str, arguments: list[str], given: bytes) -> bytes:
        try:
            status = await in_thread(os.stat, path)
        except OSError as error:
            raise from_oserror(error, f"runtime {path[:200]}") from error
        key = (
            path,
            status.st_ino,
            status.st_mtime_ns,
            status.st_size,
            b"\0".join([*map(str.encode, arguments), given]),
        )
        if key not in self._known:
            self._known[key] = await _run(path, arguments, given)
            while len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


async def _run(path: str, arguments: list[str], given: bytes) -> bytes:
    """What the program writes; its own words if it fails. It does not outlive its time, nor do its children."""
    what = f"runtime {path} {' '.join(arguments)}"
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    theirs = {0: pipes[0][0], 1: pipes[1][1], 2: pipes[2][1]}
    ours = (pipes[0][1], pipes[1][0], pipes[2][0])
    try:
        program = start(what, [path, *arguments], {"PATH": os.environ.get("PATH", os.defpath)}, theirs)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs.values():
            os.close(fd)
    try:
        async with asyncio.timeout(TIMEOUT):
            _, out, said, status = await asyncio.gather(
                write_all(ours[0], given), read_all(ours[1], MAX_ANSWER), read_all(ours[2]), program.wait()
            )
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what}: no answer in {TIMEOUT:.0f} s") from error
    finally:
        await program.end()
    if status or len(out) > MAX_ANSWER:
        raise FailedPrecondition(f"{what}: {words(said) or f'status {status}, {len(out)} bytes'}")
    return out
