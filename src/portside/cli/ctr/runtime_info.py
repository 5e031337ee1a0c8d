"""What a runtime tells of itself: ``Introspection.PluginInfo`` of the plugin that has tasks run."""

from __future__ import annotations

import json
from typing import Any

from portside.cli.ctr.command import Session
from portside.client.messages import document
from portside.convert.basics import any_to_pb
from portside.core.anymessage import AnyMessage
from portside.remote.caller import Caller
from portside.wire.pb.containerd.services.introspection.v1 import introspection_pb2 as pb
from portside.wire.pb.containerd.types import introspection_pb2 as types
from portside.wire.pb.google.protobuf import any_pb2

SERVICE = "containerd.services.introspection.v1.Introspection"


async def runtime_info(session: Session, runtime: str, options: AnyMessage | None) -> dict[str, Any]:
    """As ``ctr plugins inspect-runtime`` shows it; Unimplemented by servers before containerd 2.0."""
    wanted = types.RuntimeRequest(runtime_path=runtime, options=any_to_pb(options))
    request = pb.PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
    request.options.type_url = types.RuntimeRequest.DESCRIPTOR.full_name
    request.options.value = wanted.SerializeToString()
    caller = Caller(session.backend.channel, SERVICE, session.namespace)
    response = await caller.call("PluginInfo", request, pb.PluginInfoResponse)
    found = types.RuntimeInfo.FromString(response.extra.value)
    version = {"Version": found.version.version, "Revision": found.version.revision}
    return {
        "Name": found.name, "Version": version, "Options": _any(found.options), "Features": _any(found.features),
        "Annotations": dict(sorted(found.annotations.items())) or None,
    }  # fmt: skip


def _any(message: any_pb2.Any) -> Any:
    """JSON where it is some; else the message's own fields, if we know its kind."""
    if not message.type_url:
        return None
    try:
        return json.loads(message.value)
    except ValueError:
        pass
    kind = message.type_url.rpartition("/")[2]
    if kind == "containerd.runc.v1.Options":
        from portside.wire.pb.containerd.types.runc.options import oci_pb2

        return document(oci_pb2.Options.FromString(message.value))
    return {"type_url": message.type_url}
