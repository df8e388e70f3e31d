"""tf.train.Example without TensorFlow: encoding values, and showing records, where only the launcher is installed.

The bytes are those of TensorFlow's own messages (tf_example.proto says how).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray

from edl_allreduce.errors import DataError
from edl_allreduce.tf_example_pb2 import Example, Feature

Value: TypeAlias = NDArray[Any] | Sequence[Any] | bytes | str | int | float | np.generic

_INT64_MAX = int(np.iinfo(np.int64).max)
_FLOAT_MAX = float(np.finfo(np.float32).max)


def example_bytes(features: Mapping[str, Value]) -> bytes:
    """A serialized tf.train.Example; the same features always give the same bytes.

    Args:
        features: for each name a value or many. Whole numbers and booleans become an int64 list, other numbers a float
            list (32 bits), bytes and strings (as UTF-8) a bytes list. Arrays of any shape are flattened in C order; an
            empty array gives an empty list of its kind.

    Raises:
        DataError: a value is of another kind, kinds are mixed in one feature, or a number exceeds 64 or 32 bits.
    """
    example = Example()
    made = example.features.feature
    name = ""
    try:
        for name, value in features.items():
            _fill(made[name], value)
        return example.SerializeToString(deterministic=True)
    except (TypeError, ValueError, ArithmeticError, EncodeError) as error:
        raise DataError(f"feature {name!r}: {error}") from None


def _fill(feature: Feature, value: Value) -> None:
    if type(value) is float and (abs(value) <= _FLOAT_MAX or not math.isfinite(value)):
        feature.float_list.value.append(value)
    elif type(value) is int:
        feature.int64_list.value.append(value)
    elif isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    elif isinstance(value, str):
        feature.bytes_list.value.append(value.encode())
    elif isinstance(value, np.ndarray):
        _fill_array(feature, value)
    else:
        _fill_array(feature, _as_array(value))


def _as_array(value: Value) -> NDArray[Any]:
    if isinstance(value, (list, tuple)) and any(isinstance(each, (bytes, str)) for each in value):
        made = np.empty(len(value), object)  # numpy's own type for bytes would drop zeros at their ends
        made[:] = value
        return made
    return np.asarray(value)


def _fill_array(feature: Feature, values: NDArray[Any]) -> None:
    kind = values.dtype.kind
    if kind in "iub":
        if kind == "u" and values.size and int(values.max()) > _INT64_MAX:
            raise ValueError(f"{int(values.max())} does not fit in 64 bits with a sign")
        feature.int64_list.SetInParent()
        feature.int64_list.value.extend(values.ravel().astype(np.int64, copy=False).tolist())
    elif kind == "f":
        feature.float_list.SetInParent()
        with np.errstate(over="raise"):
            feature.float_list.value.extend(values.ravel().astype(np.float32, copy=False).tolist())
    elif kind in "SUO":
        feature.bytes_list.SetInParent()
        feature.bytes_list.value.extend(_encoded(each) for each in values.ravel().tolist())
    else:
        raise TypeError(f"a tf.Example cannot hold values of type {values.dtype}; convert them to numbers or bytes")


def _encoded(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"expected only bytes and strings, got also {value!r}")


def read_example(record: bytes) -> dict[str, list[Any]] | None:
    """The features of a serialized tf.train.Example, by name in alphabetical order; None when `record` is not one.

    A record is taken for an Example when it parses, has at least one feature and nothing that an Example does not have.
    """
    example = Example()
    try:
        example.ParseFromString(record)
    except DecodeError:
        return None
    if not example.features.feature:
        return None
    known = Example()
    known.CopyFrom(example)
    known.DiscardUnknownFields()
    if known.ByteSize() != example.ByteSize():
        return None
    features = example.features.feature
    return {name: _values(features[name]) for name in sorted(features)}


def _values(feature: Feature) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def example_json(record: bytes) -> dict[str, list[Any]] | None:
    """`read_example` with values that JSON can hold.

    Bytes are shown as text where they are UTF-8, else as {"base64": …}; floats with the fewest digits that name the
    same 32-bit number; what JSON lacks as "nan", "inf" or "-inf".
    """
    features = read_example(record)
    return features and {name: [_shown(each) for each in values] for name, values in features.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else str(value)
    return readable(value) if isinstance(value, bytes) else value


def readable(value: bytes) -> str | dict[str, str]:
    """Bytes as text where that loses nothing and shows no control signs, else as {"base64": …}."""
    import base64

    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.replace("\n", "").replace("\t", "").isprintable() and text.encode() == value:
        return text
    return {"base64": base64.b64encode(value).decode()}
