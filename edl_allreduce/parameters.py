"""Keeps a model's parameters in safetensors files, so that they are bit-exact, and reading them runs no code.

The format is https://github.com/huggingface/safetensors; names are Keras's variable paths. Keras numbers unnamed layers
by process ("dense_3"), so a model made again may have other numbers: parameters are matched by their order, which the
code of the model determines, and names are compared without numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edl_allreduce.errors import DataError, ModelError

ORDER = "order"
"""The metadata entry with the names, as a JSON list in the model's order (the format itself keeps none)."""

BLOCK_BYTES = 4 << 20

_NUMBER = re.compile(r"_\d+(?=[_/]|$)")
_TYPES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


class Sink(Protocol):
    """What `write` writes to."""

    def write(self, data: memoryview, /) -> object:
        """Takes all of `data`."""


def save(variables: Sequence[Any], path: str) -> None:
    """Writes the variables (with `path`, `dtype` and `numpy()`, as Keras's) to a local file.

    Raises:
        ModelError: a variable holds something else than numbers.
        OSError: the file cannot be written.
    """
    names = unique([str(variable.path) for variable in variables])
    with open(path, "wb") as out:
        write(names, [np.asarray(variable.numpy()) for variable in variables], out)


def write(names: Sequence[str], arrays: Sequence[Any], out: Sink) -> None:
    """Writes arrays as a safetensors file: the header's length (8 bytes, little-endian), the header (JSON), the data.

    Unlike the safetensors library's own function, this one copies nothing: each array goes out in blocks straight from
    its memory, and Python's lock is free while a block is written.

    Args:
        names: each only once.
        arrays: NumPy arrays, or what `np.asarray` makes one of without a copy: TensorFlow's tensors on the CPU.

    Raises:
        ModelError: an array holds something else than numbers.
    """
    views = [np.ascontiguousarray(array) for array in arrays]
    header: dict[str, Any] = {"__metadata__": {ORDER: json.dumps(list(names))}}
    end = 0
    for name, array, view in zip(names, arrays, views, strict=True):
        if view.dtype.name not in _TYPES or view.dtype.byteorder == ">":
            raise ModelError(f"the variable {name} is of type {view.dtype}: only {', '.join(_TYPES)} can be stored")
        begin, end = end, end + view.nbytes
        header[name] = {"dtype": _TYPES[view.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(memoryview(len(text).to_bytes(8, "little") + text))
    for view in views:
        for block in _blocks(view):
            out.write(block)


def _blocks(array: npt.NDArray[Any]) -> Iterator[memoryview]:
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


def restore(variables: Sequence[Any], path: str, shown: str) -> None:
    """Assigns what `save` wrote to the variables of the same model; to none of them unless all fit.

    Args:
        variables: in the model's order.
        path: a local file.
        shown: what to call the file in an error.

    Raises:
        DataError: the file is damaged.
        ModelError: a parameter's name, shape or type is not the variable's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = json.loads((file.metadata() or {})[ORDER])
            _check_count(names, variables, shown)
            arrays = [file.get_tensor(name) for name in names]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{shown}: not a file of parameters that edl_allreduce wrote: {error}") from error
    for name, array, variable in zip(names, arrays, variables, strict=True):
        _check_fits(name, array, variable, shown)
    for array, variable in zip(arrays, variables, strict=True):
        variable.assign(array)


def unique(names: Sequence[str]) -> list[str]:
    """The names, repeated ones with #2, #3, … added."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _check_count(names: Sequence[str], variables: Sequence[Any], shown: str) -> None:
    if len(names) != len(variables):
        theirs = {_plain(name) for name in names}
        ours = {_plain(str(variable.path)) for variable in variables}
        differing = sorted(theirs ^ ours)[:3]
        example = f" (only one of them has {', '.join(differing)})" if differing else ""
        raise ModelError(f"{shown}: has {len(names)} parameters, the model's code makes {len(variables)}{example}")


def _check_fits(name: str, array: Any, variable: Any, shown: str) -> None:
    any_length = len(array.shape) == len(variable.shape) and None in variable.shape
    shape = array.shape if any_length else tuple(variable.shape)
    stored, made = (array.shape, str(array.dtype)), (shape, str(variable.dtype))
    if _plain(name) != _plain(str(variable.path)):
        raise ModelError(f"{shown}: has {name} where the model's code makes {variable.path}")
    if stored != made:
        raise ModelError(f"{shown}: {name} is {_spoken(*stored)}, the model's code makes it {_spoken(*made)}")


def _plain(name: str) -> str:
    return _NUMBER.sub("", name.partition("#")[0])


def _spoken(shape: Sequence[int], dtype: str) -> str:
    return f"{dtype} {list(shape)}"
