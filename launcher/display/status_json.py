"""The Status message as scripts want it: `edl status --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message


def status_values(message: Message) -> dict[str, Any]:
    """A message as values that JSON has: every field, numbers as numbers, null for what is not known."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        is_message = hasattr(value, "DESCRIPTOR")
        values[field.name] = None if is_message and not message.HasField(field.name) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return status_values(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
