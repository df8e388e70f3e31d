"""What the values that a database's driver gives mean: their types, and what of them a tf.Example can hold."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Cell: TypeAlias = int | float | str | bytes | None

_INT64_RANGE = range(-(1 << 63), 1 << 63)
_EPOCH = datetime.datetime(1970, 1, 1)
_EPOCH_DAY = _EPOCH.toordinal()
_MICROSECOND = datetime.timedelta(microseconds=1)

# A subclass stands before its class.
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "float"),
    (str, "text"),
    (decimal.Decimal, "decimal"),
    (datetime.datetime, "timestamp"),
    (datetime.date, "date"),
    (datetime.time, "time"),
    (datetime.timedelta, "interval"),
    (uuid.UUID, "text"),
    (bytes, "blob"),
    (bytearray, "blob"),
    (memoryview, "blob"),
)
_EXACT = dict(_TYPES)
_QUICK: dict[type, Callable[[Any], Cell]] = {
    decimal.Decimal: float,
    datetime.date: lambda day: day.toordinal() - _EPOCH_DAY,
}


def type_name(kind: type) -> str:
    """One of `schema.TYPES` for the class of a value, or "" for what has no place in a tf.Example."""
    return _EXACT.get(kind) or next((name for base, name in _TYPES if issubclass(kind, base)), "")


def plain(value: Any) -> Cell:
    """The value as what a tf.Example holds.

    Whole numbers of more than 64 bits become floats, dates days since 1970, timestamps (UTC where they know no zone),
    times of day and intervals microseconds.

    Raises:
        TypeError: it has no place there.
    """
    if value is None or isinstance(value, (str, bytes, float)):
        return value
    if isinstance(value, int):
        return int(value) if value in _INT64_RANGE else float(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    number = _time(value)
    if number is None:
        kind = type(value).__name__
        raise TypeError(f"a value of type {kind} has no place in a tf.Example; leave it out, or CAST it in the SELECT")
    return number


def plain_all(values: Sequence[Any], kind: type) -> list[Cell]:
    """`plain` of values that are all of one class, or None."""
    convert = _QUICK.get(kind, plain)
    return [None if value is None else convert(value) for value in values]


def _time(value: Any) -> int | None:
    """Days for a date, microseconds for other times; None for what is no time."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return int((value - _EPOCH) // _MICROSECOND)
    if isinstance(value, datetime.date):
        return int((value - _EPOCH.date()).days)
    if isinstance(value, datetime.time):
        return (datetime.datetime.combine(_EPOCH.date(), value.replace(tzinfo=None)) - _EPOCH) // _MICROSECOND
    if isinstance(value, datetime.timedelta):
        return int(value // _MICROSECOND)
    return None


def as_text(value: Any) -> str:
    """The text by which a value is looked up or hashed: a boolean is 1 or 0, as where a database has none.

    Times are in ISO 8601, timestamps with a zone in UTC.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.timezone.utc)
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value)
