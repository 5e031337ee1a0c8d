"""Starting layer workers and talking to them; the other end of ``worker.py``.

A worker is exec'ed with an interpreter that looks at nothing of its environment, gets the descriptors it needs and no
others, and is killed when its caller gives up. As many run at once as are asked for: bounding them is the caller's
part.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portside import errors
from portside.layers.unpack import Whiteouts

_WORKER = Path(__file__).with_name("worker.py")
_MAX_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True)
class Applied:
    """What a worker made of a layer; ``diff_id`` and ``size`` are those of the uncompressed tar."""

    diff_id: str
    size: int
    compression: str
    entries: int
    whiteouts: int
    ignored: int
    bytes: int
    not_isolated: tuple[str, ...] = ()


async def apply_layer(
    layer: str, media_type: str, blob: int, root: int,
    *, lowers: Sequence[int] = (), whiteouts: str = Whiteouts.DELETE, devices: bool = True, isolate: bool = True,
) -> Applied:  # fmt: skip
    """Unpack the layer that ``blob`` (a descriptor: a file, read from its start, or a pipe) holds below ``root``.

    All descriptors stay the caller's. ``layer`` names it in errors: ``apply layer sha256:…: entry "…": …``.
    InvalidArgument for a layer that is malformed or leaves the root, DataLoss for one that ends early,
    Unimplemented for a media type that is no layer, and what the kernel says (ResourceExhausted for a full disk).
    """
    answer = await run_worker(
        f"apply layer {layer}",
        {"task": "apply", "blob": blob, "root": root, "lowers": list(lowers), "media_type": media_type,
         "whiteouts": whiteouts, "devices": devices, "isolate": isolate},
        (blob, root, *lowers),
    )  # fmt: skip
    answer["not_isolated"] = tuple(answer["not_isolated"])
    return Applied(**answer)


@dataclass(frozen=True, slots=True)
class Compared:
    """A layer that a worker wrote: ``digest`` and ``size`` as written, ``diff_id`` and ``diff_size`` uncompressed."""

    digest: str
    size: int
    diff_id: str
    diff_size: int
    entries: int
    not_isolated: tuple[str, ...] = ()


async def compare_trees(
    lower: Sequence[int], upper: Sequence[int], out: int,
    *, compression: str, epoch_ns: int | None = None, isolate: bool = True,
) -> Compared:  # fmt: skip
    """Write what the stack of directories ``upper`` changes over ``lower`` (descriptors, top first) to ``out`` as a
    layer.

    All descriptors stay the caller's; who reads from ``out`` must do so meanwhile. FailedPrecondition for snapshots
    with renamed directories (``redirect_dir``).
    """
    answer = await run_worker(
        "compare snapshots",
        {"task": "compare", "lower": list(lower), "upper": list(upper), "out": out, "compression": compression,
         "epoch_ns": epoch_ns, "isolate": isolate},
        (*lower, *upper, out),
    )  # fmt: skip
    answer["not_isolated"] = tuple(answer["not_isolated"])
    return Compared(**answer)


async def run_worker(step: str, job: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """One job in a worker of its own; its answer, or its error with ``step`` before it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-E", str(_WORKER), _module_path(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(fds), env={}, cwd="/",
    )  # fmt: skip
    try:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        text, complaint = await asyncio.gather(_read(process.stdout), _read(process.stderr))
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
    return _answer(step, text, complaint, status)


async def _read(stream: asyncio.StreamReader) -> bytes:
    """To the end; what is more than ``_MAX_ANSWER`` is thrown away."""
    kept = b""
    while data := await stream.read(1 << 16):
        kept += data[: _MAX_ANSWER - len(kept)]
    return kept


def _answer(step: str, text: bytes, complaint: bytes, status: int) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise errors.Internal(f"{step}: the worker ended with status {status}: {last[:500]}") from None
    if not isinstance(answer, dict):
        raise errors.Internal(f"{step}: the worker's answer is not an object")
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, errors.PortsideError)):
            kind = errors.Internal
        raise kind(f"{step}: {answer.get('message', '')}")
    return answer


def _module_path() -> str:
    """Where our package and the decompressors lie; the standard library's own directories come before them."""
    directories = [str(Path(__file__).parents[2])]
    for name in ("isal", "zstandard"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            directories.append(str(Path(spec.origin).parents[1]))
    return ":".join(dict.fromkeys(directories))
