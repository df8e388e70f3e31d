"""Rows of a SELECT beside the records made of them, value by value, so that they can be written into a table later.

A row is a JSON list; what JSON does not know is {"TYPE": text}.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

_READ: dict[str, Callable[[Any], Any]] = {
    "decimal": decimal.Decimal,
    "timestamp": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "interval": lambda text: datetime.timedelta(microseconds=int(text)),
    "uuid": uuid.UUID,
    "blob": base64.b64decode,
    "json": str,
}


def encode(row: Sequence[Any]) -> bytes:
    """Raises TypeError for a value that cannot be kept."""
    return _encoder.encode([_structure(value) if isinstance(value, (dict, list)) else value for value in row]).encode()


def decode(record: bytes) -> list[Any]:
    """The row as it was; whole seconds and smaller parts of an interval are kept, its months are days."""
    row: list[Any] = json.loads(record.decode())
    return [_read(value) if isinstance(value, dict) else value for value in row]


def _read(value: dict[str, Any]) -> Any:
    ((kind, text),) = value.items()
    return _READ[kind](text)


def _structure(value: Any) -> dict[str, str]:
    """Of a JSON column, whose objects drivers give as dicts; a list may be an array as well, and is refused."""
    if isinstance(value, list):
        raise TypeError("a list cannot be written back; leave it out, or CAST it")
    return {"json": json.dumps(value)}


def _tagged(value: Any) -> dict[str, str]:
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"timestamp": value.isoformat()}
    if isinstance(value, (datetime.date, datetime.time)):
        return {"time" if isinstance(value, datetime.time) else "date": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {"interval": str(value // datetime.timedelta(microseconds=1))}
    if isinstance(value, uuid.UUID):
        return {"uuid": str(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"blob": base64.b64encode(value).decode()}
    raise TypeError(f"a value of type {type(value).__name__} cannot be written back; leave it out, or CAST it")


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_tagged)
