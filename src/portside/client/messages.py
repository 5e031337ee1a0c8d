"""Protobuf messages as Go's encoding/json writes their structs: numbers as numbers, nothing for what has no value."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def document(message: Message) -> dict[str, Any]:
    """By the names of the fields; an Any stays what it is: its type and its bytes."""
    fields: dict[str, Any] = {}
    for field, value in message.ListFields():
        if not isinstance(value, str | bytes) and hasattr(value, "__len__"):  # a repeated field or a map
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                kind = field.message_type.fields_by_name["value"]
                fields[field.name] = {str(key): _plain(kind, value[key]) for key in sorted(value)}
            else:
                fields[field.name] = [_plain(field, entry) for entry in value]
        else:
            fields[field.name] = _plain(field, value)
    return fields


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return document(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return value
