"""Protocol messages as plain JSON: numbers stay numbers, what is not a number is null, names are those of the proto."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def to_plain(message: Message) -> dict[str, Any]:
    """Every field of a message; a message in it that is absent is None."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def finite(value: float) -> float | None:
    """A number as JSON can say it."""
    return value if math.isfinite(value) else None


def schema_of(descriptor: Descriptor, name: str = "") -> dict[str, dict[str, Any]]:
    """JSON schemas of what `to_plain` makes of messages of this type and of those in it, by name."""
    properties: dict[str, Any] = {}
    schemas: dict[str, dict[str, Any]] = {name or descriptor.name: {"type": "object", "properties": properties}}
    for field in descriptor.fields:
        if _is_map(field):
            properties[field.name] = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
            continue
        inner: dict[str, Any]
        if field.message_type:
            schemas |= schema_of(field.message_type)
            inner = {"$ref": f"#/components/schemas/{field.message_type.name}"}
            inner = inner if field.is_repeated else {"anyOf": [inner, {"type": "null"}]}
        else:
            inner = {"type": _type(field)}
        properties[field.name] = {"type": "array", "items": inner} if field.is_repeated else inner
    schemas[name or descriptor.name] |= {"required": list(properties), "additionalProperties": False}
    return schemas


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if _is_map(field):
        return {key: finite(number) for key, number in sorted(value.items())}
    if field.message_type:
        if field.is_repeated:
            return [to_plain(each) for each in value]
        return to_plain(value) if message.HasField(field.name) else None
    if field.is_repeated:
        return list(value)
    return finite(value) if field.cpp_type in _FLOATS else value


def _is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _type(field: Any) -> Any:
    if field.cpp_type in _FLOATS:
        return ["number", "null"]
    return "string" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else "integer"
