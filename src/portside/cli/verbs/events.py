"""``portside events``: what happens, as it happens."""

from __future__ import annotations

from portside.cli.options import Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.cli.main import Context

VERB = Verb(
    "events",
    "",
    "Show what happens, as it happens, one JSON document a line.",
    (Option("-f", "--filter", value="FILTER", many=True, help='such as topic~="^/tasks" or namespace==default'),),
)

_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"


def run(context: Context, values: dict[str, Any], arguments: list[str]) -> int:
    """0, when interrupted or when the daemon ends."""
    import json

    from portside.wire import codec
    from portside.wire.grpc.blocking import BlockingChannel
    from portside.wire.tables import containerd_services_events_v1 as events
    from portside.wire.tables import containerd_types as types

    channel = BlockingChannel(context.address)
    request = codec.encode(events.SubscribeRequest, {"filters": values["filter"]})
    try:
        for data in channel.server_stream(_SUBSCRIBE, request):
            print(json.dumps(_document(codec.decode(types.Envelope, data))), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        channel.close()
    return 0


def _document(envelope: Mapping[str, Any]) -> dict[str, Any]:
    from portside.cli.verbs.logs import stamp

    moment = envelope["timestamp"]
    return {
        "time": stamp(moment["seconds"] * 1_000_000_000 + moment["nanos"]) if moment else None,
        "namespace": envelope["namespace"],
        "topic": envelope["topic"],
        "event": _payload(envelope["event"]) if envelope["event"] else None,
    }


def _payload(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event's own fields; of a type that we do not know only its name."""
    from portside.wire import codec
    from portside.wire.tables import containerd_events, containerd_services_images_v1

    name = event["type_url"].rpartition("/")[2]
    for module, package in ((containerd_events, "containerd.events."),
                            (containerd_services_images_v1, "containerd.services.images.v1.")):  # fmt: skip
        table = getattr(module, name.removeprefix(package), None) if name.startswith(package) else None
        if table is not None:
            return {"type": name, **_plain(codec.decode(table, event["value"]))}
    return {"type": name}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
