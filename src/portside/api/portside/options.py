"""A RunRequest as the options of the verb ``run``."""

from __future__ import annotations

import shlex

from portside.client.run_options import RunOptions, Volume, security_options
from portside.errors import InvalidArgument
from portside.wire.pb.portside.services.engine.v1 import engine_pb2 as pb


def run_options(request: pb.RunRequest) -> RunOptions:
    """InvalidArgument for what does not parse."""
    security = security_options(request.security_options)
    return RunOptions(
        args=tuple(request.args),
        entrypoint=request.entrypoint or None,
        name=request.name,
        env=tuple(request.env),
        cwd=request.workdir,
        user=request.user,
        tty=request.streams.terminal,
        console_size=(request.streams.width, request.streams.height),
        hostname=request.hostname,
        volumes=tuple(Volume.parse(text) for text in request.volumes),
        tmpfs=tuple(request.tmpfs),
        network=request.network or "none",
        privileged=request.privileged,
        read_only=request.read_only,
        cap_add=tuple(request.cap_add),
        cap_drop=tuple(request.cap_drop),
        labels=dict(_label(text) for text in request.labels),
        memory=request.memory,
        cpus=request.cpus,
        pids=request.pids_limit,
        stop_signal=request.stop_signal,
        restart=request.restart,
        snapshotter=request.snapshotter,
        runtime_binary=request.runtime_binary,
        seccomp=security.get("seccomp", True),
        no_new_privileges=security.get("no_new_privileges", True),
    )


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key:
        raise InvalidArgument(f"label {shlex.quote(text[:80])}: want KEY=VALUE")
    return key, value
