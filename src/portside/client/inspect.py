"""Inspect: all there is to know about a container or an image, as one JSON-able document."""

from __future__ import annotations

import json
import time
from typing import Any

from portside.client.closure import config_of, manifest_of, walk
from portside.client.images import image_id
from portside.client.list import summarize
from portside.client.lookup import find_container, find_image
from portside.client.restart import count_of, policy_of
from portside.core.services import Services
from portside.errors import InvalidArgument, NotFound


async def inspect(services: Services, text: str, kind: str = "") -> dict[str, Any]:
    """Of the container, else of the image that ``text`` names; ``kind`` (container, image) asks for one only."""
    if kind not in ("", "container", "image"):
        raise InvalidArgument(f"kind {kind[:40]!r}: want container or image")
    if kind != "image":
        try:
            return await inspect_container(services, text)
        except NotFound:
            if kind:
                raise
    return await inspect_image(services, text)


async def inspect_container(services: Services, text: str) -> dict[str, Any]:
    """Record, state and specification."""
    container = await find_container(services, text)
    try:
        process = await services.tasks.get(container.id)
    except NotFound:
        process = None
    summary = summarize(container, process)
    state: dict[str, Any] = {"Status": summary.state, "Pid": summary.pid, "ExitCode": summary.exit_status}
    if summary.exited_ns:
        state["FinishedAt"] = rfc3339(summary.exited_ns)
    return {
        "Id": container.id,
        "Name": summary.name,
        "Created": rfc3339(container.created_ns),
        "Image": container.image,
        "State": state,
        "Labels": dict(container.labels),
        "RestartPolicy": str(policy_of(container.labels)),
        "RestartCount": count_of(container.labels),
        "Runtime": container.runtime,
        "Snapshotter": container.snapshotter,
        "SnapshotKey": container.snapshot_key,
        "SandboxId": container.sandbox_id,
        "Extensions": sorted(container.extensions),
        "Spec": _spec(container.spec.value if container.spec else b""),
    }


async def inspect_image(services: Services, text: str) -> dict[str, Any]:
    """Name, target, and the configuration for this machine's platform if it is here."""
    image = await find_image(services, text)
    document: dict[str, Any] = {
        "Id": await image_id(services, image),
        "Name": image.name,
        "Created": rfc3339(image.created_ns),
        "Target": image.target.to_json(),
        "Labels": dict(image.labels),
        "Size": sum({blob.digest: blob.size async for blob in walk(services, image.target)}.values()),
    }
    try:
        _, manifest = await manifest_of(services, image.target)
        config = await config_of(services, manifest)
    except (NotFound, InvalidArgument):
        return document
    return document | {
        "Platform": str(config.platform),
        "Layers": [layer.to_json() for layer in manifest.layers],
        "DiffIds": list(config.diff_ids),
        "Config": {
            "User": config.user,
            "Env": list(config.env),
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.cmd),
            "WorkingDir": config.working_dir,
            "Labels": dict(config.labels),
            "StopSignal": config.stop_signal,
        },
    }


def rfc3339(time_ns: int) -> str:
    """UTC, with nanoseconds."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanos:09d}Z"


def _spec(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
