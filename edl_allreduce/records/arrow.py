"""Arrow tables as features: which type of column becomes which kind of feature, and its values as they are packed.

| column                                  | feature                                                                  |
|-----------------------------------------|--------------------------------------------------------------------------|
| whole numbers, booleans                 | int64                                                                    |
| dates                                   | int64: days since 1970                                                   |
| timestamps, times of day, durations     | int64: microseconds (timestamps: since 1970, UTC)                        |
| floating point numbers, decimals        | float                                                                    |
| text, binary                            | bytes                                                                    |
| dictionaries                            | as their values                                                          |
| lists of the above, of any depth        | all values in a row                                                      |
| structs                                 | a feature for each field, STRUCT.FIELD                                   |

A null gives no feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edl_allreduce.errors import DataError
from edl_allreduce.extras import Later
from edl_allreduce.records.examples import FeatureColumn, frame, varints

pa: Any = Later("pyarrow", "parquet", "Parquet")

Marks = NDArray[np.int64]


def kind_of(dtype: Any) -> str | None:
    """The kind of feature that a type of column becomes, "" for a column of nulls alone; None: it has no place."""
    types = pa.types
    if types.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    if is_list(dtype):
        return kind_of(dtype.value_type)
    if types.is_boolean(dtype) or types.is_integer(dtype) or types.is_temporal(dtype):
        return None if types.is_interval(dtype) else "int64"
    if types.is_floating(dtype) or types.is_decimal(dtype):
        return "float"
    text = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    views = (types.is_string_view, types.is_binary_view)
    if any(is_it(dtype) for is_it in (*text, *views)):
        return "bytes"
    return "" if types.is_null(dtype) else None


def fields_of(schema: Any) -> Iterator[tuple[str, Any]]:
    """Name and type of each column, structs replaced by their fields."""
    for field in schema:
        if pa.types.is_struct(field.type):
            inside = pa.schema([field.type.field(number) for number in range(field.type.num_fields)])
            yield from ((f"{field.name}.{name}", dtype) for name, dtype in fields_of(inside))
        else:
            yield field.name, field.type


def check(path: str, schema: Any) -> None:
    """Raises DataError when columns cannot become features: a type without a place, one name twice, none at all."""
    seen = set()
    for name, dtype in fields_of(schema):
        if kind_of(dtype) is None:
            choose = "'edl convert --columns=…' chooses others"
            raise DataError(
                f"{path}: column {name!r} has the type {dtype}, which has no place in a tf.Example; {choose}"
            )
        if name in seen:
            raise DataError(f"{path}: two columns are named {name!r}")
        seen.add(name)
    if not seen:
        raise DataError(f"{path}: has no column")


def flatten(table: Any) -> Any:
    """The table with structs replaced by their fields."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def is_list(dtype: Any) -> bool:
    """Whether a row may have any number of values."""
    types = pa.types
    return bool(types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype))


def features(table: Any, wanted: Mapping[str, tuple[str, str]] | None = None) -> list[FeatureColumn]:
    """The features of a table's rows.

    Args:
        table: see `flatten`.
        wanted: name and kind of the feature that each column becomes. Whole numbers may become float, and numbers that
            are not in lists their texts as bytes. None: all columns, as they are.

    Raises:
        DataError: a value has no place in a tf.Example.
    """
    wanted = {name: (name, "") for name in table.column_names} if wanted is None else wanted
    made = []
    for name, (feature, given) in wanted.items():
        column = table.column(name)
        kind = kind_of(column.type)
        if kind == "":
            nothing = np.zeros(len(column), np.int64)
            made.append(FeatureColumn(feature, given or "bytes", b"", nothing, nothing, nothing.astype(np.bool_)))
        else:
            assert kind is not None, f"{name}: see `check`"
            try:
                if given == "bytes" != kind:
                    column = column.cast(pa.string())
                made.append(_feature(feature, given or kind, _whole(column)))
            except (DataError, pa.ArrowInvalid) as error:
                raise DataError(f"column {name!r}: {' '.join(str(error).split())}") from None
    return made


def _whole(column: Any) -> Any:
    """A ChunkedArray as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _feature(name: str, kind: str, array: Any) -> FeatureColumn:
    valid = _validity(array)
    rows = None  # of each row the first value's number, and in the end the number of values; None: one value per row
    while is_list(array.type):
        rows, array = _inside(array, rows, valid)
    payload, begins, ends, marks = _values(kind, array)
    if rows is None:
        return FeatureColumn(name, kind, payload, begins, ends, valid)
    if kind == "bytes":
        payload, marks = frame(payload, begins, ends)
    return FeatureColumn(name, kind, payload, marks[rows[:-1]], marks[rows[1:]], valid, framed=kind == "bytes")


def _validity(array: Any) -> NDArray[np.bool_] | None:
    if not array.null_count:
        return None
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _inside(array: Any, rows: Marks | None, valid: NDArray[np.bool_] | None) -> tuple[Marks, Any]:
    """Of an array of lists the values, and of each row where its values begin among them."""
    if pa.types.is_fixed_size_list(array.type):
        marks = (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * array.type.list_size
    else:
        marks = array.offsets.to_numpy().astype(np.int64)
    rows = marks if rows is None else marks[rows]
    values = array.values
    if values.null_count:
        empty = np.flatnonzero(~_validity(values))  # type: ignore[operator]
        empty = empty[(empty >= rows[0]) & (empty < rows[-1])]
        row = np.searchsorted(rows, empty, side="right") - 1
        row = row if valid is None else row[valid[row]]
        if row.size:
            raise DataError(f"row {row[0]} has a list with a null in it, which has no place in a tf.Example")
    return rows, values


def _values(kind: str, array: Any) -> tuple[bytes, Marks, Marks, Marks]:
    """The values packed, where each begins and ends, and (not for dictionaries) both as marks [n + 1]."""
    if kind == "bytes":
        return _bytes(array)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kind == "float":
        payload, marks = _floats(array)
    else:
        payload, marks = varints(_int64s(array))
    return payload, marks[:-1], marks[1:], marks


def _bytes(array: Any) -> tuple[bytes, Marks, Marks, Marks]:
    if pa.types.is_dictionary(array.type):
        payload, begins, ends, marks = _bytes(array.dictionary)
        if not len(begins):  # nulls alone
            begins = ends = np.zeros(1, np.int64)
        which = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return payload, begins[which], ends[which], marks
    array = array.cast(pa.large_binary())
    _, offsets, data = array.buffers()
    marks = np.zeros(1, np.int64)
    if offsets is not None:
        marks = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    first = int(marks[0])
    marks = marks - first
    payload = data.slice(first, int(marks[-1])).to_pybytes() if data is not None else b""
    return payload, marks[:-1], marks[1:], marks


def _floats(array: Any) -> tuple[bytes, Marks]:
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if kind_of(array.type) == "int64":
        wide: NDArray[Any] = _int64s(array)
    else:
        wide = array.fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = wide.astype("<f4")
    over = np.flatnonzero(np.isinf(values) & np.isfinite(wide))
    if over.size:
        raise DataError(f"row {over[0]}: {wide[over[0]]} does not fit in 32 bits")
    return values.tobytes(), np.arange(len(values) + 1, dtype=np.int64) * 4


def _int64s(array: Any) -> NDArray[np.int64]:
    types = pa.types
    if types.is_date(array.type):
        array = array.cast(pa.date32()).cast(pa.int32())
    elif types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
    elif types.is_time(array.type):
        array = array.cast(pa.time64("us"), safe=False).cast(pa.int64())
    elif types.is_duration(array.type):
        array = array.cast(pa.duration("us"), safe=False).cast(pa.int64())
    numbers: NDArray[np.int64] = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers
